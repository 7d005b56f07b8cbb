"""Random choices and ends as `generate` makes them, for rows that are not in step with each other."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

_MEMORY = 256 * 2**20


def multinomial(probs: torch.Tensor, row: int, position: int) -> int:
    """One sequence: the next choice of torch's own generator. `probs` is (1, vocabulary)."""
    return int(torch.multinomial(probs, num_samples=1))


class SharedNoise:
    """A batch: each row's choice at each position, whichever is asked for first.

    Decoding a batch plainly, torch draws the tokens of one position for all rows at once, as the argmax of
    probabilities over exponential noise of shape (rows, vocabulary). Here a row can be positions ahead of another, so
    that a position's noise is drawn when the first row comes there, and drawn again from the generator's state then if
    it had to be forgotten before the last row came.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._states: list[torch.Tensor] = []  # the generator's, before each position
        self._noise: OrderedDict[int, torch.Tensor] = OrderedDict()

    def __call__(self, probs: torch.Tensor, row: int, position: int) -> int:
        """The token at `position` (counted from the first emitted); `probs` is (1, vocabulary)."""
        while len(self._states) <= position:
            self._states.append(_generator(probs).get_state())
            self._keep(len(self._states) - 1, self._draw(probs))
        noise = self._noise.get(position)
        if noise is None:
            now = _generator(probs).get_state()
            _generator(probs).set_state(self._states[position])
            noise = self._draw(probs)
            _generator(probs).set_state(now)
            self._keep(position, noise)
        return int((probs[0] / noise[row]).argmax())

    def _draw(self, probs: torch.Tensor) -> torch.Tensor:
        return probs.new_empty(self._rows, probs.shape[-1]).exponential_(1)

    def _keep(self, position: int, noise: torch.Tensor) -> None:
        self._noise[position] = noise
        while len(self._noise) > max(1, _MEMORY // (noise.numel() * noise.itemsize)):
            self._noise.popitem(last=False)


def _generator(probs: torch.Tensor) -> torch.Generator:
    if probs.device.type == "cuda":
        return torch.cuda.default_generators[probs.device.index or 0]
    return torch.default_generator


class Stopping:
    """Criteria of one call of `generate`.

    Ends of text and a greatest length are looked up here: asking the library's own would wait for the device after
    every token. All others are asked as plain decoding asks them.
    """

    def __init__(self, criteria: StoppingCriteriaList) -> None:
        self._ends: set[int] = set()
        self._longest = float("inf")
        self._others = StoppingCriteriaList()
        for criterion in criteria:
            if type(criterion) is EosTokenCriteria:
                self._ends |= set(criterion.eos_token_id.flatten().tolist())
            elif type(criterion) is MaxLengthCriteria and not _warns(criterion):
                self._longest = min(self._longest, criterion.max_length)
            else:
                self._others.append(criterion)

    def __call__(self, ids: torch.Tensor, token: int, scores: list[torch.Tensor] | None) -> bool:
        """Whether a row, `ids` (1, length), ends with its last token; `scores` are those it emitted, if kept."""
        kept: Any = None if scores is None else tuple(scores)
        asked: Any = self._others(ids, kept).all() if self._others else False
        return bool(asked) or token in self._ends or ids.shape[1] >= self._longest


def _warns(criterion: MaxLengthCriteria) -> bool:
    """Whether it has something to say about lengths the model was not made for."""
    return criterion.max_position_embeddings is not None and criterion.max_length > criterion.max_position_embeddings
