"""Stopping criteria, asked once after each token."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

__all__ = ["Stopping"]


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

    def __call__(self, ids: torch.Tensor, token: int) -> bool:
        """Whether a row, `ids` (1, length), ends with its last token."""
        asked: Any = self._others(ids, None).all() if self._others else False
        return bool(asked) or token in self._ends or ids.shape[1] >= self._longest


def _warns(criterion: MaxLengthCriteria) -> bool:
    """Whether it has something to say about lengths the model was not made for."""
    return criterion.max_position_embeddings is not None and criterion.max_length > criterion.max_position_embeddings
