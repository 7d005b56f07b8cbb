"""The LLM representative: what the model says after a context, in memory that never grows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aded.files import digest
from aded.forks import ForkLock
from aded.representative import lookup, storage
from aded.representative.lookup import Table

if TYPE_CHECKING:
    from aded.representative.corpus import Corpus


_LAST_CLOCK = 2**32 - 1  # stamps are uint32


@dataclass(eq=False)
class Representative:
    """Successor probabilities of the last `orders` tokens, learned while the model decodes.

    Args:
        memory_mb: size of the table in MiB; all of it is reserved (lazily, by the system) and nothing grows.
        orders: context lengths to keep, ascending. 2 is the paper's tri-gram; 1 and 0 (what comes anywhere)
            back it off; longer ones sharpen.
        successors: continuations kept for each context.
        forgetting: slowest rate at which old evidence gives way, 0 (plain mean) to 1 (only the latest counts).
        vocab_size: size of the target's vocabulary; 0 means unknown. Checked when state is loaded.
        fingerprint: short hash of the tokenizer; "" means unknown. Checked when state is loaded.

    Lookup and update touch one bucket an order, whatever the table holds.

    Attributes:
        arrays: the table itself.
        holds_prompts: whether prompts were ever learned into it; a saved state says so too.
    """

    memory_mb: float = 64.0
    orders: tuple[int, ...] = (0, 1, 2, 3, 5, 8)
    successors: int = 24
    forgetting: float = 0.05
    vocab_size: int = 0
    fingerprint: str = ""
    clock: int = field(default=0, init=False)
    holds_prompts: bool = field(default=False, init=False)
    arrays: Table = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = sorted({order for order in self.orders if order >= 0})
        if list(self.orders) != known or not known or known[-1] < 1:
            raise ValueError(f"orders must be ascending, from 0 on, got {self.orders}")
        self.arrays = Table.empty(self.memory_mb, self.successors)
        self._orders = np.asarray(self.orders, np.int64)
        self._lock = ForkLock()

    @property
    def context_length(self) -> int:
        """Tokens of context a lookup can use."""
        return self.orders[-1]

    @property
    def nbytes(self) -> int:
        """Bytes reserved by the table."""
        return self.arrays.nbytes

    @property
    def used(self) -> int:
        """Contexts held now."""
        return int(np.count_nonzero(self.arrays.keys))

    @contextmanager
    def learning(self) -> Iterator[np.uint32]:
        """Hold the table for an update from outside, stamped with the clock's next reading."""
        with self._lock:
            if self.clock >= _LAST_CLOCK:  # all stamps keep their order, at half their value
                np.right_shift(self.arrays.stamps, 1, out=self.arrays.stamps)
                self.clock //= 2
            self.clock += 1
            yield np.uint32(self.clock)

    def learn(self, contexts: NDArray[np.int32], ids: NDArray[np.int32], probs: NDArray[np.float32]) -> None:
        """Learn distributions: row r of ids, probs (r, k) followed row r of contexts (r, c).

        The latest token of a context comes last; -1 fills what is missing.
        """
        with self.learning() as clock:
            lookup.learn(self.arrays, self._orders, contexts, ids, probs, clock, self.forgetting)

    def learn_text(
        self, tokens: Sequence[int] | NDArray[np.int32], *, start: int = 0, probability: float = 1.0
    ) -> None:
        """Learn plain text, each token as if the model had given it this probability; those before `start` are
        context only."""
        contexts, following = context_windows(np.asarray(tokens, np.int32), self.context_length, start)
        if len(following):
            self.learn(contexts, following[:, None], np.full((len(following), 1), probability, np.float32))

    def strengthen(self, tokens: NDArray[np.int32], *, start: int, gain: float, cap: float) -> None:
        """The paper's adaptive update: each n-gram ending at or after `start` gains `gain`, capped at `cap`."""
        contexts, following = context_windows(np.asarray(tokens, np.int32), self.context_length, start)
        with self.learning() as clock:
            lookup.strengthen(self.arrays, self._orders, contexts, following, clock, np.float32(gain), np.float32(cap))

    def merge(self, other: Representative | Corpus) -> None:
        """Fold another state or corpus in, weighing by evidence.

        Raises:
            StateFileError: the two were learned over different vocabularies or context lengths.
        """
        storage.check_identity(self.identity(), other.identity(), "the state to merge")
        with self._lock:
            lookup.merge(self.arrays, other.arrays)
            self.holds_prompts |= getattr(other, "holds_prompts", True)
            self.clock = max(self.clock, int(other.arrays.stamps.max(initial=0)))

    def clear(self) -> None:
        """Forget everything. All of its memory is taken now, and not little by little while it learns."""
        with self._lock:
            for array in self.arrays:
                array.fill(0)
            self.clock, self.holds_prompts = 0, False

    def identity(self) -> dict[str, Any]:
        """What must agree between two states for their tokens and contexts to mean the same."""
        return {"vocab_size": self.vocab_size, "fingerprint": self.fingerprint, "orders": list(self.orders)}

    def saved(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and header of a state file that holds this table."""
        with self._lock:
            used = np.flatnonzero(self.arrays.keys)
            arrays = {name: np.ascontiguousarray(array[used]) for name, array in self.arrays._asdict().items()}
            header = {**self.identity(), "successors": self.successors, "clock": self.clock}
            header["prompts"] = self.holds_prompts
        return arrays, header

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file, whole or not at all.

        Raises:
            StateFileError: it cannot be written.
        """
        storage.STATE.write(Path(path), *self.saved())

    def load(self, path: str | Path) -> None:
        """Replace what this table knows by a saved state; on an error it is left as it was.

        Raises:
            StateFileError: the file is missing, damaged, or belongs to another vocabulary, tokenizer or version.
        """
        self.restore(*storage.STATE.read(Path(path)), path)

    def restore(self, arrays: dict[str, NDArray[Any]], header: dict[str, Any], path: str | Path) -> None:
        """Replace what this table knows by what `saved` gave, read from a file."""
        storage.check_header(storage.STATE, header, path)
        storage.check_identity(self.identity(), header, f"the state file {path}")
        table = storage.checked_table(storage.STATE, arrays, header, path, vocab_size=self.vocab_size)
        with self._lock:
            self.clear()
            lookup.merge(self.arrays, table)
            self.clock = header["clock"]
            self.holds_prompts = header.get("prompts", True)  # older files do not say


def context_windows(tokens: NDArray[np.int32], length: int, start: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(contexts int32 (r, length), following int32 (r,)) for each token from max(start, 1) on; -1 pads on the left."""
    start = max(start, 1)
    if len(tokens) <= start:
        return np.empty((0, length), np.int32), np.empty(0, np.int32)
    lead = max(length - start, 0)
    padded = np.concatenate([np.full(lead, -1, np.int32), tokens[max(start - length, 0) :]])
    views = np.lib.stride_tricks.sliding_window_view(padded[:-1], length)
    return np.ascontiguousarray(views), np.ascontiguousarray(tokens[start:])


def fingerprint(pieces: Iterable[str]) -> str:
    """A short hash of a tokenizer's vocabulary in id order."""
    return digest("\0".join(pieces).encode())


def vocabulary_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """The same of a tokenizer's pieces and their ids."""
    return fingerprint(sorted(vocabulary, key=vocabulary.__getitem__))
