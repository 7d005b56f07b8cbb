"""What cannot be verified with drafts is refused, each reason in words of its own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from aded.budget.cost import MAX_DRAFT_TOKENS
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import verifies_trees
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.engine import Way
from aded.engines.transformers.positions import fixed_positions, grows, unmasked_window
from aded.engines.transformers.recurrent import LINEAR, is_recurrent
from aded.engines.transformers.trial import found_way
from aded.errors import UnsupportedError


def plain_class(model: Any) -> Any:
    """A model's class as it was before `accelerate`."""
    return getattr(type(model), "_aded_plain_class", type(model))


def refuse(
    model: Any,
    input_ids: torch.Tensor,
    config: GenerationConfig,
    synced: bool,
    compile: bool,
    kwargs: dict[str, Any],
) -> None:
    """Raise an UnsupportedError that names the reason, if there is one."""
    cache: Any = kwargs.get(CACHE)
    returned = config.return_dict_in_generate
    reasons = {
        "beam search and other modes than greedy and sampling keep several sequences": config.get_generation_mode()
        not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE),
        "encoder-decoders are not compiled": model.config.is_encoder_decoder and compile,
        f"beyond {fixed_positions(model)} tokens drafts would change what it computes": _crosses(
            model, input_ids, config
        ),
        "it decodes in a way of its own": plain_class(model)._sample is not GenerationMixin._sample,
        "a recurrent state is kept from its beginning on, and not compiled": is_recurrent(model)
        and (compile or (cache is not None and _holds_something(cache))),
        "attentions and hidden states of a tree pass differ in shape from plain decoding's": returned
        and (config.output_attentions or config.output_hidden_states),
        "synchronised generation over several processes is not supported": synced,
        "speculative decoding needs the key/value cache (use_cache=True)": not kwargs.get("use_cache", True),
    }
    _raise_first(reasons)
    if compile:
        reasons |= {
            "compile=True decodes one sequence": input_ids.shape[0] > 1,
            "compile=True needs a model whose attention takes a mask": not verifies_trees(model),
            "compile=True takes no cache with entries whose layers slide": kv.slides(cache)
            and cache.get_seq_length() > 0,
        }
    _raise_first(reasons)
    if cache is not None:
        kv.check(cache)


def _crosses(model: Any, input_ids: torch.Tensor, config: GenerationConfig) -> bool:
    """Whether a draft may reach positions that change what others mean."""
    fixed = fixed_positions(model)
    if fixed is None or int(config.max_length) + MAX_DRAFT_TOKENS <= fixed:
        return False
    return grows(model) or input_ids.shape[1] <= fixed


def _raise_first(reasons: dict[str, bool]) -> None:
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(f'{reason}; decode without ADED, or pass on_unsupported="fallback"')


def way_of(model: Any, input_ids: torch.Tensor, config: GenerationConfig, kwargs: dict[str, Any]) -> Way:
    """How drafts are verified, after a trial.

    Raises:
        UnsupportedError: scores of several tokens at once are not those of each, or cannot be had.
    """
    way, reason = found_way(model, plain_class(model)._sample, input_ids, config, kwargs)
    if way == "none":
        raise UnsupportedError(reason)
    if (window := unmasked_window(model)) is not None:
        if way == "chains" and int(config.max_length) + MAX_DRAFT_TOKENS > window:
            _raise_first({f"beyond {window} tokens a pass over several would see further back than one over one": True})
        way = "masked" if way == "trees" else way
    return way


def _holds_something(cache: Any) -> bool:
    return any(any(layer.has_previous_state.values()) for layer in cache.layers if isinstance(layer, LINEAR))
