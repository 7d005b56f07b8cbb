"""What the command line runs on any engine: a model, a drafter, timed answers and their comparison with plain ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded.drafters.base import Drafter, Private, Saved
from aded.engines.base.answer import Answer, comparison, first_difference
from aded.engines.base.certificate import Certificate
from aded.engines.base.options import MaxDraftTokens
from aded.stats import Stats

__all__ = ["Runner"]


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

    def save(self, state: Path) -> None:
        """Save what was learned, if the drafter keeps any of it."""
        if isinstance(self.drafter, Saved):
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
        """Decode through ADED."""
        return self.timed(ids, settings, Stats())

    def timed(self, ids: Any, settings: dict[str, Any], stats: Stats | None) -> Answer:
        """Decode through ADED and fill `stats`; without it, as the engine alone does."""
        raise NotImplementedError

    def certify(self, ids: Any, row: int, emitted: list[int], settings: dict[str, Any]) -> Certificate | None:
        """What replays say of one row's output; None where they cannot say anything."""
        raise NotImplementedError

    def compare(self, ids: Any, plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Speedup and identity; a difference is checked for being a tie within the model's rounding noise.

        `settings` are those of the answers.
        """
        result = comparison(plain, answer)
        ties = []
        for row, (a, b) in enumerate(zip(plain.rows, answer.rows, strict=True)):
            if a == b:
                continue
            position = first_difference(a, b)
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
        result["tie"] = bool(ties) and all(ties)
        return result
