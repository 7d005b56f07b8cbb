"""Model families and a prompt: small random models that decode in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.6,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
HEAD: dict[str, Any] = {"head_dim": 8}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2: dict[str, Any] = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
ENDS: dict[str, Any] = {"initializer_range": 0.6, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
FALCON = {k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "intermediate_size")}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SMALL),
    "mistral-sliding": ("Mistral", {**SMALL, **HEAD, "sliding_window": 8}),
    "qwen2": ("Qwen2", SMALL),
    "qwen2-sliding": ("Qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SMALL, **HEAD}),
    "qwen3-moe": ("Qwen3Moe", {**SMALL, **HEAD, **EXPERTS}),
    "gemma": ("Gemma", {**SMALL, **HEAD}),
    "gemma2": ("Gemma2", {**SMALL, **HEAD, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", {**SMALL, **HEAD, "num_hidden_layers": 6, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "phi": ("Phi", SMALL),
    "phi3": ("Phi3", SMALL),
    "gpt2": ("GPT2", {**GPT2, **ENDS}),
    "gptj": ("GPTJ", {**GPT2, **ENDS, "rotary_dim": 4}),
    "gpt-neox": ("GPTNeoX", SMALL),
    "opt": ("OPT", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon": ("Falcon", FALCON),
    "falcon-alibi": ("Falcon", {**FALCON, "alibi": True}),
    "bloom": ("Bloom", {"vocab_size": 40, "hidden_size": 32, "n_layer": 2, "n_head": 4, **ENDS}),
    "mpt": (
        "Mpt",
        {"vocab_size": 40, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "use_cache": True, **ENDS},
    ),
    "stablelm": ("StableLm", SMALL),
    "starcoder2": ("Starcoder2", SMALL),
    "mixtral": ("Mixtral", {**SMALL, "num_local_experts": 4}),
    "cohere": ("Cohere", SMALL),
    "cohere2": ("Cohere2", {**SMALL, "num_hidden_layers": 4, "sliding_window": 8}),
    "olmo2": ("Olmo2", SMALL),
    "smollm3": ("SmolLM3", {**SMALL, "no_rope_layers": [1, 0]}),
    "granite": ("Granite", SMALL),
}


# Their positions follow from the order of the tokens.
CHAINS_ONLY = ("falcon-alibi", "bloom", "mpt")

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])


# Decoded plainly, or refused.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt": ("OpenAIGPT", {**GPT2, "eos_token_id": 39, "pad_token_id": 0}),
}


def build(family: str, **changes: Any) -> Any:
    prefix, options = FAMILIES.get(family) or REFUSED[family]
    config_class = getattr(tf, "Gemma3TextConfig" if family == "gemma3" else f"{prefix}Config")
    config = config_class(**{**options, **changes})
    torch.manual_seed(0)
    return tf.AutoModelForCausalLM.from_config(config).eval()
