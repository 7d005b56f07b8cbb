"""How many draft tokens a step over many requests is worth, from step times seen so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aded.budget import steps_without
from aded.representative.kernels import jit

__all__ = ["SharedBudget", "StepTimes"]

_RATE = 0.1  # of the latest observation in a mean
_YOUNG, _OLD = 32, 512  # steps after which a mean is forgotten, and what it was made for tried again
_KEPT = 0.98  # of a calibration's evidence, after one more step
_SLOW = 1 / 64  # of the latest step in a mean over many
_MARGIN = 0.03  # that a draft must promise: step times and calibrations are not known better
_FELT = 1 / 200  # of a step: what drafting may take though it gains nothing
_PRIOR = 8.0  # tokens of evidence that a request is like all others


class _Means:
    """Seconds by number of tokens, in growing classes of sizes, four in each doubling: means that follow the latest."""

    def __init__(self) -> None:
        self._sizes: NDArray[np.float64] = np.zeros(96)
        self._seconds = np.zeros(96)
        self._counts = np.zeros(96, np.int64)
        self._latest = np.zeros(96, np.int64)
        self._lives = np.full(96, _YOUNG, np.int64)

    @staticmethod
    def _place(tokens: int) -> int:
        return tokens - 1 if tokens <= 8 else min(int(4 * np.log2(tokens / 8)) + 8, 95)

    def learn(self, tokens: int, seconds: float, now: int) -> None:
        i = self._place(tokens)
        if self._counts[i] and now - self._latest[i] >= self._lives[i]:
            self._counts[i] = 0
            self._lives[i] = min(2 * self._lives[i], _OLD)
        self._latest[i] = now
        self._counts[i] += 1
        if self._counts[i] > 2:
            seconds = min(seconds, 3 * self._seconds[i])
        # The first of a size can compile: the second replaces it.
        rate = 1.0 if self._counts[i] <= 2 else max(1 / (self._counts[i] - 1), _RATE)
        self._seconds[i] += rate * (seconds - self._seconds[i])
        self._sizes[i] += rate * (tokens - self._sizes[i])

    def recall(self, tokens: int, now: int) -> tuple[float, int] | None:
        """The mean of this size's class, and of how many; None if it was not seen twice lately."""
        i = self._place(tokens)
        if self._counts[i] < 2 or now - self._latest[i] >= self._lives[i]:
            return None
        return float(self._seconds[i]), int(self._counts[i])

    def known(self, now: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Sizes, means and their observations of all classes that were seen lately."""
        known = (self._counts > 0) & (now - self._latest < self._lives)
        return self._sizes[known], self._seconds[known], self._counts[known]


@jit
def _rising(seconds, counts):
    """Make times rise with size, in place: neighbours that fall are replaced by their mean (isotonic regression)."""
    n = len(seconds)
    starts = np.empty(n, np.int64)
    weights = counts.astype(np.float64)
    levels, size = seconds.copy(), 0
    for i in range(n):
        starts[size], levels[size], weights[size] = i, seconds[i], counts[i]
        size += 1
        while size > 1 and levels[size - 2] > levels[size - 1]:
            both = weights[size - 2] + weights[size - 1]
            levels[size - 2] = (weights[size - 2] * levels[size - 2] + weights[size - 1] * levels[size - 1]) / both
            weights[size - 2] = both
            size -= 1
    for k in range(size):
        end = starts[k + 1] if k + 1 < size else n
        seconds[starts[k] : end] = levels[k]


class StepTimes:
    """Seconds a step takes by the tokens in it, learned from the steps themselves.

    vLLM gives a proposer no way to time a step beforehand. Steps with nothing but a token of each request are known for
    themselves: they may have kernels or recorded graphs of their own, and have no drafts to check. Times are made to
    rise with size, or drafts would be as long as is cheapest by chance, and interpolated between sizes that were seen.
    Beyond the largest a step is taken to cost as much as that: a guess in favour of drafts, which the next corrects.

    What is old is forgotten, so that a machine or a context that has changed is noticed: soon at first, for a few
    disturbed steps may be all that was seen of a size, and after twice as many steps each time it was forgotten.
    """

    def __init__(self) -> None:
        self._plain, self._others = _Means(), _Means()
        self._steps = 0
        # Means of the latest steps: tokens of prompts, whether there were any, and tokens emitted.
        self._prompt_tokens = self._with_prompts = 0.0
        self._emitted = 1.0

    def learn(self, requests: int, drafted: int, prompts: int, emitted: int, seconds: float) -> None:
        """Take in a step: its requests, their draft tokens, tokens of prompts besides, and tokens it emitted.

        A step three times as slow as known was interrupted, and says little.
        """
        self._steps += 1
        means = self._others if drafted or prompts else self._plain
        means.learn(requests + drafted + prompts, seconds, self._steps)
        self._prompt_tokens += _SLOW * (prompts - self._prompt_tokens)
        self._with_prompts += _SLOW * ((prompts > 0) - self._with_prompts)
        self._emitted += (1.0 if self._steps == 1 else _SLOW) * (emitted - self._emitted)

    def knows(self, requests: int) -> bool:
        """Whether it is known what a plain step over so many requests costs, or there hardly are any."""
        return self._plain.recall(requests, self._steps) is not None or self._with_prompts > 0.5

    def each(self, emitted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds an emitted token takes, where steps with 0, 1, ... draft tokens emit so many, float64 (n,).

        `emitted[0]` are the requests. Prompts have to be taken in whatever is drafted: of L steps with prompts for each
        emitted token, and P tokens in those, a step over r requests with n drafts that emits E tokens makes

            (1/E - L) C(r + n) + L C(r + n + P)

        seconds a token, C the cost of a step. With 1/E < L every step takes in prompts, and so many more of their
        tokens. Where drafts are nearly free in a step that is otherwise empty, they may not be in one full of prompts.
        """
        sizes, seconds, counts = self._others.known(self._steps)
        requests = emitted[0]
        plain = self._plain.recall(int(requests), self._steps)
        if plain is not None:
            larger = sizes > requests
            sizes, seconds = np.append(requests, sizes[larger]), np.append(plain[0], seconds[larger])
            counts = np.append(plain[1], counts[larger])
        if not len(sizes):
            return 1 / emitted
        _rising(seconds, np.minimum(counts, 1 / _RATE))
        tokens = requests + np.arange(len(emitted))
        full = np.minimum(self._with_prompts / self._emitted, 1 / emitted)
        prompts = self._prompt_tokens / self._emitted / np.maximum(full, 1e-9)
        alone, along = np.interp(tokens, sizes, seconds), np.interp(tokens + prompts, sizes, seconds)
        return (1 / emitted - full) * alone + full * along


class SharedBudget:
    """The draft tokens that maximise expected tokens a second, all requests together.

    A drafted token is accepted exactly if the path up to it is, so with path probabilities p, likeliest first whichever
    request they belong to, and each corrected by its request's calibration, n of them give r + p1 + ... + pn tokens for
    r requests. vLLM lays the tokens of all requests end to end, so that costs what a step over r + n tokens does. The n
    that makes a token cheapest is taken (see `StepTimes.each`); where that is 0, or not cheaper by 3%, the step is a
    plain one.

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
        each = self.times.each(tokens)
        n = int(np.argmin(each))
        if each[n] > (1 - _MARGIN) * each[0]:
            n = 0
        self._look(likeliest, n)
        self._idle = 0 if n else self._idle + 1
        felt = drafting_s > _FELT * each[0] * r
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
