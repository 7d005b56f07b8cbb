"""ADED: learns the target's distribution at every scored position, and drafts the likeliest trees or chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Drafts, Limits, Outcomes, StepOutcomes, Trees
from aded.drafters.base import Session, register
from aded.kernels.jit import jit, jit_nogil
from aded.representative import Corpus, Interpolation, InterpolationWeights, Representative, context_windows
from aded.representative.interpolation import em_update
from aded.representative.lookup import Table, learn, table_of_slot
from aded.search import ChainTables, best_first, likeliest_chains, mcts
from aded.search.best_first import fill_context
from aded.tree import DraftTree, Outcome

# What others get of a sequence; see `AdaptiveDrafter`.
Share = Literal["answers", "nothing", "all"]

_SEARCHES: dict[str, Callable[..., DraftTree]] = {"best_first": best_first, "mcts": mcts}

# Observations it takes to believe a context half, by its length: where the interpolation starts before it knows better.
_PRIOR_STRENGTH = {0: 1.0, 1: 0.6, 2: 1.0, 3: 1.0, 5: 1.0, 8: 0.5}
# A prompt is text the target did not write: its tokens count as ones the target would give this much of its mass. From
# the replay below, tokens a step are alike from 0.5 to 0.6, and long copies are drafted further at 0.6.
PROMPT_PROBABILITY = 0.6
# A token that the target said, learned without what it thought likely besides: what is left goes to shorter contexts.
# From a replay of the trace that ships with the tests (105 answers of SmolLM2-135M-Instruct), 64 nodes, state kept:
# 3.55 tokens a step at 1, 3.94 at 0.5, 3.96 at 0.35, 3.94 at 0.25.
ANSWER_PROBABILITY = 0.35
# Of what is learned at a position, how much is the token chosen there.
CHOICE_WEIGHT = 0.5
# Slowest rate of forgetting in a sequence's own table. One sequence is more of a piece than all of them: what it says
# weighs longer than in the shared table.
_OWN_FORGETTING = 0.02


@jit
def _build_targets(tail, tokens, parents, path, ids, probs, emitted, choice_weight, contexts, chosen, targets):
    """Fill the context (n + 1, c) of every scored row, the token chosen there (-1 off the path), what to learn.

    On the path that is the distribution with `choice_weight` of its mass moved to the choice: under greedy decoding the
    next visit to a context most often chooses the same again, which the distribution alone underrates.
    """
    for row in range(len(tokens) + 1):
        fill_context(contexts[row], tail, tokens, parents, row - 1)
    chosen[:] = -1
    targets[:] = probs
    row = 0
    for i in range(len(emitted)):
        if ids[row, 0] < 0:
            return
        token = emitted[i]
        chosen[row] = token
        place = ids.shape[1] - 1
        for j in range(ids.shape[1]):
            targets[row, j] *= np.float32(1.0) - choice_weight
            if ids[row, j] == token:
                place = j
        if ids[row, place] != token:  # a token sampled from the tail replaces the least likely of the head
            ids[row, place] = token
            targets[row, place] = 0.0
        targets[row, place] += choice_weight
        if i >= len(path):
            return
        row = path[i] + 1


@jit
def _learn_rows(layers, orders, shares, seen, steps, learned, mine, forgetting, contexts, chosen, ids, targets, clock):
    """Move the interpolation's weights, then each learned table, toward what was seen after each context."""
    em_update(layers, orders, shares, seen, contexts, chosen, steps[0], steps[1])
    for n in range(len(learned)):
        learn(learned[n], mine, contexts, ids, targets, clock, forgetting[n])


@jit
def _hide_prompt(contexts, said):
    """Cut each context, int32 (n, c), where the prompt begins: before the last `said`, said + 1, ... tokens."""
    for i in range(len(contexts)):
        for j in range(contexts.shape[1] - said - i):
            contexts[i, j] = -1


