"""How many draft tokens a step over many requests is worth, from step times seen so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.budget import steps_without

__all__ = ["SharedBudget", "StepTimes"]

_RATE = 0.1  # of the latest observation in a mean
_OLD = 512  # steps after which a mean is forgotten, and what it was made for tried again
_KEPT = 0.98  # of a calibration's evidence, after one more step
_FELT = 1 / 200  # of a step: what drafting may take though it gains nothing
_PRIOR = 8.0  # tokens of evidence that a request is like all others


class StepTimes:
    """Seconds a step takes by the tokens in it, learned from the steps themselves.

    vLLM gives a proposer no way to time a step beforehand. So times are kept for growing classes of sizes (four in
    each doubling), a mean of each that follows the latest. A size not seen lately is taken to cost as much as the
    nearest smaller one that was: a guess in favour of drafts, which the next step corrects. In the same way a class is
    forgotten when it is old, so that a machine or a context that has changed is noticed.
    """

    def __init__(self) -> None:
        self._sizes: NDArray[np.float64] = np.zeros(96)
        self._seconds = np.zeros(96)
        self._counts = np.zeros(96, np.int64)
        self._latest = np.full(96, -_OLD, np.int64)
        self.steps = 0

    @staticmethod
    def _place(tokens: int) -> int:
        return tokens - 1 if tokens <= 8 else min(int(4 * np.log2(tokens / 8)) + 8, 95)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take in a step over so many tokens. One three times as slow as known was interrupted, and says little."""
        self.steps += 1
        i = self._place(tokens)
        if self.steps - self._latest[i] >= _OLD:
            self._counts[i] = 0
        self._latest[i] = self.steps
        self._counts[i] += 1
        if self._counts[i] > 2:
            seconds = min(seconds, 3 * self._seconds[i])
        # The first of a size can compile: the second replaces it.
        rate = 1.0 if self._counts[i] <= 2 else max(1 / (self._counts[i] - 1), _RATE)
        self._seconds[i] += rate * (seconds - self._seconds[i])
        self._sizes[i] += rate * (tokens - self._sizes[i])

    def knows(self, tokens: int) -> bool:
        """Whether a step of about this size was seen lately, and more than once."""
        i = self._place(tokens)
        return bool(self._counts[i] > 1 and self.steps - self._latest[i] < _OLD)

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of steps over so many tokens. Dips are kept: some sizes have faster kernels."""
        known = (self._counts > 0) & (self.steps - self._latest < _OLD)
        if not known.any():
            return np.ones(len(tokens))
        return np.interp(tokens, self._sizes[known], self._seconds[known])


class SharedBudget:
    """The draft tokens that maximise expected tokens a second, all requests together.

    A drafted token is accepted exactly if the path up to it is, so with path probabilities p, likeliest first whichever
    request they belong to, and each corrected by its request's calibration, n of them give r + p1 + ... + pn tokens for
    r requests. vLLM lays the tokens of all requests end to end, so that costs what a step over r + n tokens does:
    n maximises (r + p1 + ... + pn) / cost(r + n), and where that is 0 the step is a plain one.

    Where no draft paid for four steps, and drafting takes more than a two-hundredth of a step, the next are made
    without asking for one: one, then three, then seven, at most fifteen in a row.

    Args:
        places: as many requests as there can be.
        least: no draft goes on where its path is less likely than this, whatever it costs.

    Attributes:
        worth: the path probability down to which it is worth drafting now: below it, nothing was verified lately.
    """

    def __init__(self, places: int, least: float = 0.05) -> None:
        self.times = StepTimes()
        self.worth = self._least = least
        self._accepted = np.full(places, _PRIOR)
        self._predicted = np.full(places, _PRIOR)
        self._all = np.full(2, _PRIOR)  # accepted and predicted, of all requests
        self._idle = self._asleep = 0

    def begin(self, place: int) -> None:
        """A new request in a place: it is like all others until it is known better."""
        self._predicted[place] = _PRIOR
        self._accepted[place] = _PRIOR * self._all[0] / self._all[1]

    def learn(self, places: NDArray[np.int64], accepted: NDArray[np.int64], predicted: NDArray[np.float64]) -> None:
        """Take in how many drafted tokens of each request were accepted (r,), and how many were expected (r,)."""
        drafted = predicted > 0
        places, accepted, predicted = places[drafted], accepted[drafted], predicted[drafted]
        self._accepted[places] = _KEPT * self._accepted[places] + accepted
        self._predicted[places] = _KEPT * self._predicted[places] + predicted
        self._all = _KEPT * self._all + (accepted.sum(), predicted.sum())

    def wants(self, requests: int) -> bool:
        """Whether to draft now: not where nothing was gained lately, nor where a plain step's time is unknown."""
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
        gains = paths * (self._accepted[places] / self._predicted[places])[:, None]
        likeliest = np.sort(gains[gains > 0])[::-1]
        tokens = r + np.concatenate([[0.0], np.cumsum(np.minimum(likeliest, 1.0))])
        costs = self.times(np.arange(r, r + len(tokens)))
        n = int(np.argmax(tokens / costs))
        self._look(likeliest, n)
        self._idle = 0 if n else self._idle + 1
        felt = drafting_s > _FELT * costs[0]
        self._asleep = steps_without(self._idle) if felt else 0
        if not n:
            # What failed before is believed less, or it would never be tried again.
            self._accepted[places] += (1 - _KEPT) * (_PRIOR - self._accepted[places])
            self._predicted[places] += (1 - _KEPT) * (_PRIOR - self._predicted[places])
            return np.zeros(r, np.int64)
        return (gains >= likeliest[n - 1]).sum(1)

    def _look(self, likeliest: NDArray[np.float32], n: int) -> None:
        """Look further down while all that was drafted is verified, less far while much of it is not."""
        if n == len(likeliest):
            self.worth *= 0.8
        else:
            self.worth += 0.2 * (0.7 * float(likeliest[max(n - 1, 0)]) - self.worth)
        self.worth = min(max(self.worth, self._least), 0.8)
