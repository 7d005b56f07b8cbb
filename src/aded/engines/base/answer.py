"""What the command line gets from an engine, whichever it is: answers, and how two compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aded.stats import Stats

__all__ = ["Answer", "comparison", "first_difference"]


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


def comparison(plain: Answer, answer: Answer) -> dict[str, Any]:
    """Speedup and identity; what a certificate says of a difference is still to be filled in."""
    return {
        "baseline_tokens_per_second": plain.tokens_per_second,
        "speedup": answer.tokens_per_second / plain.tokens_per_second,
        "identical": plain.rows == answer.rows,
        "first_difference": None,
        "margin": None,
        "noise": None,
        "tie": False,
    }


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first position at which two token sequences differ, or the end of the shorter."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
