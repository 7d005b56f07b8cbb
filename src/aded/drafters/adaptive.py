"""ADED: learns the target's distribution at every scored position, and drafts the likeliest trees or chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Drafts, Limits, Outcomes, StepOutcomes, Trees
from aded.deprecation import renamed_option
from aded.drafters.base import Session, register
from aded.drafters.learning import (
    ANSWER_PROBABILITY,
    CHOICE_WEIGHT,
    PROMPT_PROBABILITY,
    build_targets,
    hide_prompt,
    learn_batch,
    learn_rows,
)
from aded.drafters.sharing import Share, check_share
from aded.representative import Corpus, Interpolation, InterpolationWeights, Representative, context_windows
from aded.representative.interpolation import em_update
from aded.representative.lookup import Table, learn
from aded.representative.tenants import Tenants, load_tables, save_tables
from aded.search import ChainTables, best_first, likeliest_chains, mcts
from aded.tree import DraftTree, Outcome

_SEARCHES: dict[str, Callable[..., DraftTree]] = {"best_first": best_first, "mcts": mcts}

# Observations it takes to believe a context half, by its length: where the interpolation starts before it knows better.
_PRIOR_STRENGTH = {0: 1.0, 1: 0.6, 2: 1.0, 3: 1.0, 5: 1.0, 8: 0.5}
# Slowest rate of forgetting in a sequence's own table. One sequence is more of a piece than all of them: what it says
# weighs longer than in the shared table.
_OWN_FORGETTING = 0.02


def initial_weights(shared: Sequence[Representative | Corpus], *, own: bool) -> InterpolationWeights:
    """What to believe at first of shared tables, and of each sequence's own before them if there is one."""
    orders = sorted({order for layer in shared for order in layer.orders})
    return InterpolationWeights(orders, len(shared) + own, [_PRIOR_STRENGTH.get(order, 1.0) for order in orders])


