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
from aded.errors import CorpusFileError, StateFileError

__all__ = ["Answer", "Runner"]


@dataclass(frozen=True)
class Answer:
    """One decoded answer and what it took. Times are in seconds and include the prompt's forward pass."""

    text: str
    pieces: list[str]
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

    @classmethod
    def open(
        cls,
        model: str | None,
        *,
        drafter: str,
        nodes: Any,
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
        return cls(loaded, made, nodes)

    def save(self, state: Path) -> None:
        """Save what was learned."""
        if isinstance(self.drafter, AdaptiveDrafter):
            self.drafter.save(state)

    def warm_up(self, ids: torch.Tensor) -> None:
        """Let everything compile and the machine's step times be measured, without learning from it."""
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": self._pad}
        self.loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        scratch = AdaptiveDrafter(memory_mb=1) if isinstance(self.drafter, AdaptiveDrafter) else self.drafter
        self._generate(ids, options, custom_generate=generate, drafter=scratch, nodes=self.nodes)

    def answer(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """Decode through ADED; see `plain` for the settings."""
        stats = Stats()
        return self._timed(ids, settings, stats, custom_generate=generate, drafter=self.drafter, nodes=self.nodes)

    def plain(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """Decode as the model alone does.

        Settings: max_new_tokens, temperature (0 is greedy), top_p, seed, on_text (called with text as it comes), and
        options (a dict) for whatever else `generate` is to be given.
        """
        return self._timed(ids, settings, None)

    def compare(self, ids: torch.Tensor, plain: Answer, answer: Answer, *, greedy: bool) -> dict[str, Any]:
        """Speedup and identity; a greedy difference is checked for being a tie within the model's rounding noise."""
        a, b = plain.ids[0].tolist(), answer.ids[0].tolist()
        result: dict[str, Any] = {
            "baseline_tokens_per_second": plain.tokens_per_second,
            "speedup": answer.tokens_per_second / plain.tokens_per_second,
            "identical": a == b,
            "first_difference": None,
            "margin": None,
            "noise": None,
            "tie": False,
        }
        if a != b:
            same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            result["first_difference"] = position = same - ids.shape[1]
            if greedy and position < answer.tokens:
                certificate = certify(self.loaded.model, ids, answer.ids)
                result["margin"], result["noise"] = float(certificate.margins[position]), certificate.noise
                result["tie"] = certificate.lossless
        return result

    @property
    def _pad(self) -> int:
        tokenizer = self.loaded.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def _generate(self, ids: torch.Tensor, options: dict[str, Any], **ours: Any) -> torch.Tensor:
        return self.loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **options, **ours)

    def _timed(self, ids: torch.Tensor, settings: dict[str, Any], stats: Stats | None, **ours: Any) -> Answer:
        temperature = settings["temperature"]
        options: dict[str, Any] = {"max_new_tokens": settings["max_new_tokens"], "pad_token_id": self._pad}
        if temperature > 0:
            options |= {"do_sample": True, "temperature": temperature, "top_p": settings["top_p"], "top_k": 0}
        else:
            options["do_sample"] = False
        options |= settings.get("options", {})
        if stats is not None:
            ours["stats"] = stats
        tokenizer = self.loaded.tokenizer
        streamer = _TextStreamer(tokenizer, settings.get("on_text"))
        torch.manual_seed(settings["seed"])
        started = time.perf_counter()
        output = self._generate(ids, options, streamer=streamer, **ours)
        seconds = time.perf_counter() - started
        emitted = output[0, ids.shape[1] :].tolist()
        return Answer(
            text=tokenizer.decode(emitted, skip_special_tokens=True),
            pieces=[tokenizer.decode([token], skip_special_tokens=True) for token in emitted],
            ids=output,
            seconds=seconds,
            first_s=(streamer.first or started) - started,
            stats=stats or Stats(tokens=len(emitted), steps=len(emitted)),
        )
