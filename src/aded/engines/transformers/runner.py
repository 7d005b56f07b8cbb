"""Timed answers of a transformers model, with and without us."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from aded.engines.base.certificate import Certificate
from aded.engines.base.runner import Answer, Runner
from aded.engines.transformers.api import generate
from aded.engines.transformers.certificate import certify
from aded.engines.transformers.forward import CompiledRunner
from aded.stats import Stats


class _TextStreamer(BaseStreamer):
    """Passes on each stretch of text as soon as later tokens cannot change it."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None] | None) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text or (lambda text: None)
        self._tokens: list[int] = []
        self._shown = 0
        self._prompt = True
        self.first: float | None = None

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        self.first = self.first or time.perf_counter()
        if value.numel() > 1:  # a batch is shown when it is done
            return
        self._tokens.extend(value.flatten().tolist())
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # the middle of a character
            self._show(text)

    def end(self) -> None:
        self._show(self._tokenizer.decode(self._tokens, skip_special_tokens=True) + "\n")

    def _show(self, text: str) -> None:
        self._on_text(text[self._shown :])
        self._shown = len(text)


class EngineRunner(Runner):
    """A loaded model and its drafter."""

    def warm_up(self, ids: torch.Tensor, max_new_tokens: int) -> None:
        if self.compile:
            CompiledRunner(self.loaded.model).warm_up(ids.shape[1], ids.shape[1] + max_new_tokens)
        options = self.loaded.options(4, 0.0)
        self._generate(ids, options)
        self._generate(ids, options, drafter=self.scratch(), **self._ours)

    def certify(self, ids: torch.Tensor, row: int, emitted: list[int], settings: dict[str, Any]) -> Certificate | None:
        """See `Runner`. With top_p below 1 a sample cannot be replayed."""
        if settings["temperature"] > 0 and settings["top_p"] < 1.0:
            return None
        mask = settings.get("mask")
        prompt = ids[row : row + 1] if mask is None else ids[row][mask[row].bool()][None]
        output = torch.cat([prompt, torch.tensor([emitted]).to(prompt)], dim=-1)
        drawn = {"temperature": settings["temperature"], "seed": settings["seed"], "row": row, "rows": len(ids)}
        return certify(self.loaded.model, prompt, output, **drawn)

    @property
    def _ours(self) -> dict[str, Any]:
        return {"custom_generate": generate, "max_draft_tokens": self.max_draft_tokens, "compile": self.compile}

    def _generate(self, ids: torch.Tensor, options: dict[str, Any], **ours: Any) -> torch.Tensor:
        options = {"attention_mask": torch.ones_like(ids), **options}
        output: torch.Tensor = self.loaded.model.generate(ids, **options, **ours)
        return output

    def timed(self, ids: torch.Tensor, settings: dict[str, Any], stats: Stats | None) -> Answer:
        ours = {} if stats is None else {**self._ours, "drafter": self.drafter, "stats": stats}
        options = self.loaded.options(settings["max_new_tokens"], settings["temperature"], settings["top_p"])
        if (mask := settings.get("mask")) is not None:
            options["attention_mask"] = mask
        options |= settings.get("options", {})
        tokenizer = self.loaded.tokenizer
        streamer = _TextStreamer(tokenizer, settings.get("on_text"))
        torch.manual_seed(settings["seed"])
        started = time.perf_counter()
        output = self._generate(ids, options, streamer=streamer, **ours)
        seconds = time.perf_counter() - started
        rows = [self._until_end(row) for row in output[:, ids.shape[1] :].tolist()]
        tokens = sum(map(len, rows))
        return Answer(
            text="\n\n".join(tokenizer.decode(row, skip_special_tokens=True) for row in rows),
            pieces=[tokenizer.decode([token], skip_special_tokens=True) for row in rows for token in row],
            rows=rows,
            seconds=seconds,
            first_s=(streamer.first or started) - started,
            stats=stats or Stats(tokens=tokens, steps=tokens),
        )

    def _until_end(self, emitted: list[int]) -> list[int]:
        """A row's tokens without what pads it."""
        ends = self.loaded.ends
        end = next((i for i, token in enumerate(emitted) if token in ends), len(emitted))
        return emitted[: end + 1]
