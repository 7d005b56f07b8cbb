"""Positions whose meaning depends on how long a sequence is: where drafts, which lengthen it, would change results."""

from __future__ import annotations

from typing import Any

import torch

# Model types that leave their cache and take everything in anew where a text outgrows the length it was trained for.
_DROP_THEIR_CACHE = ("phi3", "phimoe", "phi4_multimodal")

_OFFSET = 2  # rows that some tables of positions have before the first


def fixed_positions(model: Any) -> int | None:
    """Tokens up to which every pass gives a position the same meaning; None where that never changes.

    Rotary frequencies of type "longrope" are others beyond the length that a model was trained for; those of type
    "dynamic" go on changing with every token beyond it.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = _rope_kinds(config)
    trained = getattr(config, "original_max_position_embeddings", None)
    for rope in kinds:
        trained = rope.get("original_max_position_embeddings") or trained
    if any(rope.get("rope_type") == "dynamic" for rope in kinds):
        return int(trained or config.max_position_embeddings)
    if any(rope.get("rope_type") == "longrope" for rope in kinds) or config.model_type in _DROP_THEIR_CACHE:
        return None if trained is None else int(trained)
    return None


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
    """Whether positions change with every token beyond `fixed_positions`, and not once."""
    return any(rope.get("rope_type") == "dynamic" for rope in _rope_kinds(model.config.get_text_config(decoder=True)))


def _rope_kinds(config: Any) -> list[dict[str, Any]]:
    """The rotary parameters of all kinds of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
