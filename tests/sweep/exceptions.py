"""What shrinking by names does not get right, by class: fields of its configuration; and classes that are left out."""

from __future__ import annotations

from typing import Any

_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}

_ROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
_GLM_ROPE: dict[str, Any] = {"rope_parameters": {**_ROPE["rope_parameters"], "mrope_section": [1, 1, 2]}}
_COMPASS: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        x: {"rope_type": "default", "rope_theta": 1e4} for x in ("sliding_attention", "full_attention")
    },
}
_OMNI: dict[str, Any] = {"vision_start_token_id": 93, "audio_start_token_id": 94}
_OMNI_3: dict[str, Any] = {**_OMNI, "audio_config": {"n_window": 50, "n_window_infer": 100}}
_OMNI_2_5: dict[str, Any] = {**_OMNI, "text_config": _ROPE, "vision_config": {"window_size": 56}}
_GEMMA4_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "patch_size": 14,
    "position_embedding_size": 64,
}
_SAM: dict[str, Any] = {"image_size": 256, "patch_size": 16, "downsample_channels": [32, 64]}
_DOTS3: dict[str, Any] = {
    "per_layer_config": {
        1: {
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "head_dim": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
        }
    }
}
_QWEN4: dict[str, Any] = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_SPEECH_CONV: dict[str, Any] = {
    "conv_dim": [32, 32],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
}
_VIBE_VOICE: dict[str, Any] = {"num_filters": 4, "downsampling_ratios": [4, 5], "depths": [1, 1, 1]}

