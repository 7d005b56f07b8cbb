"""How many draft tokens a step over many requests is worth, from step times and acceptance seen so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.budget import steps_without
from aded.engines.vllm.acceptance import Acceptance
from aded.engines.vllm.times import StepTimes

__all__ = ["SharedBudget"]

_MARGIN = 0.01  # that a draft must promise: step times and acceptance are not known better
_FELT = 1 / 200  # of a step: what drafting may take though it gains nothing


class SharedBudget:
    """The draft tokens that maximise expected tokens a second, all requests together.

    A drafted token is accepted exactly if the path up to it is, so with path probabilities p, likeliest first whichever
    request they belong to, and each corrected (see `Acceptance`), n of them give r + p1 + ... + pn tokens for r
    requests. vLLM lays the tokens of all requests end to end, so that costs what a step over r + n tokens does. The n
    that makes a token cheapest is taken (see `StepTimes.each`); where that is 0, or not cheaper by 1%, the step is a
    plain one.

    Where no draft paid for four steps, and drafting takes more than a two-hundredth of a step, the next are made
    without asking for one: one, then three, then seven, at most fifteen in a row.

    Args:
        places: as many requests as there can be.
        longest: most tokens of a draft.
        least: no draft goes on where its path is less likely than this, whatever it costs.

    Attributes:
        drafted: tokens of each place's draft that are verified in this step, int64 (places,).
        worth: the path probability down to which it is worth drafting now: below it, nothing was verified lately.
    """

    def __init__(self, places: int, longest: int, least: float = 0.05) -> None:
        self.times = StepTimes()
        self.worth = self._least = least
        self.drafted = np.zeros(places, np.int64)
        self._acceptance = Acceptance(places, longest)
        self._idle = self._asleep = 0

    def begin(self, place: int) -> None:
        """A new request in a place."""
        self._acceptance.begin(place)

    def learn(self, places: NDArray[np.int64], accepted: NDArray[np.int64]) -> None:
        """Take in how many drafted tokens of each request were accepted, int64 (r,)."""
        self._acceptance.learn(places, accepted, self.drafted)

    def wants(self, requests: int) -> bool:
        """Whether to draft now: not where nothing was gained lately, nor where a plain step's time is unknown."""
        self.drafted[:] = 0
        if self._asleep:
            self._asleep -= 1
            return False
        return self.times.knows(requests)

    def choose(
        self, places: NDArray[np.int64], paths: NDArray[np.float32], drafting_s: float = 0.0
    ) -> NDArray[np.int64]:
        """Tokens to verify of each request's draft, int64 (r,), given its path probabilities (r, k), 0 past its end.

        Args:
            drafting_s: what drafting them took.
        """
        r = len(places)
        gains = self._acceptance.correct(places, paths)
        # Stable: where gains are equal, the earlier token of a draft comes first.
        order = np.argsort(-gains, axis=None, kind="stable")[: np.count_nonzero(gains)]
        each = self.times.each(r + np.concatenate([[0.0], np.cumsum(gains.ravel()[order])]))
        n = int(np.argmin(each))
        if each[n] > (1 - _MARGIN) * each[0]:
            n = 0
        self._look(paths.ravel()[order], n)
        self._idle = 0 if n else self._idle + 1
        felt = drafting_s > _FELT * each[0] * r
        self._asleep = steps_without(self._idle) if felt else 0
        if not n:
            self._acceptance.doubt(places)
            return np.zeros(r, np.int64)
        self.drafted[places] = chosen = np.bincount(order[:n] // paths.shape[1], minlength=r)
        return chosen

    def _look(self, paths: NDArray[np.float32], n: int) -> None:
        """Look further down while all that was drafted is verified, less far while much of it is not."""
        if n == len(paths):
            self.worth *= 0.8
        else:
            self.worth += 0.2 * (0.7 * float(paths[: max(n, 1)].min()) - self.worth)
        self.worth = min(max(self.worth, self._least), 0.8)
