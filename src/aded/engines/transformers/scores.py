"""What one forward pass scored: for each row the token that `generate` would choose, and the likeliest beside it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from aded.engines.transformers.engine import TransformersEngine

_GROUP = 64


def top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Ids of the k highest logits, best first: (..., vocabulary) -> (..., k), fewer if there are not as many.

    The k best lie in the k groups with the best maxima. Finding those takes one quick look at every logit, a fraction
    of the time of `topk` over a vocabulary.
    """
    size = logits.shape[-1]
    if size < 4 * k * _GROUP:
        return logits.topk(min(k, size), dim=-1).indices
    if size % _GROUP:
        logits = torch.nn.functional.pad(logits, (0, -size % _GROUP), value=float("-inf"))
    groups = logits.unflatten(-1, (-1, _GROUP))
    chosen = groups.amax(-1).topk(k, dim=-1).indices
    members = groups.gather(-2, chosen[..., None].expand(*chosen.shape, _GROUP)).flatten(-2)
    best = members.topk(k, dim=-1).indices
    ids: torch.Tensor = chosen.gather(-1, best // _GROUP) * _GROUP + best % _GROUP
    return ids


class ForwardScores:
    """Logits of one forward pass, (rows, tokens, vocabulary), and what all rows ask of them at once.

    The best tokens and the k likeliest come from the device together, in the one moment of a step that waits for it.
    """

    def __init__(self, logits: torch.Tensor, k: int) -> None:
        self.logits = logits.float()  # as generate does before any processor
        self.k = k

    @cached_property
    def fetched(self) -> NDArray[np.int32]:
        """int32 (rows, tokens, 1 + 2 k): the best token, the likeliest ids, and the bits of their probabilities."""
        best = [self.logits.argmax(-1, keepdim=True).int()]
        if self.k:
            ids = top_k(self.logits, self.k)
            probs = self.logits.log_softmax(-1).gather(-1, ids).exp()
            best += [ids.int(), probs.contiguous().view(torch.int32)]
        fetched: NDArray[np.int32] = torch.cat(best, dim=-1).cpu().numpy()
        return fetched


class RowScores:
    """One row of a pass; chooses tokens as `generate` does.

    Args:
        index: the row's place in the pass; slot: its place in the batch.
        first, count: the tokens of the pass that are its draft's root and nodes.

    Attributes:
        chosen_from: processed and raw scores (1, vocabulary) of the token chosen last, where they were computed.
    """

    def __init__(
        self, engine: TransformersEngine, scored: ForwardScores, index: int, slot: int, count: int, first: int = 0
    ) -> None:
        self._engine, self._pass, self._index, self._slot = engine, scored, index, slot
        self._first, self._count = first, count
        self.chosen_from: tuple[torch.Tensor, torch.Tensor] | None = None

    def choose(self, row: int) -> int:
        engine = self._engine
        if engine.plain_greedy:
            return int(self._pass.fetched[self._index, self._first + row, 0])
        logits = self.logits(row)[None].to(engine.device, copy=True)
        scores = engine.processors[self._slot](engine.ids(self._slot), logits)
        self.chosen_from = scores, logits
        if engine.config.do_sample:
            return engine.sampler(torch.softmax(scores, dim=-1), self._slot, engine.emitted(self._slot))
        return int(scores.argmax(-1))

    def logits(self, row: int) -> torch.Tensor:
        """float32 (vocabulary,), before any processor."""
        return self._pass.logits[self._index, self._first + row]

    def top_k(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        if not self._pass.k:
            return None
        mine = self._pass.fetched[self._index, self._first : self._first + self._count, 1:]
        ids, probs = np.split(mine, 2, axis=-1)
        return ids, probs.view(np.float32)