# Learning holds no interpreter lock: a server runs its model meanwhile. Who calls it sees to it that nobody reads.
@jit_nogil
def _learn_batch(
    pool, shared, orders, shares, seen, steps, mine, forgetting, slots, recent, emitted, clock, said, is_shared
):
    """Learn the last `emitted` tokens of each sequence into its own table and, if shared, the first shared one.

    said: int64 (n,): tokens before those that are no prompt's; as many as a context holds where prompts are shared.
    """
    width = orders[-1]
    for r in range(len(slots)):
        n = emitted[r]
        contexts = np.empty((n, width), np.int32)
        tokens = recent[r, recent.shape[1] - n :].copy()
        for i in range(n):
            end = recent.shape[1] - n + i
            contexts[i] = recent[r, end - width : end]
        own = table_of_slot(pool, slots[r])
        ids, sure = tokens.reshape(n, 1), np.ones((n, 1), np.float32)
        layers, learned = (own, *shared), (own,)
        known = tokens if is_shared else np.full(n, -1, np.int32)
        _learn_rows(layers, orders, shares, seen, steps, learned, mine, forgetting, contexts, known, ids, sure, clock)
        if is_shared:
            _hide_prompt(contexts, said[r])
            learn(shared[0], mine, contexts, ids, sure, clock, forgetting[1])


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
        sequence_mb: memory of each sequence's own, released with the sequences; 0 for none. sequence_successors:
        continuations kept for each context of a sequence's own; None: as many as in the shared one. search:
        "best_first" or "mcts". top_k: how many of the target's likeliest tokens are learned at each scored position.
        choice_weight: how much of what is learned at a position is the token chosen there; the rest is the
            distribution.
        share: what other sequences, and a file of what was learned, get of a sequence. "answers": the tokens that the
            target said, and nothing of what it was asked; "nothing"; or "all": prompts too, and what the target thought
            likely besides what it said. A sequence's own table, which goes with it, learns everything.
        corpus: read after what was learned: a corpus, or the path of one. It is shared between processes and does not
            count as memory of this drafter.
        weights: how far tables are believed at first, and how that is learned; by default counts decide at first.
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
        corpus: Corpus | str | Path | None = None,
        weights: InterpolationWeights | None = None,
    ) -> None:
        if search not in _SEARCHES:
            raise ValueError(f"search must be one of {', '.join(_SEARCHES)}, not {search!r}")
        self.representative = representative or Representative(memory_mb=memory_mb, successors=successors)
        if reserve and representative is None:
            self.representative.clear()
        self.sequence_mb = sequence_mb
        self.sequence_successors = sequence_successors or self.representative.successors
        if share not in get_args(Share):
            raise ValueError(f"share must be one of {', '.join(get_args(Share))}, not {share!r}")
        self.top_k, self.choice_weight, self.share = top_k, choice_weight, share
        self.search = _SEARCHES[search]
        self.corpus = Corpus.open(corpus) if isinstance(corpus, str | Path) else corpus
        self.shared: list[Representative | Corpus] = [self.representative]
        if self.corpus is not None:
            self.corpus.check(self.representative)
            self.shared.append(self.corpus)
        self.weights = weights or initial_weights(self.shared, own=sequence_mb > 0)

    @property
    def nbytes(self) -> int:
        """Bytes of learned state: what is shared and one sequence's own."""
        return self.representative.nbytes + int(self.sequence_mb * 2**20)

    @property
    def clock(self) -> int:
        """Times it learned; grows whenever it does."""
        return self.representative.clock

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
        self.representative.vocab_size, self.representative.fingerprint = vocab_size, fingerprint
        if self.corpus is not None:
            self.corpus.check(self.representative)

    def save(self, path: str | Path) -> None:
        """Save what was learned; see `Representative.save`."""
        self.representative.save(path)

    def load(self, path: str | Path) -> None:
        """Load what was learned; see `Representative.load`."""
        self.representative.load(path)


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
                self._learn_batch(np.array([slot]), recent[None], np.array([len(emitted)]))
            return
        tree, ids = outcome.tree, outcome.top_ids.copy()
        contexts = np.empty((len(ids), self._width), np.int32)
        chosen, targets = np.empty(len(ids), np.int32), np.empty(ids.shape, np.float32)
        path, weight = np.asarray(outcome.path, np.int64), np.float32(self._drafter.choice_weight)
        scored = (self._recent[slot], tree.tokens, tree.parents, path, ids, outcome.top_probs, emitted, weight)
        _build_targets(*scored, contexts, chosen, targets)
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
                _learn_rows(*interpolation, (*own, table.arrays), self._orders, self._forgetting, *rows)
                return
            em_update(*interpolation[:-1], contexts, chosen, *weights.steps)
            if own:
                learn(*own, self._orders, contexts, ids, targets, clock, self._forgetting[0])
            if self._drafter.share == "answers":
                on_path = chosen >= 0
                contexts, said = contexts[on_path], chosen[on_path][:, None]
                _hide_prompt(contexts, int(self._said[slot]))
                probs = np.full(said.shape, ANSWER_PROBABILITY, np.float32)
                learn(table.arrays, self._orders, contexts, said, probs, clock, self._forgetting[-1])

    def _learn_batch(self, slots: NDArray[np.int64], recent: NDArray[np.int32], emitted: NDArray[np.int64]) -> None:
        weights, share = self._drafter.weights, self._drafter.share
        interpolation = (self._shared, self._all_orders, weights.shares, weights.seen, weights.steps)
        said = np.full(len(slots), self._width) if share == "all" else self._said[slots]
        with self._learning() as clock:
            rows = (slots, recent, emitted, clock, said, share != "nothing")
            _learn_batch(self._pool, *interpolation, self._orders, self._forgetting, *rows)
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
