"""What shrinking by names does not get right, by class: fields of its configuration; and classes that are left out."""

from __future__ import annotations

from typing import Any

_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}

_ROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
_GLM_ROPE: dict[str, Any] = {"rope_parameters": {**_ROPE["rope_parameters"], "mrope_section": [1, 1, 2]}}

CHANGES: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {**_MAMBA, "attn_layer_indices": [1]},
    "CohereCompassForCausalLM": {"sliding_window_pattern": 2},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "Gemma3nForCausalLM": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "hidden_size_per_layer_input": 16,
    },
    "GraniteMoeHybridForCausalLM": {**_MAMBA, "layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 16},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 16},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "Llama4ForCausalLM": {"attention_chunk_size": 6},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "MinistralForCausalLM": {"head_dim": 16},
    "NemotronForCausalLM": {"num_key_value_heads": 2, "head_dim": 16},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "attention_window_size": 64},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "T5ForConditionalGeneration": {"decoder_start_token_id": 0},
    "XmodForCausalLM": {"default_language": "en_XX", "is_decoder": True},
    "Zamba2ForCausalLM": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "mamba", "hybrid"],
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
    },
    "Qwen2VLForConditionalGeneration": {"text_config": _ROPE},
    "Qwen2_5_VLForConditionalGeneration": {"text_config": _ROPE},
    "PaddleOCRVLForConditionalGeneration": {"text_config": _ROPE},
    "Glm4vForConditionalGeneration": {"text_config": _ROPE},
    "Glm46VForConditionalGeneration": {"text_config": _ROPE},
    "GlmOcrForConditionalGeneration": {"text_config": _ROPE},
    "Glm4vMoeForConditionalGeneration": {"text_config": _GLM_ROPE},
    "DeepseekV2ForCausalLM": {"topk_group": 1, "num_experts_per_tok": 2, "n_group": 1},
    "CohereCompassForConditionalGeneration": {"text_config": {"sliding_window_pattern": 2}},
    "ZambaForCausalLM": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "mamba", "hybrid"]},
}

# Classes that are not swept, and why.
LEFT_OUT: dict[str, str] = {
    "BltForCausalLM": "its smallest model has 200 million weights",
    "VibeVoiceForConditionalGeneration": "it makes sound",
}
