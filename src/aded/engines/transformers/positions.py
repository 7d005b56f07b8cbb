"""What a model computes otherwise where a sequence is long: there drafts, which lengthen it, would change results."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from aded.engines.transformers.compat import code_of

# Model types that leave their cache and take everything in anew where a text outgrows the length it was trained for.
_DROP_THEIR_CACHE = ("phi3", "phimoe", "phi4_multimodal")

_OFFSET = 2  # rows that some tables of positions have before the first


def fixed_positions(model: Any) -> int | None:
    """Tokens up to which drafts, which lengthen a sequence, change nothing else; None where they never do.

    Indexed attention chooses some entries where there are more, and among equals in an order that depends on the pass.
    Rotary frequencies of type "longrope" are others beyond the length that a model was trained for; those of type
    "dynamic" go on changing with every token beyond it.
    """
    config = model.config.get_text_config(decoder=True)
    if (chosen := _chosen(config)) is not None:
        return chosen
    kinds = _rope_kinds(config)
    trained = getattr(config, "original_max_position_embeddings", None)
    for rope in kinds:
        trained = rope.get("original_max_position_embeddings") or trained
    if any(rope.get("rope_type") == "dynamic" for rope in kinds):
        return int(trained or config.max_position_embeddings)
    if any(rope.get("rope_type") == "longrope" for rope in kinds) or config.model_type in _DROP_THEIR_CACHE:
        return None if trained is None else int(trained)
    return None


def unmasked_window(model: Any) -> int | None:
    """Tokens from which on a layer of this model sees no further back only because its cache dropped what is there.

    Such a layer, for which no mask is made, sees further back in a pass over several tokens. None: there is none.
    """
    if model.config.is_encoder_decoder:
        return None
    layers: list[Any] = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    windows = [int(layer.sliding_window) for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    if not windows:
        return None
    parts = {type(part).__module__ for part in (model, *model.get_decoder().modules())}
    return None if any(map(_masks_windows, parts)) else min(windows)


@cache
def _masks_windows(module: str) -> bool:
    """Whether the code of a module makes masks for layers that see a part of the text."""
    made = r"sliding_window_causal_mask|chunked_causal_mask|create_masks_for_generate"
    return re.search(made, code_of(module) or "") is not None


def longest(model: Any) -> int | None:
    """Positions that a model can take in and gives the same meaning always; None where nothing says how many."""
    config = model.config.get_text_config(decoder=True)
    known = [getattr(config, name, None) for name in ("max_position_embeddings", "max_target_positions")]
    known.append(fixed_positions(model))
    for name, module in model.get_decoder().named_modules():
        if isinstance(module, torch.nn.Embedding) and "position" in name:
            known.append(module.num_embeddings - _OFFSET)
    return min((int(x) for x in known if isinstance(x, int) and x > 0), default=None)


def grows(model: Any) -> bool:
    """Whether that goes on with every token beyond `fixed_positions`, and does not happen once."""
    config = model.config.get_text_config(decoder=True)
    dynamic = any(rope.get("rope_type") == "dynamic" for rope in _rope_kinds(config))
    return dynamic or _chosen(config) is not None


def _chosen(config: Any) -> int | None:
    """Tokens that an index chooses, one by one or in blocks; None where none does."""
    blocks, size = getattr(config, "index_topk_blocks", None), getattr(config, "index_block_size", 1)
    chosen = getattr(config, "index_topk", None) or (blocks * size if blocks else None)
    return chosen if isinstance(chosen, int) else None


def _rope_kinds(config: Any) -> list[dict[str, Any]]:
    """The rotary parameters of all kinds of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
