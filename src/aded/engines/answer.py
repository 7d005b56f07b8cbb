"""What the command line gets from an engine, whichever it is: answers, how two compare, and a drafter's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded import drafters
from aded.decoding import Stats
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.base import Drafter
from aded.errors import CorpusFileError, StateFileError

__all__ = ["Answer", "comparison", "create_drafter", "fill_drafter", "first_difference"]


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


def create_drafter(name: str, *, state: Path | None, corpus: Path | None) -> Drafter:
    """A drafter by name, before its model is loaded.

    Raises:
        UnknownDrafterError: nobody is called that.
        CorpusFileError, StateFileError: it takes no such file, or the corpus is damaged.
    """
    made = drafters.create(name, **({} if corpus is None or name != "adaptive" else {"corpus": corpus}))
    if corpus is not None and not isinstance(made, AdaptiveDrafter):
        raise CorpusFileError(f"the drafter {name} reads no corpus; leave out --corpus, or use adaptive")
    if state is not None and not isinstance(made, AdaptiveDrafter):
        raise StateFileError(f"the drafter {name} keeps no state; leave out --state, or use --drafter adaptive")
    return made


def fill_drafter(drafter: Drafter, vocab_size: int, fingerprint: str, state: Path | None) -> None:
    """Tell it whose tokens it drafts, and read `state` if that file exists.

    Raises:
        CorpusFileError, StateFileError: a file is damaged or of another vocabulary.
    """
    if not isinstance(drafter, AdaptiveDrafter):
        return
    drafter.representative.vocab_size = vocab_size
    drafter.representative.fingerprint = fingerprint
    if drafter.corpus is not None:
        drafter.corpus.check(drafter.representative)
    if state is not None and state.exists():
        drafter.load(state)
