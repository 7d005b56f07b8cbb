"""What decoding took: counters and clocks that hang on a speculator from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from aded.tree import Outcome

Exactness = Literal["generate", "none", "rounding"]  # what is promised of bits, see `Stats.exact`

__all__ = ["Stats", "Timer"]


class Timer:
    """Seconds that each part of the last step took, by when a speculator is entered and left.

    Between a proposal and what is observed of it lies verification, from the forward pass to the cache's commit;
    before the first proposal that is the prompt's pass. What a caller does with tokens it was given is nobody's time.

    Args:
        clock: seconds.

    Attributes:
        draft_s, verify_s, learn_s: of the last step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.draft_s = self.verify_s = self.learn_s = 0.0
        self.start()

    def start(self) -> None:
        """A step begins now that has no proposal: that of the prompts."""
        self.left = self._entered = self._clock()
        self.draft_s = 0.0

    def propose(self) -> None:
        """A proposal begins."""
        self._entered = self._clock()

    def proposed(self) -> None:
        """It is made: what follows is verification."""
        self.left = self._clock()
        self.draft_s = self.left - self._entered

    def observe(self) -> None:
        """Verification ends, learning begins."""
        self._entered = self._clock()
        self.verify_s = self._entered - self.left

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it time belongs to a caller, who was given a token of the step."""
        began = self._clock()
        try:
            yield
        finally:
            self.left += self._clock() - began

    def observed(self) -> None:
        """Learning ends."""
        self.left = self._clock()
        self.learn_s = self.left - self._entered


@dataclass
class Stats:
    """What decoding took. Times are in seconds. What several calls count in one object adds up.

    Attributes:
        tokens: tokens emitted, by all rows of a batch.
        steps: target forward passes, the prefill included; a pass counts once for each row that took part.
        passes: target forward passes, each counted once.
        accepted: emitted tokens that had been drafted.
        drafted: nodes verified.
        draft_s, verify_s, learn_s: time spent in each part of the loop.
        time_to_first_token_s: from the start of the (last) loop to the first token.
        total_s: time spent in all parts.
        exact: what is promised of the bits of every score. "generate": they are those of the engine without us. "none":
            they are those of decoding by us without drafts. "rounding": passes of several tokens round otherwise than
            those of one, and two tokens that tie may change places.
        from_draft: for each emitted token, whether it had been drafted.
    """

    tokens: int = 0
    steps: int = 0
    passes: int = 0
    accepted: int = 0
    drafted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    learn_s: float = 0.0
    time_to_first_token_s: float = 0.0
    total_s: float = 0.0
    exact: Exactness = "rounding"
    from_draft: list[bool] = field(default_factory=list)

    @property
    def mean_accepted_tokens(self) -> float:
        """Tokens a sequence emits in a target forward pass, the free one included (MAT)."""
        return self.tokens / self.steps if self.steps else 0.0

    def add(self, outcomes: Sequence[Outcome], timer: Timer, *, first: bool) -> None:
        """Count one step; `first`: it was the prompts'."""
        self.passes += 1
        self.draft_s += timer.draft_s
        self.verify_s += timer.verify_s
        self.learn_s += timer.learn_s
        self.total_s += timer.draft_s + timer.verify_s + timer.learn_s
        if first:
            self.time_to_first_token_s = timer.verify_s
        for outcome in outcomes:
            self.steps += 1
            self.tokens += len(outcome.emitted)
            self.accepted += outcome.accepted
            self.drafted += len(outcome.tree)
            self.from_draft += [i < outcome.accepted for i in range(len(outcome.emitted))]
