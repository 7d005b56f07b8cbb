"""Tiny random GGUF files with the embedded model's tokenizer: what llama.cpp does with each architecture."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from aded.engines.base.loaded import embedded_file

WIDTH, HEADS, HEAD, INNER = 64, 4, 16, 128
VOCABULARY = 1024  # the tokenizer's first tokens
IDS = list(range(100, 124))  # a prompt for them


@cache
def _tokenizer() -> list[Any]:
    """What a file says of the tokenizer: names, values and their types. The embedded model's takes seconds to read."""
    fields = {name: x for name, x in GGUFReader(embedded_file()).fields.items() if name.startswith("tokenizer.")}
    # Tokens stand in the order of the merges that make them, behind special ones and bytes.
    ahead = len(fields["tokenizer.ggml.tokens"].data) - len(fields["tokenizer.ggml.merges"].data)
    found: list[Any] = []
    for name, field in fields.items():
        if field.types[0] == GGUFValueType.ARRAY:
            count = VOCABULARY - ahead * name.endswith("merges")
            found.append((name, field.contents(slice(count)), field.types[0], field.types[-1]))
        else:
            found.append((name, field.contents(), field.types[0]))
    return found


class _File:
    """A GGUF file of random float32 tensors, drawn in order from one seed."""

    def __init__(self, file: Path, architecture: str, layers: int) -> None:
        self.writer = GGUFWriter(file, architecture)
        self._random = np.random.default_rng(0)
        for name, value, *kinds in _tokenizer():
            self.writer.add_key_value(name, value, *kinds)
        self.writer.add_block_count(layers)
        self.writer.add_context_length(4096)
        self.writer.add_embedding_length(WIDTH)
        self.writer.add_head_count(HEADS)
        self.writer.add_layer_norm_rms_eps(1e-5)
        self.writer.add_vocab_size(VOCABULARY)

    def tensor(self, name: str, *shape: int, scale: float | None = None) -> None:
        """Random numbers (rows, inputs), such that outputs are about as large as inputs; a vector is about 1."""
        values: NDArray[np.float32] = self._random.normal(0, 1, shape).astype(np.float32)
        if scale is None:
            values = 1 + values / 10 if len(shape) == 1 else values * (2 / shape[-1]) ** 0.5
        else:
            values *= scale
        self.writer.add_tensor(name, values.astype(np.float32), raw_dtype=GGMLQuantizationType.F32)

    def close(self) -> None:
        self.tensor("token_embd.weight", VOCABULARY, WIDTH, scale=1.0)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def _attention(file: _File, layer: int, *, kv_heads: int = 2) -> None:
    for name, rows in (("q", HEADS * HEAD), ("k", kv_heads * HEAD), ("v", kv_heads * HEAD), ("output", WIDTH)):
        inputs = HEADS * HEAD if name == "output" else WIDTH
        # Sharp attention: else a random model says one token over and over.
        file.tensor(f"blk.{layer}.attn_{name}.weight", rows, inputs, scale=0.5 if name in "qk" else None)


def _feed_forward(file: _File, layer: int) -> None:
    file.tensor(f"blk.{layer}.ffn_norm.weight", WIDTH)
    for name in ("gate", "up"):
        file.tensor(f"blk.{layer}.ffn_{name}.weight", INNER, WIDTH)
    file.tensor(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)


def llama_file(file: Path, layers: int = 2) -> str:
    """A Llama; returns the path as `llama_cpp.Llama` takes it."""
    made = _File(file, "llama", layers)
    made.writer.add_feed_forward_length(INNER)
    made.writer.add_head_count_kv(2)
    made.writer.add_rope_dimension_count(HEAD)
    made.writer.add_rope_freq_base(10_000.0)
    made.tensor("output_norm.weight", WIDTH)
    for layer in range(layers):
        made.tensor(f"blk.{layer}.attn_norm.weight", WIDTH)
        _attention(made, layer)
        _feed_forward(made, layer)
    made.close()
    return str(file)


