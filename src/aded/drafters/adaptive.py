"""ADED: learns the target's distribution at every scored position and drafts the likeliest tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aded.drafters.base import Observation, TokenBuffer, register
from aded.representative import Representative
from aded.representative.kernels import jit
from aded.search import best_first, mcts
from aded.search.best_first import fill_context
from aded.tree import DraftTree

__all__ = ["AdaptiveDrafter"]

_SEARCHES: dict[str, Callable[..., DraftTree]] = {"best_first": best_first, "mcts": mcts}


@jit
def _contexts(tail, tokens, parents, length):
    """int32 (n + 1, length): the context at the root and at every node."""
    out = np.empty((len(tokens) + 1, length), np.int32)
    for row in range(len(tokens) + 1):
        fill_context(out[row], tail, tokens, parents, row - 1)
    return out


@register("adaptive")
class AdaptiveDrafter:
    """The default drafter.

    Args:
        representative: learned state to draft from and add to; a new one of `memory_mb` MiB when left out.
        memory_mb: memory of a new representative.
        search: "best_first" or "mcts".
        top_k: how many of the target's likeliest tokens are learned at each scored position.
    """

    def __init__(
        self,
        representative: Representative | None = None,
        *,
        memory_mb: float = 64.0,
        search: str = "best_first",
        top_k: int = 8,
    ) -> None:
        if search not in _SEARCHES:
            raise ValueError(f"search must be one of {', '.join(_SEARCHES)}, not {search!r}")
        self.representative = representative or Representative(memory_mb=memory_mb)
        self.top_k = top_k
        self._search = _SEARCHES[search]

    @property
    def nbytes(self) -> int:
        """Bytes of learned state."""
        return self.representative.nbytes

    def start(self, prompt: Sequence[int]) -> _Session:
        """Begin a sequence; its prompt is learned as text."""
        self.representative.learn_text(prompt)
        return _Session(self, prompt)

    def save(self, path: str | Path) -> None:
        """Save what was learned; see `Representative.save`."""
        self.representative.save(path)

    def load(self, path: str | Path) -> None:
        """Load what was learned; see `Representative.load`."""
        self.representative.load(path)


class _Session:
    def __init__(self, drafter: AdaptiveDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._tokens = TokenBuffer(prompt)

    def draft(self, max_nodes: int) -> DraftTree:
        representative = self._drafter.representative
        return self._drafter._search(representative, self._tokens.view(representative.context_length), max_nodes)

    def observe(self, observation: Observation) -> None:
        representative = self._drafter.representative
        if observation.top_ids is not None and observation.top_probs is not None:
            tail = self._tokens.view(representative.context_length)
            tree = observation.tree
            contexts = _contexts(tail, tree.tokens, tree.parents, representative.context_length)
            representative.learn(contexts, observation.top_ids, observation.top_probs)
            self._tokens.extend(observation.emitted)
        else:
            start = len(self._tokens)
            self._tokens.extend(observation.emitted)
            recent = len(observation.emitted) + representative.context_length
            lead = max(start - representative.context_length, 0)
            representative.learn_text(self._tokens.view(recent), start=start - lead)
