"""What a step over many sequences costs, learned from the steps: for engines that cannot be measured alone."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from aded.budget.cost import Pass
from aded.kernels.jit import jit

_RATE = 0.1  # of the latest observation in a mean
_YOUNG, _OLD = 32, 512  # steps after which a mean is forgotten, and what it was made for tried again
_CLASSES = 96  # of sizes: to some 26 million tokens
_SLOW = 1 / 64  # of the latest step in a mean over many


def _class(tokens: int) -> int:
    """Classes of sizes grow, four in each doubling."""
    return tokens - 1 if tokens <= 8 else min(int(4 * math.log2(tokens / 8)) + 8, _CLASSES - 1)


class _MovingAverages:
    """Seconds by number of tokens, in classes of sizes: means that follow the latest."""

    def __init__(self) -> None:
        self._sizes, self._seconds = np.zeros((2, _CLASSES))
        self._counts, self._latest = np.zeros((2, _CLASSES), np.int64)
        self._lives = np.full(_CLASSES, _YOUNG, np.int64)

    def learn(self, tokens: int, seconds: float, now: int) -> None:
        i = _class(tokens)
        count, known = int(self._counts[i]), float(self._seconds[i])
        if count and now - self._latest[i] >= self._lives[i]:
            count = 0
            self._lives[i] = min(2 * self._lives[i], _OLD)
        count += 1
        if count > 2:
            seconds = min(seconds, 3 * known)
        # The first of a size can compile: the second replaces it.
        rate = 1.0 if count <= 2 else max(1 / (count - 1), _RATE)
        self._latest[i], self._counts[i] = now, count
        self._seconds[i] = known + rate * (seconds - known)
        self._sizes[i] += rate * (tokens - self._sizes[i])

    def recall(self, tokens: int, now: int) -> tuple[float, int]:
        """The mean of this size's class, and of how many; of 0 if it was not seen twice lately."""
        i = _class(tokens)
        count = int(self._counts[i])
        return (float(self._seconds[i]), count) if count >= 2 and now - self._latest[i] < self._lives[i] else (0.0, 0)

    def seen(self, now: int) -> tuple[NDArray[Any], ...]:
        """Sizes, means and their observations, and steps since each was forgotten, below 0 where it is not."""
        return self._sizes, self._seconds, self._counts, now - self._latest - self._lives


@jit
def _isotonic_fit(seconds, counts):
    """Isotonic regression, in place: neighbours that fall are replaced by their mean, so that times rise with size."""
    n = len(seconds)
    starts = np.empty(n, np.int64)
    weights, levels, size = np.empty(n), np.empty(n), 0
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


@jit
def _per_token(sizes, seconds, counts, overdue, plain_s, plain_count, with_prompts, prompt_tokens, emitted):
    """See `LearnedCost.per_token`; plain steps were not seen lately where their count is 0."""
    requests, found = emitted[0], 0
    known_sizes, known_s, known_counts = np.empty(len(sizes) + 1), np.empty(len(sizes) + 1), np.empty(len(sizes) + 1)
    if plain_count > 0:
        known_sizes[0], known_s[0], known_counts[0], found = requests, plain_s, plain_count, 1
    for i in range(len(sizes)):
        if counts[i] > 0 and overdue[i] < 0 and (plain_count == 0 or sizes[i] > requests):
            known_sizes[found], known_s[found], known_counts[found] = sizes[i], seconds[i], counts[i]
            found += 1
    if not found:
        return 1.0 / emitted
    sizes, seconds, counts = known_sizes[:found], known_s[:found], known_counts[:found]
    _isotonic_fit(seconds, np.minimum(counts, 1.0 / _RATE))
    tokens = requests + np.arange(len(emitted))
    full = np.minimum(with_prompts, 1.0 / emitted)
    along = np.interp(tokens + prompt_tokens / np.maximum(full, 1e-9), sizes, seconds)
    return (1.0 / emitted - full) * np.interp(tokens, sizes, seconds) + full * along


class LearnedCost:
    """Seconds a step takes by the tokens in it, learned from the steps themselves.

    A server gives a drafter no way to time a step beforehand. Steps with nothing but a token of each sequence are known
    apart: they may have kernels or recorded graphs of their own, and have no drafts to check. Times are made to
    rise with size, or drafts would be as long as is cheapest by chance, and interpolated between sizes that were seen.
    Beyond the largest a step is taken to cost as much as that: a guess in favour of drafts, which the next corrects.

    What is old is forgotten, so that a machine or a context that has changed is noticed: soon at first, for a few
    disturbed steps may be all that was seen of a size, and after twice as many steps each time it was forgotten.
    """

    margin = 0.01
    felt = 1 / 200

    def __init__(self) -> None:
        self._plain, self._others = _MovingAverages(), _MovingAverages()
        self._steps = 0
        # Means of the latest steps: tokens of prompts, whether there were any, and tokens emitted.
        self._prompt_tokens = self._with_prompts = 0.0
        self._emitted = 1.0

    def observe(self, step: Pass) -> None:
        """Take in one step. One that was three times as slow as known was interrupted, and says little."""
        self._steps += 1
        tokens = step.tokens + step.prompt_tokens
        (self._others if tokens > step.sequences else self._plain).learn(tokens, step.seconds, self._steps)
        self._prompt_tokens += _SLOW * (step.prompt_tokens - self._prompt_tokens)
        self._with_prompts += _SLOW * ((step.prompt_tokens > 0) - self._with_prompts)
        self._emitted += (1.0 if self._steps == 1 else _SLOW) * (step.emitted - self._emitted)

    def known(self, sequences: int) -> bool:
        """Whether it is known what a plain step over so many sequences costs, or there hardly are any."""
        return self._plain.recall(sequences, self._steps)[1] > 0 or self._with_prompts > 0.5

    def times(self) -> dict[int, float]:
        """Seconds of steps by the tokens in them, as known now; a plain step's where both are."""
        found: dict[int, float] = {}
        for kind in (self._others, self._plain):
            sizes, seconds, counts, overdue = kind.seen(self._steps)
            for i in np.flatnonzero((counts > 0) & (overdue < 0)):
                found[round(float(sizes[i]))] = float(seconds[i])
        return dict(sorted(found.items()))

    def per_token(
        self, expected: NDArray[np.float64], sequences: int, each: int = 1, again: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """Seconds an emitted token takes; `each` is 1, tokens lie end to end; `again` is 0 in a server.

        Prompts have to be taken in whatever is drafted: of L steps with prompts for each emitted token, and P tokens in
        those, a step over r sequences with n drafted tokens that emits E tokens makes

            (1/E - L) C(r + n) + L C(r + n + P)

        seconds a token, C the cost of a step. With 1/E < L every step takes in prompts, and so many more of their
        tokens. Where drafts are nearly free in a step that is otherwise empty, they may not be in one full of prompts.
        """
        plain = self._plain.recall(sequences, self._steps)
        prompts = (self._with_prompts / self._emitted, self._prompt_tokens / self._emitted)
        return cast("NDArray[np.float64]", _per_token(*self._others.seen(self._steps), *plain, *prompts, expected))
