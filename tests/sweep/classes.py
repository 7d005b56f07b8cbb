"""The generative classes of transformers, and those that a quick sweep takes."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.generation import GenerationMixin
from transformers.models.auto import modeling_auto

_TASKS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ", "MULTIMODAL_LM")

# One of each kind of attention, position, cache and activation, and what most people run.
QUICK = (
    "ApertusForCausalLM",
    "BertLMHeadModel",
    "BloomForCausalLM",
    "Cohere2ForCausalLM",
    "DeepseekV32ForCausalLM",
    "DeepseekV3ForCausalLM",
    "FalconForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoForCausalLM",
    "GPTNeoXForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForConditionalGeneration",
    "Gemma3nForCausalLM",
    "Glm4MoeForCausalLM",
    "GptOssForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "KimiLinearForCausalLM",
    "Lfm2MoeForCausalLM",
    "Llama4ForCausalLM",
    "KyutaiSpeechToTextForConditionalGeneration",
    "LlamaForCausalLM",
    "Mamba2ForCausalLM",
    "MixtralForCausalLM",
    "MllamaForConditionalGeneration",
    "MoshiForCausalLM",
    "NemotronHForCausalLM",
    "OPTForCausalLM",
    "OpenAIGPTLMHeadModel",
    "Phi3ForCausalLM",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3MoeForCausalLM",
    "Qwen3NextForCausalLM",
    "Qwen3_5ForCausalLM",
    "SmolLM3ForCausalLM",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
)


def generative_classes() -> list[str]:
    """Names of all classes that make text and that transformers' own mappings list."""
    names: set[str] = set()
    for task in _TASKS:
        for value in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values():
            names.update(value if isinstance(value, (list, tuple)) else (value,))
    return sorted(name for name in names if _generates(name))


def _generates(name: str) -> bool:
    try:
        found: Any = getattr(transformers, name)
    except (AttributeError, ImportError):
        return False
    return isinstance(found, type) and issubclass(found, GenerationMixin)
