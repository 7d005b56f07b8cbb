"""A llama.cpp context behind the loop: trees as sequences that share their beginning, and its own samplers.

llama.cpp lets an entry of its cache belong to several sequences, and an entry sees what shares a sequence with it. So a
tree needs no mask: each leaf is a sequence, a node belongs to the sequences of all leaves below it, and its position is
its depth. Afterwards the sequence of the accepted path becomes sequence 0 and the others end.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from aded.batch import Limits, Outcomes
from aded.errors import ContextFullError, UnsupportedError
from aded.tree import DraftTree

PATHS = 16  # sequences a context is made for, if its batches allow: a tree with more leaves loses the last of them
_GROUP = 64


def top_k(logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids and probabilities of the k highest logits, best first: (n, vocabulary) -> twice (n, k).

    The k best lie in the k groups with the best maxima; what is left to sort is then small.
    """
    n, size = logits.shape
    k = min(k, size)
    apart = size // _GROUP if size >= 2 * k * _GROUP else 0  # between members of a group, and so the number of groups
    whole = apart * _GROUP
    candidates = np.arange(whole, size)[None].repeat(n, 0)
    if whole:
        best = np.argpartition(-logits[:, :whole].reshape(n, _GROUP, apart).max(1), k - 1, axis=1)[:, :k]
        members = (best[:, :, None] + apart * np.arange(_GROUP)).reshape(n, -1)
        candidates = np.concatenate([members, candidates], axis=1)
    scores = np.take_along_axis(logits, candidates, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    ids, top = np.take_along_axis(candidates, order, axis=1), np.take_along_axis(scores, order, axis=1)
    highest = top[:, :1]
    shares = np.subtract(logits, highest)
    total = np.exp(shares, out=shares).sum(-1, keepdims=True)
    return ids.astype(np.int32), (np.exp(top - highest) / total).astype(np.float32)


class Scored:
    """Outputs of one pass, read where llama.cpp keeps them; tokens are chosen by its own sampler."""

    def __init__(self, engine: LlamaEngine, outputs: Sequence[int], k: int) -> None:
        self._engine, self._outputs, self._k = engine, outputs, k

    def choose(self, row: int) -> int:
        return self._engine.choose(self._outputs[row])

    def top_k(self) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        return top_k(self.logits(range(len(self._outputs))), self._k) if self._k else None

    def logits(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """A copy of some rows, float32 (n, vocabulary)."""
        return np.stack([self._engine.logits(self._outputs[row]) for row in rows])


class LlamaEngine:
    """One sequence in a `llama_cpp.Llama`, whose own state (tokens so far, scores, cache) is kept as it would be.

    Args:
        llama: made ready by `accelerate`.
        pending: the last tokens of the prompt, which are not in the cache yet; none if the last pass was over it.
        trees: whether to verify siblings.
        threads: how many threads a pass over one token has after so many entries, where that changes.

    Attributes:
        length: tokens before the one that is chosen next.
        output: of the last pass, at which a token was chosen last.
        last: the token chosen last.
    """

    def __init__(
        self,
        llama: Any,
        pending: Sequence[int],
        *,
        trees: bool = True,
        threads: Callable[[int], int] | None = None,
    ) -> None:
        self._llama, self._pending, self._trees, self._threads = llama, list(pending), trees, threads
        self._context = llama._ctx.ctx
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_model_get_vocab(llama._model.model)
        self._start = 0  # entries in the cache before the step
        self._held: int | None = None  # first entries of the cache that are this sequence's; None: as the Llama says
        self._leaf: list[int] = []  # a leaf below each node, or the node itself
        self.length = self.last = 0
        self.output = -1
        release(llama)
        llama._aded_engine = weakref.ref(self)

    def logits(self, index: int) -> NDArray[np.float32]:
        """float32 logits (vocabulary,) of an output of the last pass; -1 is the last. Valid until the next pass."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self._llama._n_vocab,))

    def choose(self, index: int) -> int:
        """The token its sampler takes there. Processors of the caller's see the tokens before it."""
        llama = self._llama
        llama.n_tokens = self.length
        if llama._logits_all:
            llama.scores[self.length - 1] = self.logits(index)
        self.output = index
        return int(llama._sampler.sample(llama._ctx, index))

    def append(self, slot: int, token: int) -> bool:
        """Make `token` the last. Whether to go on after an end is for the caller to say: a grammar, say, could not."""
        if self.length < len(self._llama.input_ids):
            self._llama.input_ids[self.length] = token
        self.length, self.last = self.length + 1, token
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    def limits(self, slots: Sequence[int]) -> Limits:
        """What the context has sequences and room for."""
        llama = self._llama
        left = llama.n_ctx() - self.length  # besides the root
        known = {"trees": self._trees, "vocabulary": llama.n_vocab(), "paths": llama.context_params.n_seq_max}
        return Limits([left], nodes=max(min(left, llama.n_batch - 1), 0), **known)

    def prefill(self, top_k: int) -> list[Scored]:
        """Evaluate what is pending."""
        self._check_room(self._llama.n_tokens + len(self._pending))
        if self._pending:
            self._llama.eval(self._pending)
        self.length = int(self._llama.n_tokens)
        self._held = None
        return [Scored(self, [-1], top_k)]

    def verify(self, slots: Sequence[int], trees: Sequence[DraftTree], top_k: int) -> list[Scored]:
        """One pass over the last token and the nodes, each in the sequences of the leaves below it."""
        (tree,) = trees
        self._start = self._held = self.length - 1
        self._check_room(self._start + 2 + int(tree.depths.max(initial=-1)))
        self._set_threads(self._start)
        order, sequences = assign_sequences(tree)
        self._leaf = [numbers[0] for numbers in sequences]
        leaves = 1 + max(map(max, sequences), default=0)
        for leaf in range(1, leaves):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, leaf, 0, -1)
        batch = self._llama._batch.batch
        batch.n_tokens = 1 + len(order)
        put(batch, 0, self.last, self._start, range(leaves))
        depths, outputs = tree.depths.tolist(), [0] * (1 + len(order))
        for place, node in enumerate(order, start=1):
            put(batch, place, int(tree.tokens[node]), self._start + 1 + depths[node], sequences[node])
            outputs[node + 1] = place
        self._llama._ctx.decode(self._llama._batch)
        return [Scored(self, outputs, top_k)]

    def _set_threads(self, entries: int) -> None:
        """For a pass over one token after so many entries."""
        if self._threads is not None:
            llama_cpp.llama_set_n_threads(self._context, self._threads(entries), self._llama.n_threads_batch)

    def commit(self, outcomes: Outcomes) -> None:
        """The sequence of the accepted path becomes the only one. Sequence 0 always has what it had before the step."""
        if not self.is_current():
            return
        path = outcomes[0].kept
        if max(self._leaf, default=0) > 0:
            if path and (kept := self._leaf[path[-1]]):
                llama_cpp.llama_memory_seq_rm(self._memory, 0, self._start + 1, -1)
                llama_cpp.llama_memory_seq_cp(self._memory, kept, 0, self._start + 1, -1)
            llama_cpp.llama_memory_seq_keep(self._memory, 0)
        self.trim_to(self._llama, self._start + 1 + len(path))
        self._held = self._llama.n_tokens

    def is_current(self) -> bool:
        """Whether the cache is still this sequence's: another call has not begun, nor was the Llama closed."""
        return self._llama._aded_engine() is self and self._llama._ctx.ctx is not None

    def check_current(self) -> None:
        """Refuse to go on in a cache that holds another call's tokens."""
        if not self.is_current():
            raise UnsupportedError(
                "another call has used this Llama since, and its cache holds that call's tokens; read a stream to its "
                "end before the next call, or make a Llama for each"
            )

    def abandon(self) -> None:
        """At the end, or wherever decoding broke off: leave one sequence, as far as the Llama says and is certain."""
        if self.is_current():
            llama_cpp.llama_memory_seq_keep(self._memory, 0)
            llama = self._llama
            self.trim_to(llama, llama.n_tokens if self._held is None else min(llama.n_tokens, self._held))
            llama._requires_eval = True  # the last pass was over more than the last token

    @staticmethod
    def trim_to(llama: Any, entries: int) -> None:
        """Keep the first so many entries of the cache; none where a state cannot go back."""
        memory = llama_cpp.llama_get_memory(llama._ctx.ctx)
        if not llama_cpp.llama_memory_seq_rm(memory, 0, entries, -1):
            llama_cpp.llama_memory_clear(memory, True)
            entries = 0
        llama.n_tokens = entries

    def _check_room(self, tokens: int) -> None:
        if tokens > self._llama.n_ctx():
            raise ContextFullError(
                f"the context of {self._llama.n_ctx()} tokens is full; "
                "make the Llama with a larger n_ctx, or ask for fewer tokens"
            )


def release(llama: Any) -> None:
    """End a sequence that somebody else left open in a `Llama`: its other branches, and what was not yet certain."""
    engine = getattr(llama, "_aded_engine", lambda: None)()
    if engine is not None:
        engine.abandon()


def clear(llama: Any) -> None:
    """Leave nothing in the cache."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
    llama.reset()


def blank(llama: Any, start: int, tokens: int) -> None:
    """A pass over `tokens` tokens that mean nothing, behind the first `start` entries of the cache; only they stay."""
    fill(llama, start, tokens)
    llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llama._ctx.ctx), -1, start, -1)


def fill(llama: Any, start: int, tokens: int) -> None:
    """The same, but they stay as well."""
    batch = llama._batch.batch
    batch.n_tokens = tokens
    for i in range(tokens):
        put(batch, i, 0, start + i, (0,))
    memory = llama_cpp.llama_get_memory(llama._ctx.ctx)
    llama_cpp.llama_memory_seq_rm(memory, -1, start, -1)  # a reset leaves entries there
    llama._ctx.decode(llama._batch)


def put(batch: Any, place: int, token: int, position: int, sequences: Sequence[int], *, scored: bool = True) -> None:
    """Put a token into a batch; whether its scores are asked for."""
    batch.token[place], batch.pos[place] = token, position
    batch.n_seq_id[place], batch.logits[place] = len(sequences), scored
    for i, sequence in enumerate(sequences):
        batch.seq_id[place][i] = sequence


def assign_sequences(tree: DraftTree) -> tuple[list[int], list[list[int]]]:
    """The nodes in depth-first order, first children first, and for each node the numbers of the leaves below it.

    A leaf's number is that of its sequence. The first path gets the places right behind the prefix, so that accepting
    it leaves the cache as decoding one token at a time does, entry for entry; leaf 0 ends it.
    """
    parents = tree.parents.tolist()
    children: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    for node, parent in enumerate(parents):
        children[parent].append(node)  # -1, the root, is the last
    order: list[int] = []
    below: list[list[int]] = [[] for _ in parents]
    waiting, leaf = children[-1][::-1], 0
    while waiting:
        node = waiting.pop()
        order.append(node)
        if children[node]:
            waiting += children[node][::-1]
            continue
        while node >= 0:
            below[node].append(leaf)
            node = parents[node]
        leaf += 1
    return order, below
