"""Attention of a few tokens.

On a CPU a kernel of ours gives each query the bits that it has alone. Elsewhere the library repeats keys
and values for every query head that shares them, and so copies the whole cache in every layer of every step. A few
tokens' queries can stand one below the other instead, those of all heads that share a key/value head: then nothing is
copied, and the cache is read once.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from aded.engines.transformers.compat import code_of
from aded.engines.transformers.patches import RefCountedPatch
from aded.engines.transformers.recurrent import takes_chains_only
from aded.errors import UnsupportedError
from aded.kernels import attention
from aded.kernels.openmp import Parallel, UnavailableError

_NAME = "aded_grouped_sdpa"
_OPTIONS = {"softcap", "position_bias", "cache", "s_aux"}  # that change what is computed
CHUNKED = "chunked_attention"  # the kind of layer in which a position sees its own chunk of the text
_EXACT = (torch.bfloat16, torch.float32)  # data types of our kernel
_MOST = 256  # queries of a group to stack; with more, repeating the mask for each head costs more than it saves


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as the library's "sdpa" computes it: (rows, heads, tokens, size) -> (rows, tokens, heads, size)."""
    special = dropout > 0 or any(kwargs.get(name) is not None for name in _OPTIONS)
    if not torch.compiler.is_compiling():
        if _PASS.verifies and not special and query.dtype in _EXACT:
            exact = exact_attention(query, key, value, attention_mask, scaling)
            if exact is not None:
                _PASS.exact += 1
                return exact, None
        _PASS.others += 1
        if query.dtype == torch.bfloat16 and query.device.type == "cpu":
            plain = module, query, key, value, attention_mask, dropout, scaling
            return sdpa_attention_forward(*plain, **kwargs)
    groups = getattr(module, "num_key_value_groups", 1)
    rows, heads, tokens, size = query.shape
    special |= attention_mask is None and tokens > 1  # a prompt: its causal mask is left to the kernel
    special |= attention_mask is not None and (attention_mask.ndim != 4 or attention_mask.shape[1] != 1)
    many = groups * tokens > _MOST
    # On a GPU many queries are left to the library: there, masks and shared heads together have no fast kernel.
    special |= many and query.device.type != "cpu"
    if special or groups == 1 or heads != groups * key.shape[1]:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    attend = torch.nn.functional.scaled_dot_product_attention
    if many:
        out = attend(query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None
    stacked = query.reshape(rows, key.shape[1], groups * tokens, size)
    mask = None if attention_mask is None else attention_mask.repeat(1, 1, groups, 1)
    out = attend(stacked, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None


@cache
def _kernel() -> Parallel | None:
    """Our kernel; None where it cannot run."""
    with suppress(UnavailableError):
        return Parallel(attention.share, 24)
    return None


@cache
def _order() -> int:
    """The order of summing in which our kernel gives the library's bits on this processor, of those that it knows.

    The library says how wide its vectors are; keys and values that cancel show the last bits of its other sums. Where
    no order is the library's, any will do: then only what is the same at every width is promised.
    """
    known: tuple[int, ...] = (attention.FOURS, attention.PAIRS)
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        known = (attention.EIGHTS,)
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 8, n, 64, generator=random) for n in (1, 45, 45))
    query[..., 32:], key[..., 32:] = query[..., :32], -key[..., :32]
    value[:, :, 22:44] = -value[:, :, :22]
    inputs = query.bfloat16(), key.bfloat16(), value.bfloat16()
    found: dict[int, bool] = {}
    for scale in (1e-3, 1e6):  # all keys weigh alike; only the last bits of their scores tell them apart
        stock = torch.nn.functional.scaled_dot_product_attention(*inputs, scale=scale).transpose(1, 2)
        for order in known:
            ours = exact_attention(*inputs, None, scale, order)
            found[order] = found.get(order, True) and ours is not None and torch.equal(ours, stock)
    return next((order for order, agrees in found.items() if agrees), known[0])


class _Pass(threading.local):
    """What one thread's forward pass is, and what its queries see of the masks it was given.

    Attributes:
        verifies: whether it verifies drafts, so that attention is ours.
        seen: by mask, what the kernel is told of it (None where the mask is not for it), with all that must live as
            long. Layers ask for the same masks, which are kept alive, so that no other has their address meanwhile.
        exact, others: how many times attention was ours and the library's, since `counted_attention` was asked.
    """

    verifies = False
    exact = others = 0

    def __init__(self) -> None:
        self.seen: dict[tuple[Any, ...], tuple[tuple[int, ...] | None, Any]] = {}


_PASS = _Pass()


def counted_attention() -> tuple[int, int]:
    """How many times attention was our kernel's, and how many times not, in this thread since this was last asked."""
    counted = _PASS.exact, _PASS.others
    _PASS.exact = _PASS.others = 0
    return counted


def new_pass() -> None:
    """Forget what the last pass of this thread saw: its masks may be written anew."""
    _PASS.seen.clear()


