"""What a class is asked with: text, and the images or the sound that it takes besides or in place of it.

A prompt holds as many placeholders as the model makes vectors of an image or sound: the model itself is asked how many.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sweep.media import ALONE, IMAGES, NEED, OPTIONS, PROMPTS, SIDE_BY_SIDE, SOUND, VECTORS, features_of, image

_BEFORE = 7  # tokens in front of an image or sound
_PADDED = (0, 5, 1)  # places on the left of the rows of a batch

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What `generate` is given: for one sequence, and for a batch of three that differ."""

    one: Inputs
    batch: Inputs


def inputs_of(name: str, model: Any) -> dict[str, Given]:
    """What a class can be given, by its kind: "text", "images" or "sound"; first what each way of asking takes."""
    options = OPTIONS.get(name, {})
    if name in ALONE:
        kind, build = ALONE[name]
        rows = [build(model, seed) for seed in range(3)]
        return {kind: Given(rows[0] | options, _stacked(name, rows) | options)}
    given = {} if name in NEED else {"text": Given(_text(1) | options, _text(3) | options)}
    if name in IMAGES or features_of(model, "image") is not None:
        given["images"] = _among_text(model, IMAGES.get(name, image), "image", options)
    if name in SOUND:
        given["sound"] = _among_text(model, SOUND[name], "audio", options)
    return given


def _text(rows: int, within: torch.Tensor | None = None) -> Inputs:
    """Prompts, with these ids (rows, ids) in the midst of them; those of a batch padded."""
    ids = torch.cat(PROMPTS[:rows])
    if within is not None:
        ids = torch.cat([ids[:, :_BEFORE], within, ids[:, _BEFORE:]], dim=1)
    if rows == 1:
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    for row, padded in enumerate(_PADDED):
        mask[row, :padded] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def _stacked(name: str, rows: list[Inputs]) -> Inputs:
    """Inputs of one row each as those of a batch."""
    beside = ("pixel_values",) if name in SIDE_BY_SIDE else ()
    return {field: torch.cat([row[field] for row in rows], dim=-1 if field in beside else 0) for field in rows[0]}


def _among_text(model: Any, build: Callable[[Any, int], Inputs], kind: str, options: Inputs) -> Given:
    """Prompts with placeholders, and what stands for them."""
    name, rows = type(model).__name__, [build(model, seed) for seed in range(3)]
    token, count = placeholder(model.config, kind), VECTORS.get(name)
    within = torch.full((3, vectors(model, rows[0], kind) if count is None else count), token)
    one, batch = _text(1, within[:1]), _text(3, within)
    for given in (one, batch):
        kinds = (given["input_ids"] == token).long()
        marks = {"token_type_ids": 1, "image_embeds_position_mask": 1, "mm_token_type_ids": 1 if kind == "image" else 3}
        takes = inspect.signature(model.forward).parameters
        given |= {mark: kinds * number for mark, number in marks.items() if mark in takes}
    return Given(one | rows[0] | options, batch | _stacked(name, rows) | options)


def placeholder(config: Any, kind: str) -> int:
    """The id that stands for a vector of an image ("image") or sound ("audio")."""
    for name in (f"{kind}_token_id", f"{kind}_token_index", f"{kind}_patch_id"):
        if isinstance(token := getattr(config, name, None), int):
            return token
    return placeholder(config.thinker_config, kind) if hasattr(config, "thinker_config") else 90


@torch.no_grad()
def vectors(model: Any, media: Inputs, kind: str) -> int:
    """How many vectors the model makes of an image or sound."""
    method = features_of(model, kind)
    taken = set(inspect.signature(method).parameters)
    features = method(**{name: value for name, value in media.items() if name in taken})
    found = getattr(features, "pooler_output", None)
    found = getattr(features, "last_hidden_state", features) if found is None else found
    parts = found if isinstance(found, (list, tuple)) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts)
