"""One answer, token by token, whichever engine computes it: what a server asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aded.drafters.base import Drafter
from aded.engines.base.options import MaxDraftTokens
from aded.stats import Stats, Timer
from aded.tree import Outcome

# Given the ids before a token and its raw scores, float32 (vocabulary,), changes the scores in place.
Processor = Callable[[Sequence[int], NDArray[np.float32]], None]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: most tokens of the answer.
        temperature: 0 is greedy.
        top_p: total probability of the tokens that are sampled from.
        seed: of the random numbers.
        processors: asked in order, once for each token, before temperature.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    processors: Sequence[Processor] = field(default=())


class Completer(Protocol):
    """A loaded model that answers, one prompt a call."""

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer together, at most."""

    @property
    def at_once(self) -> bool:
        """Whether several threads can each be in the middle of an answer."""

    def grammar_tokenizer(self) -> Any:
        """The vocabulary as llguidance takes it."""

    def aside(self) -> AbstractContextManager[Any]:
        """Within it other answers may be computed, and change nothing of the one that this thread is in."""

    def complete(
        self,
        prompt: list[int],
        sampling: Sampling,
        *,
        drafter: Drafter | None,
        max_draft_tokens: MaxDraftTokens,
        steps: Steps,
    ) -> None:
        """Answer a prompt.

        Args:
            drafter: None decodes by the engine alone.
            steps: counts what decoding takes, and tells of each step. What it raises ends the answer.
        """


class Steps(Stats):
    """Counts steps, and tells of each as soon as it is done.

    Args:
        on_step: given the ids that a step emitted, and what became of its draft; None where there was none to make.
    """

    def __init__(self, on_step: Callable[[Sequence[int], Outcome | None], None]) -> None:
        super().__init__()
        self._on_step = on_step

    def add(self, outcomes: Sequence[Outcome], timer: Timer, *, first: bool) -> None:
        super().add(outcomes, timer, first=first)
        for outcome in outcomes:
            self._on_step(outcome.emitted, outcome)

    def plain(self, token: int) -> None:
        """Count a step of the engine alone."""
        self.tokens, self.steps, self.passes = self.tokens + 1, self.steps + 1, self.passes + 1
        self.from_draft.append(False)
        self._on_step([token], None)
