"""What transformers' `generate` knows and does not hand on to a decoding method given as a callable."""

from __future__ import annotations

import sys
from typing import Any, cast

import torch

from aded.errors import SettingsError


class _NoStreamer:
    """Stands for "no streamer" where a caller's frame must not be searched for one."""

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


NO_STREAMER = _NoStreamer()


def callers(model: Any, name: str) -> Any:
    """What the `model.generate` that we are called by, through whatever wraps us, has under a name."""
    frame = sys._getframe(2)
    while frame is not None:
        known = frame.f_locals
        if frame.f_code.co_name == "generate" and known.get("self") is model and name in known:
            return known[name]
        frame = cast(Any, frame.f_back)
    return None


def encoded_text(model: Any) -> list[list[int]]:
    """What an encoder was given for each row, where that is text in the decoder's own tokens: answers repeat it."""
    if not model.config.is_encoder_decoder or getattr(model.config, "encoder", None) is not None:
        return []
    text, known = callers(model, "inputs_tensor"), callers(model, "model_kwargs")
    if not isinstance(text, torch.Tensor) or text.ndim != 2 or text.is_floating_point():
        return []
    mask = (known or {}).get("attention_mask")
    real = torch.ones_like(text) if mask is None or mask.shape != text.shape else mask
    return [row[there.bool()].tolist() for row, there in zip(text, real, strict=True)]


def text_ids(model: Any, text: str) -> list[int]:
    """Token ids of a text, by the tokenizer that `generate` was given.

    Raises:
        SettingsError: it was given none.
    """
    tokenizer = (callers(model, "generation_mode_kwargs") or {}).get("tokenizer")
    if tokenizer is None:
        raise SettingsError("a text needs a tokenizer: give token ids, or tokenizer= to generate")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
