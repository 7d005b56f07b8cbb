"""Small random models that keep a state in place of entries, or have an encoder."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from aded.engines.transformers.compat import CACHE
from support.models import PROMPT, SMALL
from sweep.shrink import redrawn, small_model

# What all of them take.
PLAIN: dict[str, Any] = {name: SMALL[name] for name in SMALL if name != "max_position_embeddings"}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-next": (
        "Qwen3Next",
        {**DELTA, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "num_experts": 0},
    ),
    "granite-hybrid": (
        "GraniteMoeHybrid",
        {
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "num_local_experts": 0,
            "shared_intermediate_size": 32,
        },
    ),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
    "nemotron-h": (  # whose passes over several tokens limit the steps of a state, where those over one do not
        "NemotronH",
        {
            "layers_block_type": ["linear_attention", "full_attention"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "time_step_min": 2.0,
        },
    ),
    "jamba": (  # whose layers with a state begin it anew in passes over several tokens
        "Jamba",
        {
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
        },
    ),
    "mamba2": (
        "Mamba2",
        {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "time_step_limit": [1.0, 2.0]},
    ),
}
if CACHE != "cache":  # releases where a model of states alone is given them by another name: it is refused there
    del RECURRENT["mamba2"]


def recurrent(name: str) -> Any:
    kind, changes = RECURRENT[name]
    torch.manual_seed(0)
    return getattr(tf, f"{kind}ForCausalLM")(getattr(tf, f"{kind}Config")(**{**PLAIN, **changes})).eval()


def encoder_decoder(name: str) -> tuple[Any, dict[str, Any]]:
    """A model, and what its encoder is given."""
    if name != "whisper":
        named = {"t5": "T5", "bart": "Bart", "m2m100": "M2M100", "umt5": "UMT5", "t5gemma": "T5Gemma"}
        kind = getattr(tf, "MarianMTModel" if name == "marian" else f"{named[name]}ForConditionalGeneration")
        return small_model(kind, {"decoder_start_token_id": 1, "tie_word_embeddings": False}), {"input_ids": PROMPT}
    sizes = {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    sizes |= {f"{part}_layers": 2 for part in ("encoder", "decoder")}
    sizes |= {f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")}
    sizes |= {"vocab_size": 99, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 20}
    ends = {"decoder_start_token_id": 1, "bos_token_id": 0, "eos_token_id": 98, "pad_token_id": 0}
    config = tf.WhisperConfig(**sizes, **ends, max_target_positions=90, suppress_tokens=None)
    config.begin_suppress_tokens = None
    model = redrawn(tf.WhisperForConditionalGeneration(config)).eval()
    return model, {"input_features": torch.randn(1, 8, 40)}