def lfm2_file(file: Path, layers: int = 4) -> str:
    """An LFM2: layers with a short convolution, whose last inputs are its state, and layers of attention."""
    made = _File(file, "lfm2", layers)
    heads = [0 if layer % 2 == 0 else 2 for layer in range(layers)]  # none in layers with a convolution
    made.writer.add_feed_forward_length(INNER)
    made.writer.add_head_count_kv(heads)
    made.writer.add_rope_freq_base(10_000.0)
    made.writer.add_shortconv_l_cache(3)
    made.tensor("token_embd_norm.weight", WIDTH)
    for layer, kv_heads in enumerate(heads):
        made.tensor(f"blk.{layer}.attn_norm.weight", WIDTH)
        if kv_heads:
            _attention(made, layer)
            for name in ("q", "k"):
                made.tensor(f"blk.{layer}.attn_{name}_norm.weight", HEAD)
        else:
            made.tensor(f"blk.{layer}.shortconv.conv.weight", WIDTH, 3, scale=0.5)
            made.tensor(f"blk.{layer}.shortconv.in_proj.weight", 3 * WIDTH, WIDTH)
            made.tensor(f"blk.{layer}.shortconv.out_proj.weight", WIDTH, WIDTH)
        _feed_forward(made, layer)
    made.close()
    return str(file)


def granite_hybrid_file(file: Path, layers: int = 4) -> str:
    """A Granite hybrid: Mamba-2 layers, which keep a state, and layers of attention."""
    made = _File(file, "granitehybrid", layers)
    heads = [0 if layer % 2 == 0 else 2 for layer in range(layers)]
    inner, state, groups, count = 2 * WIDTH, 16, 1, 8
    settings: dict[str, Any] = {
        "feed_forward_length": INNER,
        "head_count_kv": heads,
        "ssm_conv_kernel": 4,
        "ssm_inner_size": inner,
        "ssm_state_size": state,
        "ssm_group_count": groups,
        "ssm_time_step_rank": count,
        "rope_dimension_count": HEAD,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "logit_scale": 1.0,
        "attention_scale": HEAD**-0.5,
    }
    for name, value in settings.items():
        getattr(made.writer, f"add_{name}")(value)
    made.tensor("output_norm.weight", WIDTH)
    for layer, kv_heads in enumerate(heads):
        made.tensor(f"blk.{layer}.attn_norm.weight", WIDTH)
        if kv_heads:
            _attention(made, layer)
        else:
            mixed = inner + 2 * groups * state
            made.tensor(f"blk.{layer}.ssm_in.weight", inner + mixed + count, WIDTH)
            made.tensor(f"blk.{layer}.ssm_conv1d.weight", mixed, 4, scale=0.5)
            made.tensor(f"blk.{layer}.ssm_conv1d.bias", mixed)
            made.tensor(f"blk.{layer}.ssm_dt.bias", count, scale=1.0)
            made.writer.add_tensor(f"blk.{layer}.ssm_a", -np.linspace(0.1, 2, count, dtype=np.float32)[:, None])
            made.tensor(f"blk.{layer}.ssm_d", count, 1, scale=1.0)
            made.tensor(f"blk.{layer}.ssm_norm.weight", groups, inner // groups, scale=1.0)
            made.tensor(f"blk.{layer}.ssm_out.weight", WIDTH, inner)
        _feed_forward(made, layer)
    made.close()
    return str(file)


def quantized(file: str) -> str:
    """The same model in 4 bits (Q4_1), whose products of several tokens round as those of one."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1
    made = file.removesuffix(".gguf") + "-q4_1.gguf"
    assert llama_cpp.llama_model_quantize(file.encode(), made.encode(), ctypes.byref(options)) == 0
    return made


def said(llama: Any, count: int, ids: list[int] = IDS, **options: Any) -> list[int]:
    """The first tokens after a prompt, with one seed; what is in the cache is left there."""
    llama.set_seed(7)
    tokens = llama.generate(ids, **{"temp": 0.0, **options})
    found = [next(tokens) for _ in range(count)]
    tokens.close()
    return found