def _visible(mask: torch.Tensor | None, rows: int, tokens: int, keys: int) -> tuple[int, ...] | None:
    """The addresses of what the kernel's `visible` returns, and how many others there are; None for other masks."""
    of = () if mask is None else (mask.data_ptr(), mask.dtype, mask.shape, mask.stride())
    name = rows, tokens, keys, *of
    if (known := _PASS.seen.get(name)) is not None:
        return known[0]
    if mask is None:
        arrays = np.array([[0, keys]] * rows, np.int64), np.full((rows, 1), keys), np.zeros((rows, 1, 1), np.int64)
    else:
        seen = mask if mask.dtype == torch.bool else mask == 0
        if mask.dtype != torch.bool and not (seen | (mask <= torch.finfo(mask.dtype).min)).all():
            _PASS.seen[name] = None, mask  # it adds to scores
            return None
        shown = seen[:, 0, :, :keys].expand(rows, tokens, keys).numpy()
        arrays = attention.visible(np.ascontiguousarray(shown))
    addresses = *(array.ctypes.data for array in arrays), arrays[2].shape[-1]
    _PASS.seen[name] = addresses, (mask, arrays)
    return addresses


@lru_cache(maxsize=64)
def _bits(scale: float) -> int:
    return int(np.float32(scale).view(np.int32))


def exact_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    order: int | None = None,
) -> torch.Tensor | None:
    """The same in our kernel, bfloat16 or float32 on a CPU; None where that does not hold for it.

    Args:
        order: of summing in bfloat16; None for the library's on this processor.
    """
    rows, heads, tokens, size = query.shape
    shared, keys = key.shape[1:3]
    alike = type(query) is type(key) is type(value) is torch.Tensor and query.dtype == key.dtype == value.dtype
    alike = alike and key.shape == value.shape == (rows, shared, keys, size)  # else the library may repeat rows
    if not alike or size % 16 or heads % shared or key.device.type != "cpu":
        return None
    if mask is None:
        if tokens > 1:
            return None
    elif mask.ndim != 4 or mask.shape[1] > 1 or mask.shape[3] < keys or mask.dtype not in (torch.bool, query.dtype):
        return None
    run, seen = _kernel(), _visible(mask, rows, tokens, keys)
    if run is None or seen is None:
        return None
    if not query.stride(-1) == key.stride(-1) == value.stride(-1) == 1:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    out = query.new_empty(rows, tokens, heads, size)
    shape = rows, heads, shared, tokens, size, _bits(size**-0.5 if scaling is None else scaling)
    places = query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()
    q, k, v = query.stride(), key.stride(), value.stride()
    size = query.element_size()
    strides = (size * stride for stride in (*q[:3], *k[:3], *v[:3]))
    if query.dtype == torch.float32:
        order = attention.FLOATS
    run(torch.get_num_threads(), *shape, *places, *strides, *seen, _order() if order is None else order)
    return out


@contextmanager
def library_attention() -> Iterator[None]:
    """Within it, and in this thread, attention is the library's: so prompts are taken in."""
    with _verifying(False):
        yield


@contextmanager
def _verifying(verifies: bool) -> Iterator[None]:
    before, _PASS.verifies = _PASS.verifies, verifies
    try:
        yield
    finally:
        _PASS.verifies = before
        new_pass()


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


_PATCH = RefCountedPatch()


def implementation(model: Any) -> str:
    """Which attention a model was given, also within `grouped_attention`."""
    name: str = model.config.get_text_config(decoder=True)._attn_implementation
    return "sdpa" if name == _NAME else name


@cache
def _asks_for_its_name(module: str) -> bool:
    """Whether the code of a module chooses by the name of the attention; where the code cannot be read, it may."""
    code = code_of(module)
    return code is None or re.search(r"_attn_implementation (==|!=|in|not in) ", code) is not None


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """Within it the model's layers attend as above where the library's "sdpa" was set.

    Not in a model whose code asks for that name, and does something else under another.
    """
    layers = [layer for layer in model.modules() if hasattr(layer, "num_key_value_groups")]
    if any(_asks_for_its_name(type(layer).__module__) for layer in layers):
        layers = []
    found = {id(config): config for layer in layers if (config := getattr(layer, "config", None)) is not None}
    configs = [config for config in found.values() if config._attn_implementation in ("sdpa", _NAME)]

    def name(chosen: str) -> None:
        for config in configs:
            config._attn_implementation_internal = chosen

    with _PATCH.to(model, partial(name, _NAME), partial(name, "sdpa")), _verifying(True):
        yield


def attention_windows(model: Any) -> dict[str, int | None]:
    """The kinds of attention layer a model has, and how many positions each sees (None: all)."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    sizes = {"full_attention": None, "sliding_attention": window}
    sizes[CHUNKED] = getattr(config, "attention_chunk_size", None)
    kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
    if takes_chains_only(model):  # without a mask
        kinds &= set(sizes)
    if other := ", ".join(sorted(kinds - set(sizes))):
        raise UnsupportedError(f"layers of kind {other} cannot verify drafts; decode it without ADED")
    return {kind: sizes[kind] for kind in sorted(kinds)}


def verifies_trees(model: Any) -> bool:
    """Whether siblings can share a forward pass: positions and a 4D mask are inputs, not derived from the order.

    Models with ALiBi derive positions from the order of entries, and flash attention takes no 4D mask: they verify
    chains. What `depths` puts right, by itself, is not asked here.
    """
    if not takes_masks(model) or model.config.is_encoder_decoder:
        return False
    config = model.config.get_text_config(decoder=True)
    alibi = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
    return not alibi and {"position_ids", "attention_mask"} <= set(inspect.signature(model.forward).parameters)


def takes_masks(model: Any) -> bool:
    """Whether what a token attends to is for its mask to say, which may be 4D."""
    return not takes_chains_only(model) and implementation(model) in ("eager", "sdpa")
