"""The adaptive drafter's side of many sequences: a table of each one's own, and the tables that it shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Chains, Drafts, Limits, Outcomes, StepOutcomes, Trees
from aded.drafters.base import Drafter, Prompt
from aded.drafters.learning import (
    ANSWER_PROBABILITY,
    PROMPT_PROBABILITY,
    build_targets,
    hide_prompt,
    learn_batch,
    learn_rows,
)
from aded.representative import Interpolation, InterpolationWeights, context_windows
from aded.representative.interpolation import em_update
from aded.representative.lookup import Table, learn
from aded.search import ChainTables, likeliest_chains
from aded.tree import DraftTree, Outcome

if TYPE_CHECKING:
    from aded.drafters.adaptive import AdaptiveDrafter

__all__ = ["AdaptiveSession", "AdaptiveSlots"]

# Slowest rate of forgetting in a sequence's own table. One sequence is more of a piece than all of them: what it says
# weighs longer than in the shared table.
OWN_FORGETTING = 0.02


class _Shared:
    """What the sequences of one tenant, who all share alike, read and learn into besides their own tables.

    Attributes:
        drafter: as their calls use it.
        tables: the shared ones.
        chains: what a search of chains reads; None where sequences have no tables of their own.
        forgetting: rates of a sequence's own table, if there is one, and of the shared one.
    """

    def __init__(self, drafter: AdaptiveDrafter, pool: Table | None, orders: NDArray[np.int64]) -> None:
        self.drafter = drafter
        self.tables = tuple(layer.arrays for layer in drafter.shared)
        self.chains = None if pool is None else ChainTables.of(pool, self.tables, orders)
        own = [] if pool is None else [OWN_FORGETTING]
        self.forgetting = np.array([*own, drafter.representative.forgetting], np.float32)

    def serves(self, drafter: AdaptiveDrafter) -> bool:
        """Whether it is the same for a call of this drafter."""
        mine = self.drafter
        return mine.representative is drafter.representative and mine.share == drafter.share


class AdaptiveSlots:
    """The sequences' own tables, in one pool, and their last tokens."""

    def __init__(self, drafter: AdaptiveDrafter, count: int) -> None:
        self._drafter = drafter
        self._orders: NDArray[np.int64] = np.asarray(drafter.representative.orders, np.int64)
        self._all_orders = np.asarray(sorted({o for layer in drafter.shared for o in layer.orders}), np.int64)
        self._pool: Table | None = None
        if drafter.sequence_mb > 0:
            self._pool = Table.empty(drafter.sequence_mb, drafter.sequence_successors, count)
        shared = _Shared(drafter, self._pool, self._all_orders)
        self._shared: dict[int, _Shared] = {0: shared}  # those that sequences have, and the drafter's own
        self._which = np.zeros(count, np.int64)  # of them, each sequence's
        self._mixed: list[Interpolation | None] = [None] * count
        self._width = drafter.context_length
        self._recent = np.full((count, self._width), -1, np.int32)
        self._weights = [drafter.weights] * count  # of each sequence, its own unless all is shared
        self._clock = 0  # times it learned where nothing is shared
        self._said = np.zeros(count, np.int64)  # tokens of each that the target said

    def start(self, slot: int, prompt: Prompt, drafter: Drafter | None = None) -> None:
        """Begin a sequence, whatever was in the slot: its prompt is learned as text.

        Args:
            drafter: this drafter as the sequence's call is to use it, of `AdaptiveDrafter.sharing`.
        """
        self._share(slot, self._drafter if drafter is None else cast("AdaptiveDrafter", drafter))
        made = self._of(slot).drafter
        tokens, table = np.asarray(prompt, np.int32), made.representative
        self._recent[slot], self._said[slot] = -1, 0
        self._weights[slot] = made.weights if made.share == "all" else deepcopy(made.weights)
        self._mixed[slot] = None
        self._append(slot, tokens)
        if self._pool is not None:
            self._pool.keys[slot] = 0  # a table without keys is empty
            contexts, following = context_windows(tokens, table.context_length, 0)
            probs = np.full((len(following), 1), PROMPT_PROBABILITY, np.float32)
            clock = np.uint32(table.clock)
            learn(self._own(slot), self._orders, contexts, following[:, None], probs, clock, np.float32(OWN_FORGETTING))
        if made.share == "all":
            table.learn_text(tokens, probability=PROMPT_PROBABILITY)
            table.holds_prompts = True

    def end(self, slot: int) -> None:
        """A sequence has ended: let go of what it shared."""
        self._which[slot], self._mixed[slot] = 0, None
        if len(self._shared) > 1:
            in_use = {0, *self._which.tolist()}
            self._shared = {name: shared for name, shared in self._shared.items() if name in in_use}

    def draft(self, slots: NDArray[np.int64], max_nodes: int, limits: Limits, threshold: float) -> Drafts:
        """The likeliest continuations."""
        if limits.trees or self._pool is None:
            search = self._drafter.search
            return Trees([search(self._mix(slot), self._recent[slot], max_nodes) for slot in slots.tolist()])
        depth, found = np.asarray(limits.depth, np.int64), []
        groups = self._groups(slots)
        for shared, rows in groups:
            assert shared.chains is not None
            read = (shared.chains, shared.drafter.weights.shares, slots[rows], self._recent)
            found.append(likeliest_chains(*read, depth[rows], longest=max_nodes, min_probability=threshold))
        if len(groups) == 1:
            return found[0]
        ids, paths = np.empty((len(slots), max_nodes), np.int32), np.empty((len(slots), max_nodes), np.float32)
        for (_, rows), chains in zip(groups, found, strict=True):
            ids[rows], paths[rows] = chains.ids, chains.paths
        return Chains(ids, paths)

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> Callable[[], None]:
        """Take the emitted tokens in, and learn from them with what is returned."""
        if isinstance(outcomes, ChainOutcomes):
            self._recent[slots] = outcomes.recent[:, -self._width :]
            return partial(self._learn_chains, slots, outcomes)
        return partial(self._learn_trees, cast(Outcomes, outcomes))

    def _learn_chains(self, slots: NDArray[np.int64], outcomes: ChainOutcomes) -> None:
        for shared, rows in self._groups(slots):
            self._learn_batch(shared, slots[rows], outcomes.recent[rows], outcomes.emitted[rows])

    def _learn_trees(self, outcomes: Outcomes) -> None:
        for outcome in outcomes:
            self.learn(outcome)

    def learn(self, outcome: Outcome) -> None:
        """Learn from one sequence's step."""
        slot, emitted = outcome.slot, np.asarray(outcome.emitted, np.int32)
        if outcome.top_ids is None or outcome.top_probs is None:
            recent = np.concatenate([self._recent[slot], emitted])
            self._append(slot, emitted)
            if self._pool is None:
                contexts, chosen = context_windows(recent, self._width, self._width)
                self._learn_rows(slot, contexts, chosen, chosen[:, None], np.ones((len(chosen), 1), np.float32))
                self._said[slot] += len(emitted)
            elif len(emitted):
                one = (np.array([slot]), recent[None], np.array([len(emitted)]))
                self._learn_batch(self._of(slot), *one, self._weights[slot], ANSWER_PROBABILITY)
            return
        tree, ids = outcome.tree, outcome.top_ids.copy()
        contexts = np.empty((len(ids), self._width), np.int32)
        chosen, targets = np.empty(len(ids), np.int32), np.empty(ids.shape, np.float32)
        path, weight = np.asarray(outcome.path, np.int64), np.float32(self._drafter.choice_weight)
        scored = (self._recent[slot], tree.tokens, tree.parents, path, ids, outcome.top_probs, emitted, weight)
        build_targets(*scored, contexts, chosen, targets)
        self._append(slot, emitted)
        self._learn_rows(slot, contexts, chosen, ids, targets)
        self._said[slot] += len(emitted)

    def _learn_rows(self, slot: int, contexts: Any, chosen: Any, ids: Any, targets: Any) -> None:
        shared, weights = self._of(slot), self._weights[slot]
        table, share, forgetting = shared.drafter.representative, shared.drafter.share, shared.forgetting
        own = () if self._pool is None else (self._own(slot),)
        interpolation = ((*own, *shared.tables), self._all_orders, weights.shares, weights.seen, weights.steps)
        with self._learning(shared) as clock:
            if share == "all":
                rows = (contexts, chosen, ids, targets, clock)
                learn_rows(*interpolation, (*own, table.arrays), self._orders, forgetting, *rows)
                return
            em_update(*interpolation[:-1], contexts, chosen, *weights.steps)
            if own:
                learn(*own, self._orders, contexts, ids, targets, clock, forgetting[0])
            if share == "answers":
                on_path = chosen >= 0
                contexts, said = contexts[on_path], chosen[on_path][:, None]
                hide_prompt(contexts, int(self._said[slot]))
                probs = np.full(said.shape, ANSWER_PROBABILITY, np.float32)
                learn(table.arrays, self._orders, contexts, said, probs, clock, forgetting[-1])

    def _learn_batch(
        self,
        shared: _Shared,
        slots: NDArray[np.int64],
        recent: NDArray[np.int32],
        emitted: NDArray[np.int64],
        weights: InterpolationWeights | None = None,
        sure: float = 1.0,
    ) -> None:
        """Learn tokens that came without scores; all sequences together move `weights`, by default the drafter's."""
        weights, share = weights or shared.drafter.weights, shared.drafter.share
        interpolation = (shared.tables, self._all_orders, weights.shares, weights.seen, weights.steps)
        said = np.full(len(slots), self._width) if share == "all" else self._said[slots]
        with self._learning(shared) as clock:
            rows = (slots, recent, emitted, clock, said, share != "nothing", np.float32(sure))
            learn_batch(self._pool, *interpolation, self._orders, shared.forgetting, *rows)
        self._said[slots] += emitted

    @contextmanager
    def _learning(self, shared: _Shared) -> Iterator[np.uint32]:
        """Hold the shared table, unless nothing is shared: its own clock then stamps what a sequence learns."""
        table = shared.drafter.representative
        if shared.drafter.share == "nothing":
            self._clock += 1
            yield np.uint32(table.clock + self._clock)
            return
        with table.learning() as clock:
            yield clock

    def _share(self, slot: int, drafter: AdaptiveDrafter) -> None:
        """Let a sequence have what a drafter shares."""
        self.end(slot)
        same = [name for name, shared in self._shared.items() if shared.serves(drafter)]
        name = same[0] if same else max(self._shared) + 1
        if not same:
            self._shared[name] = _Shared(drafter, self._pool, self._all_orders)
        self._which[slot] = name

    def _of(self, slot: int) -> _Shared:
        return self._shared[int(self._which[slot])]

    def _groups(self, slots: NDArray[np.int64]) -> list[tuple[_Shared, NDArray[np.int64] | slice]]:
        """The places of `slots` by what their sequences share."""
        if len(self._shared) == 1:
            return [(self._shared[0], slice(None))]
        which = self._which[slots]
        return [(self._shared[name], np.flatnonzero(which == name)) for name in np.unique(which).tolist()]

    def _append(self, slot: int, tokens: NDArray[np.int32]) -> None:
        recent, n = self._recent[slot], min(len(tokens), self._width)
        if n:
            recent[: self._width - n] = recent[n:].copy()
            recent[self._width - n :] = tokens[len(tokens) - n :]

    def _own(self, slot: int) -> Table:
        assert self._pool is not None
        return Table(*(array[slot] for array in self._pool))

    def _mix(self, slot: int) -> Interpolation:
        """What a tree search reads for a sequence."""
        found = self._mixed[slot]
        if found is None:
            own = [] if self._pool is None else [self._own(slot)]
            tables, weights = [*own, *self._of(slot).tables], self._weights[slot]
            found = self._mixed[slot] = Interpolation.of(tables, self._all_orders, weights)
        return found


class AdaptiveSession:
    """One sequence by itself."""

    def __init__(self, slots: AdaptiveSlots) -> None:
        self._slots, self._one = slots, np.zeros(1, np.int64)

    def draft(self, max_nodes: int) -> DraftTree:
        drafts = self._slots.draft(self._one, max_nodes, Limits([max_nodes]), 0.0)
        return next(iter(drafts))

    def observe(self, outcome: Outcome) -> None:
        self._slots.learn(replace(outcome, slot=0))  # whichever it has in a batch of someone else's
