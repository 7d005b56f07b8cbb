"""What the command line runs on any engine: a model, a drafter, timed answers and their comparison with plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded.drafters.base import Drafter, Private, Saved
from aded.engines.base.certificate import Certificate
from aded.engines.base.options import MaxDraftTokens
from aded.stats import Stats


@dataclass(frozen=True)
class Answer:
    """A decoded answer, or a batch of them, and what it took. Times are in seconds and include the prompt's pass.

    Attributes:
        text: that of a batch's rows stands one below the other.
        pieces: the text of each token emitted.
        rows: token ids each row emitted.
        first_s: until the first token, of every row.
    """

    text: str
    pieces: list[str]
    rows: list[list[int]]
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
            "drafted": self.stats.drafted,
            "accepted": self.stats.accepted,
            "mean_accepted_tokens": self.stats.mean_accepted_tokens,
            "tokens_per_second": self.tokens_per_second,
            "time_to_first_token_s": self.first_s,
            "exact": self.stats.exact,
        }

    def coloured(self) -> Any:
        """The text with drafted tokens green and underlined (a rich Text)."""
        from rich.text import Text

        text = Text()
        for piece, drafted in zip(self.pieces, self.stats.from_draft, strict=True):
            text.append(piece, style="green underline" if drafted else "")
        return text


@dataclass
class Runner:
    """A loaded model and its drafter; an engine says how it decodes.

    Settings of an answer: max_new_tokens, temperature (0 is greedy), top_p, seed, on_text (called with text as it
    comes), and, where the engine has batches, mask (a batch's attention mask) and options (for whatever else it is to
    be given).
    """

    loaded: Any
    drafter: Drafter
    max_draft_tokens: MaxDraftTokens
    compile: bool = False

    @contextmanager
    def saving(self, state: Path | None) -> Iterator[None]:
        """Save what was learned within it, however it ends."""
        known = self.drafter.clock if isinstance(self.drafter, Saved) else None
        try:
            yield
        finally:
            if state is not None and isinstance(self.drafter, Saved) and self.drafter.clock != known:
                self.drafter.save(state)

    def scratch(self) -> Drafter:
        """A drafter to warm up with: what it learns is lost, where that can be had."""
        return self.drafter.scratch() if isinstance(self.drafter, Private) else self.drafter

    def warm_up(self, ids: Any, max_new_tokens: int) -> None:
        """Let everything compile and the machine's step times be measured, without learning from it."""
        raise NotImplementedError

    def plain(self, ids: Any, **settings: Any) -> Answer:
        """Decode as the engine alone does."""
        return self.timed(ids, settings, None)

    def answer(self, ids: Any, **settings: Any) -> Answer:
        """Decode through ADED; `stats` among the settings is filled."""
        return self.timed(ids, settings, settings.pop("stats", None) or Stats())

    def timed(self, ids: Any, settings: dict[str, Any], stats: Stats | None) -> Answer:
        """Decode through ADED and fill `stats`; without it, as the engine alone does."""
        raise NotImplementedError

    def certify(self, ids: Any, row: int, emitted: list[int], settings: dict[str, Any]) -> Certificate | None:
        """What replays say of one row's output; None where they cannot say anything."""
        raise NotImplementedError

    def compare(self, ids: Any, plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Speedup and identity; a difference is checked for being a tie within the model's rounding noise.

        Where the engine's own bits are promised, no difference is a tie. `settings` are those of the answers.
        """
        result: dict[str, Any] = {
            "baseline_tokens_per_second": plain.tokens_per_second,
            "speedup": answer.tokens_per_second / plain.tokens_per_second,
            "identical": plain.rows == answer.rows,
            "first_difference": None,
            "margin": None,
            "noise": None,
        }
        ties = []
        for row, (a, b) in enumerate(zip(plain.rows, answer.rows, strict=True)):
            if a == b:
                continue
            # The first position at which they differ, or the end of the shorter.
            position = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            certificate = self.certify(ids, row, b, settings) if position < len(b) else None
            ties.append(certificate is not None and certificate.lossless)
            if certificate is None:
                result["first_difference"] = position
                continue
            if certificate.first_difference is not None:  # the first that is no tie
                position = certificate.first_difference
            if result["margin"] is None or not ties[-1]:
                margin = float(certificate.margins[position])
                result |= {"first_difference": position, "margin": margin, "noise": certificate.noise}
        return result | {"tie": bool(ties) and all(ties) and answer.stats.exact != "generate"}
