"""What cannot be verified with drafts, and why."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.stopping_criteria import MaxLengthCriteria, MaxTimeCriteria

from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import verifies_trees
from aded.errors import UnsupportedError

__all__ = ["refuse"]

_OF_WHOLE_BATCH = (
    PrefixConstrainedLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)


def refuse(
    model: Any,
    input_ids: torch.Tensor,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    synced: bool,
    compile: bool,
    kwargs: dict[str, Any],
) -> None:
    """Raise an UnsupportedError that names the reason, if there is one."""
    cache: Any = kwargs.get("past_key_values")
    returned = config.return_dict_in_generate
    reasons = {
        "beam search and other modes than greedy and sampling keep several sequences": config.get_generation_mode()
        not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE),
        "encoder-decoder models are not supported": model.config.is_encoder_decoder,
        "a recurrent state cannot drop rejected drafts": getattr(model, "_is_stateful", False),
        "attentions and hidden states of a tree pass differ in shape from plain decoding's": returned
        and (config.output_attentions or config.output_hidden_states),
        "synchronised generation over several processes is not supported": synced,
        "speculative decoding needs the key/value cache (use_cache=True)": not kwargs.get("use_cache", True),
    }
    if compile:
        reasons |= {
            "compile=True decodes one sequence": input_ids.shape[0] > 1,
            "compile=True needs a model whose attention takes a mask": not verifies_trees(model),
            "compile=True takes no cache with entries whose layers slide": kv.slides(cache)
            and cache.get_seq_length() > 0,
        }
    if input_ids.shape[0] > 1:  # its rows are not in step
        reasons |= {
            "a batch needs a model whose attention takes a mask of its own for each row": not verifies_trees(model),
            "a batch needs a growing cache that is empty": cache is not None
            and (kv.room(cache) is not None or cache.get_seq_length() > 0),
            "scores and logits of a batch are not returned": returned
            and (config.output_scores or config.output_logits),
            "a processor that tells a batch's rows apart cannot see one at a time": any(
                isinstance(processor, _OF_WHOLE_BATCH) for processor in processors
            ),
            "without an end-of-sequence token, rows of a batch go on until a criterion holds for all of them": not any(
                hasattr(criterion, "eos_token_id") for criterion in criteria
            )
            and any(not isinstance(criterion, MaxLengthCriteria | MaxTimeCriteria) for criterion in criteria),
        }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(f'{reason}; decode without ADED, or pass on_unsupported="fallback"')
    if cache is not None:
        kv.check(cache)
