"""What the command line runs: one model, one drafter, timed answers and their comparison with plain decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from aded import drafters
from aded.decoding import Stats
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.base import Drafter
from aded.engines.transformers.certificate import certify
from aded.engines.transformers.entry import generate
from aded.engines.transformers.models import Loaded, load
from aded.engines.transformers.steps import CompiledSteps
from aded.errors import CorpusFileError, StateFileError

__all__ = ["Answer", "Runner"]


@dataclass(frozen=True)
class Answer:
    """A decoded answer, or a batch of them, and what it took. Times are in seconds and include the prompt's pass.

    Attributes:
        text: that of a batch's rows stands one below the other.
        pieces: the text of each token emitted.
        rows: token ids each row emitted.
        ids: what `generate` returned.
        first_s: until the first token, of every row.
    """

    text: str
    pieces: list[str]
    rows: list[list[int]]
    ids: torch.Tensor
    seconds: float
    first_s: float
    stats: Stats

    @property
    def tokens(self) -> int:
        return len(self.pieces)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "steps": self.stats.steps,
            "mean_accepted_tokens": self.stats.mean_accepted_tokens,
            "tokens_per_second": self.tokens_per_second,
            "time_to_first_token_s": self.first_s,
        }

    def coloured(self) -> Any:
        """The text with drafted tokens in green (a rich Text)."""
        from rich.text import Text

        text = Text()
        for piece, drafted in zip(self.pieces, self.stats.from_draft, strict=True):
            text.append(piece, style="green" if drafted else "")
        return text


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
        made = drafters.create(drafter, **({} if corpus is None or drafter != "adaptive" else {"corpus": corpus}))
        if corpus is not None and not isinstance(made, AdaptiveDrafter):
            raise CorpusFileError(f"the drafter {drafter} reads no corpus; leave out --corpus, or use adaptive")
        if state is not None and not isinstance(made, AdaptiveDrafter):
            raise StateFileError(f"the drafter {drafter} keeps no state; leave out --state, or use --drafter adaptive")
        loaded = load(model, dtype=dtype, report=report)
        if isinstance(made, AdaptiveDrafter):
            made.representative.vocab_size = int(loaded.model.config.get_text_config().vocab_size)
            made.representative.fingerprint = loaded.fingerprint
            if made.corpus is not None:
                made.corpus.check(made.representative)
            if state is not None and state.exists():
                made.load(state)
        return cls(loaded, made, nodes, compile)

    def save(self, state: Path) -> None:
        """Save what was learned."""
        if isinstance(self.drafter, AdaptiveDrafter):
            self.drafter.save(state)

    def warm_up(self, ids: torch.Tensor, max_new_tokens: int) -> None:
        """Let everything compile and the machine's step times be measured, without learning from it."""
        if self.compile:
            CompiledSteps(self.loaded.model).warm_up(ids.shape[1], ids.shape[1] + max_new_tokens)
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": self._pad}
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
        result: dict[str, Any] = {
            "baseline_tokens_per_second": plain.tokens_per_second,
            "speedup": answer.tokens_per_second / plain.tokens_per_second,
            "identical": plain.rows == answer.rows,
            "first_difference": None,
            "margin": None,
            "noise": None,
            "tie": False,
        }
        ties = []
        for row, (a, b) in enumerate(zip(plain.rows, answer.rows, strict=True)):
            if a == b:
                continue
            position = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
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

    @property
    def _pad(self) -> int:
        tokenizer = self.loaded.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def _generate(self, ids: torch.Tensor, options: dict[str, Any], **ours: Any) -> torch.Tensor:
        options = {"attention_mask": torch.ones_like(ids), **options}
        return self.loaded.model.generate(ids, **options, **ours)

    def _timed(self, ids: torch.Tensor, settings: dict[str, Any], stats: Stats | None, **ours: Any) -> Answer:
        temperature = settings["temperature"]
        options: dict[str, Any] = {"max_new_tokens": settings["max_new_tokens"], "pad_token_id": self._pad}
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
            ids=output,
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