@register("adaptive")
class AdaptiveDrafter:
    """The default drafter: a representative shared by all sequences, a small one of each sequence's own before it.

    Args:
        representative: learned state to draft from and add to; a new one of `memory_mb` MiB when left out.
        memory_mb: memory of a new shared representative.
        successors: continuations it keeps for each context.
        reserve: take all of its memory at once, and not little by little while it learns.
        sequence_mb: memory of each sequence's own, released with the sequences; 0 for none.
        sequence_successors: continuations kept for each context there; None: as many as in the shared one.
        search: "best_first" or "mcts".
        top_k: how many of the target's likeliest tokens are learned at each scored position.
        choice_weight: how much of what is learned at a position is the token chosen there; the rest is the
            distribution.
        share: what other sequences, and a file of what was learned, get of a sequence. "answers": the tokens that the
            target said, and nothing of what it was asked; "nothing"; or "all": prompts too, and what the target thought
            likely besides what it said. A sequence's own table, which goes with it, learns everything.
        tenant_mb: memory of each tenant's table, see `sharing`.
        tenants_mb: memory of all of these together: the tenant that was not heard of for longest is forgotten for a new
            one.
        corpus: read after what was learned: a corpus, or the path of one. It is shared between processes and does not
            count as memory of this drafter.
        weights: how far tables are believed at first, and how that is learned; by default counts decide at first.
        share_prompts: the old form of `share`: True is "all", False "answers".
    """

    def __init__(
        self,
        representative: Representative | None = None,
        *,
        memory_mb: float = 60.0,
        successors: int = 24,
        reserve: bool = False,
        sequence_mb: float = 4.0,
        sequence_successors: int | None = None,
        search: str = "best_first",
        top_k: int = 8,
        choice_weight: float = CHOICE_WEIGHT,
        share: Share = "answers",
        tenant_mb: float = 8.0,
        tenants_mb: float = 128.0,
        corpus: Corpus | str | Path | None = None,
        weights: InterpolationWeights | None = None,
        share_prompts: bool | None = None,
    ) -> None:
        share = renamed_option("share_prompts", _share_of(share_prompts), "share", share, "answers")
        if search not in _SEARCHES:
            raise ValueError(f"search must be one of {', '.join(_SEARCHES)}, not {search!r}")
        self.representative = representative or Representative(memory_mb=memory_mb, successors=successors)
        if reserve and representative is None:
            self.representative.clear()
        self.sequence_mb = sequence_mb
        self.sequence_successors = sequence_successors or self.representative.successors
        self.top_k, self.choice_weight, self.share = top_k, choice_weight, check_share(share or "")
        self.search = _SEARCHES[search]
        self.corpus = Corpus.open(corpus) if isinstance(corpus, str | Path) else corpus
        self.shared: list[Representative | Corpus] = [self.representative]
        if self.corpus is not None:
            self.corpus.check(self.representative)
            self.shared.append(self.corpus)
        self.weights = weights or initial_weights(self.shared, own=sequence_mb > 0)
        self._first_weights = deepcopy(self.weights)
        if not 0 < tenant_mb <= tenants_mb:
            raise ValueError(f"tenant_mb must be positive and at most tenants_mb, not {tenant_mb} of {tenants_mb}")
        tenants = (tenant_mb, int(tenants_mb / tenant_mb))
        self._tenants: Tenants[AdaptiveDrafter] = Tenants(self.representative, *tenants)

    def sharing(self, share: Share | None = None, tenant: str | None = None) -> AdaptiveDrafter:
        """This drafter as one call is to use it.

        Args:
            share: what others get of the call's sequences; None: as the drafter was made.
            tenant: on whose behalf it is: a tenant has a table of its own, read and learned into in place of the common
                one. What one tenant asks and is answered changes no draft of another's.
        """
        drafter = self if tenant is None else self._tenants.of(tenant, self._of_tenant)
        if share is None or share == drafter.share:
            return drafter
        other = copy(drafter)
        other.share = check_share(share)
        return other

    def _of_tenant(self, table: Representative) -> AdaptiveDrafter:
        """One with this table in place of the common one."""
        drafter = copy(self)
        drafter.representative, drafter.shared = table, [table, *self.shared[1:]]
        drafter.weights = deepcopy(self._first_weights)
        drafter._tenants = Tenants(table, 1.0, 1)  # a tenant has none
        return drafter

    @property
    def nbytes(self) -> int:
        """Bytes of learned state: what is shared, with all or within tenants, and one sequence's own."""
        tenants = sum(table.nbytes for table in self._tenants.tables.values())
        return self.representative.nbytes + tenants + int(self.sequence_mb * 2**20)

    @property
    def clock(self) -> int:
        """Times it learned, from tenants too; grows whenever it does."""
        return self.representative.clock + self._tenants.clock

    @property
    def context_length(self) -> int:
        """Tokens of context a draft looks at."""
        return max(layer.orders[-1] for layer in self.shared)

    def start(self, prompt: Sequence[int]) -> Session:
        """Begin a sequence; its prompt is learned as text."""
        slots = _AdaptiveSlots(self, 1)
        slots.start(0, prompt)
        return _Session(slots)

    def open(self, count: int) -> _AdaptiveSlots:
        """Slots for so many sequences, drafted for and learned from together."""
        return _AdaptiveSlots(self, count)

    def scratch(self) -> AdaptiveDrafter:
        """One that knows nothing and takes little memory."""
        return AdaptiveDrafter(memory_mb=1)

    def bind(self, vocab_size: int, fingerprint: str) -> None:
        """Say whose tokens it drafts.

        Raises:
            CorpusFileError: the corpus is of another vocabulary or tokenizer.
        """
        for table in [self.representative, *self._tenants.tables.values()]:
            table.vocab_size, table.fingerprint = vocab_size, fingerprint
        if self.corpus is not None:
            self.corpus.check(self.representative)

    def save(self, path: str | Path) -> None:
        """Save what was learned, that of all tenants in the same file; see `Representative.save`."""
        save_tables(path, self.representative, self._tenants.tables)

    def load(self, path: str | Path) -> None:
        """Load what was learned, that of tenants too; see `Representative.load`."""
        tables = load_tables(path, self.representative, self._tenants.new, self._tenants.most)
        self._tenants.put(tables, self._of_tenant)


def _share_of(prompts: bool | None) -> Share | None:
    return None if prompts is None else "all" if prompts else "answers"