CHANGES: dict[str, dict[str, Any]] = {
    "Apertus1p5ForConditionalGeneration": {
        "image_token_offset": 40,
        "audio_token_offset": 56,
        "vision_config": {"codebook_size": 16, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1},
        "audio_config": {"codebook_size": 16},
    },
    "AriaForConditionalGeneration": {"projector_patch_to_query_dict": {4: 4}, "image_token_index": 90},
    "BambaForCausalLM": {**_MAMBA, "attn_layer_indices": [1]},
    "Blip2ForConditionalGeneration": {"image_token_index": 90, "num_query_tokens": 4},
    "ChameleonForConditionalGeneration": {
        "vq_config": {"num_embeddings": 10},
        "vocabulary_map": {"<image>": 90, **{f"IMGIMG{x}Z": 40 + i for i, x in enumerate("ABCDEFGHIJ")}},
    },
    "CohereCompassForCausalLM": _COMPASS,
    "CohereCompassForConditionalGeneration": {"text_config": _COMPASS},
    "DbrxForCausalLM": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "DeepseekOcr2ForConditionalGeneration": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
        "vision_config": {"sam_config": _SAM},
    },
    "DeepseekV2ForCausalLM": {"topk_group": 1, "num_experts_per_tok": 2, "n_group": 1},
    "DeepseekVLHybridForConditionalGeneration": {
        "high_res_vision_config": {"image_size": 56, "global_attn_indexes": [0, 1]},
    },
    "DoryForCausalLM": {
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
    },
    "Dots1ForCausalLM": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "Dots3NoteForCausalLM": _DOTS3,
    "Dots3NoteForConditionalGeneration": {
        "vision_config": {"mlp_layer_types": ["dense", "dense"], "per_layer_config": {}},
        "audio_config": {"adapter_input_size": 64},
        "text_config": _DOTS3,
    },
    "Emu3ForConditionalGeneration": {
        "vq_config": {"codebook_size": 10, "hidden_size": 128},
        "vocabulary_map": {
            "<image>": 90,
            "<|extra_200|>": 91,
            **{f"<|visual token {i:06}|>": 40 + i for i in range(10)},
        },
    },
    "Ernie4_5_VLMoeForConditionalGeneration": {
        "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}}
    },
    "Exaone4_5_ForConditionalGeneration": {"vision_config": {"window_size": 56}},
    "FunAsrNanoForConditionalGeneration": {"adaptor_config": {"intermediate_size": 16}},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "Gemma3ForConditionalGeneration": {"mm_tokens_per_image": 4},
    "Gemma3nForCausalLM": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "hidden_size_per_layer_input": 16,
    },
    "Gemma4ForConditionalGeneration": {"vision_config": _GEMMA4_VISION},
    "Gemma4UnifiedForConditionalGeneration": {
        "vision_config": {"patch_size": 14, "mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64}
    },
    "Glm46VForConditionalGeneration": {"text_config": _ROPE},
    "Glm4vForConditionalGeneration": {"text_config": _ROPE},
    "Glm4vMoeForConditionalGeneration": {"text_config": _GLM_ROPE},
    "GlmOcrForConditionalGeneration": {"text_config": _ROPE},
    "Granite4VisionForConditionalGeneration": {
        "deepstack_layer_map": [[-1, 0]],
        "image_grid_pinpoints": [[28, 28]],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
    },
    "GraniteDoclingForConditionalGeneration": {"vision_config": {"image_size": 112}},
    "GraniteMoeHybridForCausalLM": {**_MAMBA, "layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "GraniteSpeechForConditionalGeneration": {"window_size": 15},
    "GraniteSpeechPlusForConditionalGeneration": {"window_size": 15},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 16},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 16},
    "HunYuanVLForConditionalGeneration": {
        "text_config": {
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2, 2]},
        }
    },
    "HyperCLOVAXVisionV2ForConditionalGeneration": {"vision_config": {"window_size": 56}},
    "InstructBlipForConditionalGeneration": {"image_token_index": 90, "num_query_tokens": 4},
    "InstructBlipVideoForConditionalGeneration": {"video_token_index": 90, "num_query_tokens": 4},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "Kosmos2ForConditionalGeneration": {"latent_query_num": 4},
    "Kosmos2_5ForConditionalGeneration": {"latent_query_num": 4},
    "KyutaiSpeechToTextForConditionalGeneration": {"codec_config": {"upsample_groups": 64, "codebook_size": 64}},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
    "Llama4ForCausalLM": {"attention_chunk_size": 6},
    "Llama4ForConditionalGeneration": {"vision_config": {"intermediate_size": 256}},
    "LlavaNextForConditionalGeneration": {"image_grid_pinpoints": [[28, 28]]},
    "LlavaNextVideoForConditionalGeneration": {"image_grid_pinpoints": [[28, 28]]},
    "LlavaOnevisionForConditionalGeneration": {"image_grid_pinpoints": [[28, 28]]},
    "MllamaForConditionalGeneration": {
        "text_config": {"cross_attention_layers": [1]},
        "vision_config": {"intermediate_layers_indices": [0], "vision_output_dim": 128, "num_global_layers": 1},
    },
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "MiniCPMOcrForConditionalGeneration": {"image_token_id": 90, "insert_layer_id": 1},
    "MiniCPMV4_6ForConditionalGeneration": {"image_token_id": 90, "insert_layer_id": 1},
    "MiniCPMV4_7ForConditionalGeneration": {"image_token_id": 90, "insert_layer_id": 1},
    "MinistralForCausalLM": {"head_dim": 16},
    "Molmo2ForConditionalGeneration": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "MoonshineForConditionalGeneration": {"decoder_num_key_value_heads": 4, "encoder_num_key_value_heads": 4},
    "MoonshineStreamingForConditionalGeneration": {
        "num_key_value_heads": 4,
        "encoder_config": {"sliding_windows": [[4, 2], [4, 0]]},
    },
    "MossTranscribeDiarizeForConditionalGeneration": {"audio_config": {"max_source_positions": 48}},
    "MuseGlimmerForConditionalGeneration": {"out_hidden_size": 256},
    "MuseSparkForConditionalGeneration": {
        "out_hidden_size": 256,
        "audio_config": {"patch_sizes": [4, 4], "hidden_sizes": [32, 64], "depths": [1, 1]},
    },
    "NemotronForCausalLM": {"num_key_value_heads": 2, "head_dim": 16},
    "NemotronH_Omni_Reasoning_V3": {"image_token_id": 90, "audio_token_id": 91},
    "PaddleOCRVLForConditionalGeneration": {"text_config": _ROPE},
    "Pix2StructForConditionalGeneration": {"text_config": {"use_cache": True}},
    "Qwen2VLForConditionalGeneration": {"text_config": _ROPE},
    "Qwen2_5OmniThinkerForConditionalGeneration": _OMNI_2_5,
    "Qwen2_5_VLForConditionalGeneration": {"text_config": _ROPE, "vision_config": {"window_size": 56}},
    "Qwen3ASRForConditionalGeneration": {"audio_config": {"n_window": 50, "n_window_infer": 100}},
    "Qwen3OmniMoeForConditionalGeneration": {"enable_audio_output": False, "thinker_config": _OMNI_3},
    "Qwen3OmniMoeThinkerForConditionalGeneration": _OMNI_3,
    "Qwen4ExpForCausalLM": _QWEN4,
    "Qwen4ExpForConditionalGeneration": {"text_config": _QWEN4},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "attention_window_size": 64},
    "ReformerModelWithLMHead": {"is_decoder": True, "axial_pos_embds_dim": [32, 32]},
    "SpeechEncoderDecoderModel": {"encoder": _SPEECH_CONV},
    "SpeechT5ForSpeechToText": _SPEECH_CONV,
    "Step3p7ForConditionalGeneration": {"text_config": {"sliding_window": 6}},
    "T5ForConditionalGeneration": {"decoder_start_token_id": 0},
    "T5Gemma2ForConditionalGeneration": {"encoder": {"mm_tokens_per_image": 4}},
    "UnlimitedOcrForConditionalGeneration": {"vision_config": {"sam_config": _SAM}},
    "VibeVoiceAsrForConditionalGeneration": {
        "acoustic_tokenizer_encoder_config": _VIBE_VOICE,
        "semantic_tokenizer_encoder_config": _VIBE_VOICE,
    },
    "VipLlavaForConditionalGeneration": {"vision_feature_layers": [-1, -2]},
    "VoxtralForConditionalGeneration": {"audio_token_id": 90},
    "XmodForCausalLM": {"default_language": "en_XX", "is_decoder": True},
    "Zamba2ForCausalLM": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "mamba", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
    },
    "ZambaForCausalLM": {
        "num_hidden_layers": 5,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "xLSTMForCausalLM": {"hidden_size": 128, "embedding_dim": 128},  # its cache holds keys of a multiple of 64
}

# Classes that are not swept, and why.
LEFT_OUT: dict[str, str] = {
    "BltForCausalLM": "its smallest model has 200 million weights",
    "DiaForConditionalGeneration": "it makes sound",
    "Gemma4AssistantForCausalLM": "it drafts for Gemma 4, from its hidden states",
    "Gemma4UnifiedAssistantForCausalLM": "it drafts for Gemma 4, from its hidden states",
    "MusicgenForCausalLM": "it makes sound",
    "MusicgenMelodyForCausalLM": "it makes sound",
    "Pop2PianoForConditionalGeneration": "it makes notes",
    "Qwen2_5OmniForConditionalGeneration": "it needs a file of voices; what writes its text is swept as its thinker",
    "VibeVoiceForConditionalGeneration": "it makes sound",
}
