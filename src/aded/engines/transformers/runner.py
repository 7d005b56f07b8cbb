"""What the command line runs: one model, one drafter, timed answers and their comparison with plain decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from aded.decoding import Stats
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.base import Drafter
from aded.engines.answer import Answer, comparison, create_drafter, fill_drafter, first_difference
from aded.engines.transformers.certificate import certify
from aded.engines.transformers.entry import generate
from aded.engines.transformers.models import Loaded, load
from aded.engines.transformers.steps import CompiledSteps

__all__ = ["Runner"]


class _TextStreamer(BaseStreamer):
    """Passes on each stretch of text as soon as later tokens cannot change it."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None] | None) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
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
        if self._on_text is not None:
            self._on_text(text[self._shown :])
        self._shown = len(text)


@dataclass
class Runner:
    """A loaded model and its drafter."""

    loaded: Loaded
    drafter: Drafter
    nodes: Any
    compile: bool = False

    @classmethod
    def open(
        cls,
        model: str | None,
        *,
        drafter: str,
        nodes: Any,
        compile: bool = False,
        dtype: str,
        threads: int | None,
        state: Path | None,
        corpus: Path | None = None,
        report: Callable[[str], None],
    ) -> Runner:
        """Load everything; `state` is read if the file exists.

        Raises:
            AdedError: an unknown drafter or model, or a state file or corpus that cannot be used.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        made = create_drafter(drafter, state=state, corpus=corpus)
        loaded = load(model, dtype=dtype, report=report)
        fill_drafter(made, loaded.vocab_size, loaded.fingerprint, state)
        return cls(loaded, made, nodes, compile)

    def save(self, state: Path) -> None:
        """Save what was learned."""
        if isinstance(self.drafter, AdaptiveDrafter):
            self.drafter.save(state)

    def warm_up(self, ids: torch.Tensor, max_new_tokens: int) -> None:
        """Let everything compile and the machine's step times be measured, without learning from it."""
        if self.compile:
            CompiledSteps(self.loaded.model).warm_up(ids.shape[1], ids.shape[1] + max_new_tokens)
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": self.loaded.pad}
        self.loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        scratch = AdaptiveDrafter(memory_mb=1) if isinstance(self.drafter, AdaptiveDrafter) else self.drafter
        self._generate(ids, options, drafter=scratch, **self._ours)

    def answer(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """Decode through ADED; see `plain` for the settings."""
        stats = Stats()
        return self._timed(ids, settings, stats, drafter=self.drafter, **self._ours)

    def plain(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """Decode as the model alone does.

        Settings: max_new_tokens, temperature (0 is greedy), top_p, seed, on_text (called with text as it comes), and
        mask (a batch's attention mask), and options (a dict) for whatever else `generate` is to be given.
        """
        return self._timed(ids, settings, None)

    def compare(self, ids: torch.Tensor, plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Speedup and identity; a difference is checked for being a tie within the model's rounding noise.

        `settings` are those of the answers. With top_p below 1 a sample cannot be checked for ties.
        """
        result = comparison(plain, answer)
        ties = []
        for row, (a, b) in enumerate(zip(plain.rows, answer.rows, strict=True)):
            if a == b:
                continue
            position = first_difference(a, b)
            ties.append(False)
            if position < len(b) and (settings["temperature"] == 0.0 or settings["top_p"] == 1.0):
                prompt = self._prompt(ids, settings.get("mask"), row)
                certificate = certify(
                    self.loaded.model,
                    prompt,
                    torch.cat([prompt, torch.tensor([b]).to(prompt)], dim=-1),
                    temperature=settings["temperature"],
                    seed=settings["seed"],
                    row=row,
                    rows=len(ids),
                )
                ties[-1] = certificate.lossless
                if certificate.first_difference is not None:  # the first that is no tie
                    position = certificate.first_difference
                margin, noise = float(certificate.margins[position]), certificate.noise
                if result["margin"] is None or not ties[-1]:
                    result |= {"first_difference": position, "margin": margin, "noise": noise}
            else:
                result["first_difference"] = position
        result["tie"] = bool(ties) and all(ties)
        return result

    @staticmethod
    def _prompt(ids: torch.Tensor, mask: torch.Tensor | None, row: int) -> torch.Tensor:
        """A row's prompt without padding, shape (1, length)."""
        return ids[row : row + 1] if mask is None else ids[row][mask[row].bool()][None]

    @property
    def _ours(self) -> dict[str, Any]:
        return {"custom_generate": generate, "nodes": self.nodes, "compile": self.compile}

    def _generate(self, ids: torch.Tensor, options: dict[str, Any], **ours: Any) -> torch.Tensor:
        options = {"attention_mask": torch.ones_like(ids), **options}
        return self.loaded.model.generate(ids, **options, **ours)

    def _timed(self, ids: torch.Tensor, settings: dict[str, Any], stats: Stats | None, **ours: Any) -> Answer:
        temperature = settings["temperature"]
        options: dict[str, Any] = {"max_new_tokens": settings["max_new_tokens"], "pad_token_id": self.loaded.pad}
        if temperature > 0:
            options |= {"do_sample": True, "temperature": temperature, "top_p": settings["top_p"], "top_k": 0}
        else:
            options["do_sample"] = False
        if (mask := settings.get("mask")) is not None:
            options["attention_mask"] = mask
        options |= settings.get("options", {})
        if stats is not None:
            ours["stats"] = stats
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
        ends = self.loaded.model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else ends or []
        end = next((i for i, token in enumerate(emitted) if token in ends), len(emitted))
        return emitted[: end + 1]