class _AdaptiveSlots:
    """The sequences' own tables, in one pool, and their last tokens."""

    def __init__(self, drafter: AdaptiveDrafter, count: int) -> None:
        shared = drafter.representative
        self._drafter, self._shared = drafter, tuple(layer.arrays for layer in drafter.shared)
        self._orders: NDArray[np.int64] = np.asarray(shared.orders, np.int64)
        self._all_orders = np.asarray(sorted({o for layer in drafter.shared for o in layer.orders}), np.int64)
        self._pool: Table | None = None
        self._chain_tables: ChainTables | None = None
        if drafter.sequence_mb > 0:
            self._pool = Table.empty(drafter.sequence_mb, drafter.sequence_successors, count)
            self._chain_tables = ChainTables.of(self._pool, self._shared, self._all_orders)
        self._mixed: list[Interpolation | None] = [None] * count
        own = [] if self._pool is None else [_OWN_FORGETTING]
        self._forgetting = np.array([*own, shared.forgetting], np.float32)
        self._width = drafter.context_length
        self._recent = np.full((count, self._width), -1, np.int32)
        self._weights = [drafter.weights] * count  # of each sequence, its own unless all is shared
        self._clock = 0  # times it learned where nothing is shared
        self._said = np.zeros(count, np.int64)  # tokens of each that the target said

    def start(self, slot: int, prompt: Sequence[int] | NDArray[np.int32]) -> None:
        """Begin a sequence, whatever was in the slot: its prompt is learned as text."""
        tokens, table = np.asarray(prompt, np.int32), self._drafter.representative
        self._recent[slot], self._said[slot] = -1, 0
        if self._drafter.share != "all":
            self._weights[slot], self._mixed[slot] = deepcopy(self._drafter.weights), None
        self._append(slot, tokens)
        if self._pool is not None:
            self._pool.keys[slot] = 0  # a table without keys is empty
            contexts, following = context_windows(tokens, table.context_length, 0)
            probs = np.full((len(following), 1), PROMPT_PROBABILITY, np.float32)
            clock = np.uint32(table.clock)
            learn(self._own(slot), self._orders, contexts, following[:, None], probs, clock, self._forgetting[0])
        if self._drafter.share == "all":
            table.learn_text(tokens, probability=PROMPT_PROBABILITY)
            table.holds_prompts = True

    def draft(self, slots: NDArray[np.int64], max_nodes: int, limits: Limits, threshold: float) -> Drafts:
        """The likeliest continuations."""
        if limits.trees or self._chain_tables is None:
            search = self._drafter.search
            return Trees([search(self._mix(slot), self._recent[slot], max_nodes) for slot in slots.tolist()])
        read = (self._chain_tables, self._drafter.weights.shares, slots, self._recent)
        depth = np.asarray(limits.depth, np.int64)
        return likeliest_chains(*read, depth, longest=max_nodes, min_probability=threshold)

    def observe(self, slots: NDArray[np.int64], outcomes: StepOutcomes) -> Callable[[], None]:
        """Take the emitted tokens in, and learn from them with what is returned."""
        if isinstance(outcomes, ChainOutcomes):
            self._recent[slots] = outcomes.recent[:, -self._width :]
            return partial(self._learn_batch, slots, outcomes.recent, outcomes.emitted)
        return partial(self._learn_trees, cast(Outcomes, outcomes))

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
                self._learn_batch(*one, self._weights[slot], ANSWER_PROBABILITY)
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
        table, weights = self._drafter.representative, self._weights[slot]
        own = () if self._pool is None else (self._own(slot),)
        interpolation = ((*own, *self._shared), self._all_orders, weights.shares, weights.seen, weights.steps)
        with self._learning() as clock:
            if self._drafter.share == "all":
                rows = (contexts, chosen, ids, targets, clock)
                learn_rows(*interpolation, (*own, table.arrays), self._orders, self._forgetting, *rows)
                return
            em_update(*interpolation[:-1], contexts, chosen, *weights.steps)
            if own:
                learn(*own, self._orders, contexts, ids, targets, clock, self._forgetting[0])
            if self._drafter.share == "answers":
                on_path = chosen >= 0
                contexts, said = contexts[on_path], chosen[on_path][:, None]
                hide_prompt(contexts, int(self._said[slot]))
                probs = np.full(said.shape, ANSWER_PROBABILITY, np.float32)
                learn(table.arrays, self._orders, contexts, said, probs, clock, self._forgetting[-1])

    def _learn_batch(
        self,
        slots: NDArray[np.int64],
        recent: NDArray[np.int32],
        emitted: NDArray[np.int64],
        weights: InterpolationWeights | None = None,
        sure: float = 1.0,
    ) -> None:
        """Learn tokens that came without scores; all sequences together move `weights`, by default the drafter's."""
        weights, share = weights or self._drafter.weights, self._drafter.share
        interpolation = (self._shared, self._all_orders, weights.shares, weights.seen, weights.steps)
        said = np.full(len(slots), self._width) if share == "all" else self._said[slots]
        with self._learning() as clock:
            rows = (slots, recent, emitted, clock, said, share != "nothing", np.float32(sure))
            learn_batch(self._pool, *interpolation, self._orders, self._forgetting, *rows)
        self._said[slots] += emitted

    @contextmanager
    def _learning(self) -> Iterator[np.uint32]:
        """Hold the shared table, unless nothing is shared: its own clock then stamps what a sequence learns."""
        if self._drafter.share == "nothing":
            self._clock += 1
            yield np.uint32(self._drafter.representative.clock + self._clock)
            return
        with self._drafter.representative.learning() as clock:
            yield clock

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
            tables, weights = [*own, *self._shared], self._weights[slot]
            found = self._mixed[slot] = Interpolation.of(tables, self._all_orders, weights)
        return found


class _Session:
    """One sequence by itself."""

    def __init__(self, slots: _AdaptiveSlots) -> None:
        self._slots, self._one = slots, np.zeros(1, np.int64)

    def draft(self, max_nodes: int) -> DraftTree:
        drafts = self._slots.draft(self._one, max_nodes, Limits([max_nodes]), 0.0)
        return next(iter(drafts))

    def observe(self, outcome: Outcome) -> None:
        self._slots.learn(replace(outcome, slot=0))  # whichever it has in a batch of someone else's
