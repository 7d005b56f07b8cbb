"""Trees of one fixed size for all running requests, as SGLang verifies them; nothing here needs SGLang."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import Limits, Outcomes, Trees
from aded.budget import FixedBudget
from aded.drafters.base import Drafter
from aded.engines.base.asked import Asked
from aded.engines.base.slots import NamedSlots
from aded.speculation import Speculator
from aded.tree import DraftTree, Outcome

FILL = 0  # the token of nodes that a draft does not need: any would do, they are verified like all others


def flatten(trees: Sequence[DraftTree], roots: Sequence[int], size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Trees in SGLang's form.

    A row for each node, the root first, parents before children. Where a draft has fewer nodes, a chain below its last
    one fills it up: no two of them are siblings, as siblings of one token would be counted twice in sampling.

    Args:
        trees: of at most `size - 1` nodes each.
        roots: last token of each request, which its tree hangs from.
        size: rows of each.

    Returns:
        Tokens, int64 (requests * size,), and for each row which rows lie on its path, itself included, bool
        (requests * size * size,).
    """
    tokens = np.full((len(trees), size), FILL, np.int64)
    mask = np.zeros((len(trees), size, size), np.bool_)
    for i, (tree, root) in enumerate(zip(trees, roots, strict=True)):
        n = len(tree)
        tokens[i, 0], tokens[i, 1 : n + 1] = root, tree.tokens
        mask[i, :, 0] = True
        mask[i, 1 : n + 1, 1 : n + 1] = tree.ancestor_mask() | np.eye(n, dtype=np.bool_)
        for row in range(n + 1, size):
            mask[i, row] = mask[i, row - 1]
            mask[i, row, row] = True
    return tokens.reshape(-1), mask.reshape(-1)


@dataclass(frozen=True)
class Running:
    """A request that is decoded.

    Attributes:
        name: its own while it runs.
        length: tokens it has, prompt and all that were emitted.
        tokens: gives those from a place on.
        asked: gives what it asks of its drafts.
    """

    name: str
    length: int
    tokens: Callable[[int], list[int]]
    asked: Callable[[], Asked] = Asked


@dataclass(frozen=True)
class Scored:
    """The model's likeliest tokens after each row of the last pass.

    Attributes:
        names: its requests, in order.
        ids, probs: (requests * size, k), int32 and float32.
    """

    names: list[str]
    ids: NDArray[np.int32]
    probs: NDArray[np.float32]


class TreeDrafter:
    """Drafts a tree for every request, each step, and learns from what was emitted and from all scores.

    Args:
        drafter: see `server_drafter`.
        requests: as many as can run at once.
        size: rows of a tree, the root included.
        max_length: tokens of the longest sequence the model takes.
        vocabulary: ids that the model takes in are below this.
    """

    def __init__(self, drafter: Drafter, *, requests: int, size: int, max_length: int, vocabulary: int) -> None:
        if requests < 1 or size < 2:
            raise ValueError(f"there must be at least 1 request and 2 rows of a tree, not {requests} and {size}")
        self._size, self._max_length, self._vocabulary = size, max_length, vocabulary
        self._speculator = Speculator(drafter, FixedBudget(size - 1), count=requests)
        self._drafter, self._slots = drafter, NamedSlots(requests)
        self._silent = [False] * requests  # slots of requests that are to have no drafts
        self._trees = [DraftTree.empty()] * requests
        self._lengths = [0] * requests
        self.top_k = drafter.top_k  # likeliest tokens of each row that it learns

    def __call__(
        self, running: Sequence[Running], scored: Scored | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The next trees of these requests; see `flatten`.

        Args:
            running: all requests of the next pass, in its order.
            scored: what the model said in the last one.
        """
        rows = {name: i for i, name in enumerate(scored.names)} if scored is not None else {}
        outcomes: list[Outcome] = []
        for request in running:
            if (outcome := self._outcome(request, scored, rows.get(request.name))) is not None:
                outcomes.append(outcome)
        slots = np.array([self._slots.find(request.name) for request in running], np.int64)
        known = np.array([outcome.slot for outcome in outcomes], np.int64)
        self._speculator.observe(known, Outcomes(outcomes), prompt_tokens=None)
        depth = [max(min(self._size - 1, self._max_length - request.length - 1), 0) for request in running]
        depth = [0 if self._silent[slot] else most for slot, most in zip(slots.tolist(), depth, strict=True)]
        chosen = self._speculator.propose(slots, Limits(depth, nodes=self._size - 1, vocabulary=self._vocabulary))
        trees = Trees(chosen)
        for slot, tree, request in zip(slots.tolist(), trees, running, strict=True):
            self._trees[slot], self._lengths[slot] = tree, request.length
        return flatten(trees, [request.tokens(request.length - 1)[0] for request in running], self._size)

    def forget(self, names: Iterable[str]) -> None:
        """These requests have ended, or were put off: they begin anew if they come back."""
        for slot in self._slots.release(names):
            self._speculator.end(slot)

    def reset(self) -> None:
        """All requests have ended."""
        for slot in self._slots.clear():
            self._speculator.end(slot)

    def _outcome(self, request: Running, scored: Scored | None, row: int | None) -> Outcome | None:
        """What a request's last step did; None where it begins."""
        slot = self._slots.find(request.name)
        if slot is None or request.length <= self._lengths[slot]:
            slot, asked = self._slots.give(request.name) if slot is None else slot, request.asked()
            self._silent[slot] = not asked.drafts
            self._speculator.start(slot, np.array(request.tokens(0), np.int32), asked.drafter(self._drafter))
            return None
        tree, emitted = self._trees[slot], request.tokens(self._lengths[slot])
        top: dict[str, Any] = {}
        if scored is not None and row is not None:
            first = row * self._size
            rows = slice(first, first + len(tree) + 1)
            top = {"top_ids": scored.ids[rows], "top_probs": scored.probs[rows]}
        return Outcome(emitted, tree, slot=slot, **top)
