"""ADED: learns the target's distribution at every scored position and drafts the likeliest tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aded.drafters.base import Observation, TokenBuffer, register
from aded.representative import Blend, Corpus, Representative, Trust, windows
from aded.representative.kernels import jit
from aded.search import best_first, mcts
from aded.search.best_first import fill_context
from aded.tree import DraftTree

__all__ = ["PROMPT_PROBABILITY", "AdaptiveDrafter", "first_trust"]

_SEARCHES: dict[str, Callable[..., DraftTree]] = {"best_first": best_first, "mcts": mcts}

# Observations it takes to believe a context half, by its length: where `Trust` starts before it has learned better.
_DOUBT = {0: 1.0, 1: 0.6, 2: 1.0, 3: 1.0, 5: 1.0, 8: 0.5}
# A prompt is text the target did not write: its tokens count as ones the target would give half its mass.
PROMPT_PROBABILITY = 0.5


@jit
def _lessons(tail, tokens, parents, ids, probs, emitted, weight, contexts, chosen, targets):
    """Fill the context (n + 1, c) of every scored row, the token chosen there (-1 off the path), what to learn.

    On the path that is the distribution with `weight` of its mass moved to the choice: under greedy decoding the next
    visit to a context most often chooses the same again, which the distribution alone underrates.
    """
    for row in range(len(tokens) + 1):
        fill_context(contexts[row], tail, tokens, parents, row - 1)
    chosen[:] = -1
    targets[:] = probs
    row = 0
    for token in emitted:
        if ids[row, 0] < 0:
            return
        chosen[row] = token
        place = ids.shape[1] - 1
        for i in range(ids.shape[1]):
            targets[row, i] *= np.float32(1.0) - weight
            if ids[row, i] == token:
                place = i
        if ids[row, place] != token:  # a token sampled from the tail replaces the least likely of the head
            ids[row, place] = token
            targets[row, place] = 0.0
        targets[row, place] += weight
        child = row  # children come after their parents
        while child < len(tokens) and not (parents[child] == row - 1 and tokens[child] == token):
            child += 1
        if child == len(tokens):
            return
        row = child + 1


def first_trust(shared: Sequence[Representative | Corpus], *, own: bool) -> Trust:
    """What to believe at first of shared tables, and of each sequence's own before them if there is one."""
    orders = sorted({order for layer in shared for order in layer.orders})
    return Trust(orders, len(shared) + own, [_DOUBT.get(order, 1.0) for order in orders])


@register("adaptive")
class AdaptiveDrafter:
    """The default drafter: a representative shared by all sequences, a small one of each sequence's own before it.

    Args:
        representative: learned state to draft from and add to; a new one of `memory_mb` MiB when left out.
        memory_mb: memory of a new shared representative.
        sequence_mb: memory of each sequence's own, released with the sequence; 0 for none.
        search: "best_first" or "mcts".
        top_k: how many of the target's likeliest tokens are learned at each scored position.
        choice_weight: how much of what is learned at a position is the token chosen there; the rest is the
            distribution.
        corpus: read after what was learned: a corpus, or the path of one. It is shared between processes and does not
            count as memory of this drafter.
        trust: how far tables are believed at first, and how that is learned; by default counts decide at first.
    """

    def __init__(
        self,
        representative: Representative | None = None,
        *,
        memory_mb: float = 60.0,
        sequence_mb: float = 4.0,
        search: str = "best_first",
        top_k: int = 8,
        choice_weight: float = 0.5,
        corpus: Corpus | str | Path | None = None,
        trust: Trust | None = None,
    ) -> None:
        if search not in _SEARCHES:
            raise ValueError(f"search must be one of {', '.join(_SEARCHES)}, not {search!r}")
        self.representative = representative or Representative(memory_mb=memory_mb)
        self.sequence_mb = sequence_mb
        self.top_k = top_k
        self._search = _SEARCHES[search]
        self.choice_weight = choice_weight
        self.corpus = Corpus.open(corpus) if isinstance(corpus, str | Path) else corpus
        shared: list[Representative | Corpus] = [self.representative]
        if self.corpus is not None:
            self.corpus.check(self.representative)
            shared.append(self.corpus)
        self._shared = shared
        self._trust = trust or first_trust(shared, own=sequence_mb > 0)

    @property
    def nbytes(self) -> int:
        """Bytes of learned state: what is shared and one sequence's own."""
        return self.representative.nbytes + int(self.sequence_mb * 2**20)

    def start(self, prompt: Sequence[int]) -> _Session:
        """Begin a sequence; its prompt is learned as text."""
        return _Session(self, prompt)

    def save(self, path: str | Path) -> None:
        """Save what was learned; see `Representative.save`."""
        self.representative.save(path)

    def load(self, path: str | Path) -> None:
        """Load what was learned; see `Representative.load`."""
        self.representative.load(path)


class _Session:
    def __init__(self, drafter: AdaptiveDrafter, prompt: Sequence[int]) -> None:
        shared = drafter.representative
        self._learning = [shared]
        if drafter.sequence_mb > 0:
            # One sequence is more of a piece than all of them: what it says weighs longer.
            own = Representative(
                memory_mb=drafter.sequence_mb, orders=shared.orders, successors=shared.successors, forgetting=0.02
            )
            self._learning.insert(0, own)
        self._blend = Blend([*self._learning[:-1], *drafter._shared], drafter._trust)
        self._search = drafter._search
        self._weight = np.float32(drafter.choice_weight)
        self._tokens = TokenBuffer(prompt)
        for layer in self._learning:
            layer.learn_text(prompt, probability=PROMPT_PROBABILITY)

    def draft(self, max_nodes: int) -> DraftTree:
        return self._search(self._blend, self._tokens.view(self._blend.context_length), max_nodes)

    def observe(self, observation: Observation) -> None:
        length = self._blend.context_length
        emitted = np.asarray(observation.emitted, np.int32)
        if observation.top_ids is not None and observation.top_probs is not None:
            tree, ids = observation.tree, observation.top_ids.copy()
            contexts = np.empty((len(ids), length), np.int32)
            chosen, targets = np.empty(len(ids), np.int32), np.empty(ids.shape, np.float32)
            tail = self._tokens.view(length)
            scored = (tail, tree.tokens, tree.parents, ids, observation.top_probs, emitted, self._weight)
            _lessons(*scored, contexts, chosen, targets)
            self._tokens.extend(observation.emitted)
        else:
            self._tokens.extend(observation.emitted)
            recent = self._tokens.view(len(emitted) + length)
            contexts, chosen = windows(recent, length, len(recent) - len(emitted))
            ids, targets = chosen[:, None], np.ones((len(chosen), 1), np.float32)
        self._blend.trust.learn(self._blend, contexts, chosen)
        for layer in self._learning:
            layer.learn(contexts, ids, targets)
