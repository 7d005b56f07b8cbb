"""A representative made beforehand, read-only and mapped: every process that uses it shares its pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import CorpusFileError
from aded.representative import storage
from aded.representative.lookup import WAYS, Table
from aded.representative.table import Representative


@dataclass(frozen=True, eq=False)
class Corpus:
    """A table that is read and never learned into.

    Attributes:
        arrays: the table, views of the file.
        orders: context lengths.
        about: identity, and what the corpus was made of.
    """

    arrays: Table
    orders: tuple[int, ...]
    about: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Map a corpus file.

        Raises:
            CorpusFileError: it is missing, damaged, or something else.
        """
        arrays, about = storage.CORPUS.read(Path(path), mapped=True)
        storage.check_header(storage.CORPUS, about, path)
        table = storage.checked_table(storage.CORPUS, arrays, about, path)
        if not len(table.keys) or len(table.keys) % WAYS:
            raise storage.CORPUS.damaged(path, "the length of its table")
        return cls(table, tuple(about["orders"]), about)

    @staticmethod
    def write(table: Representative, path: str | Path, about: dict[str, Any]) -> None:
        """Write a table as it lies in memory, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = table.arrays._asdict()
        header = {**about, **table.identity(), "successors": table.successors, "clock": table.clock}
        storage.CORPUS.write(Path(path), arrays, header)

    def __deepcopy__(self, memo: dict[int, Any]) -> Corpus:
        return self  # nobody changes it

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self.arrays.nbytes

    @property
    def used(self) -> int:
        """Contexts held."""
        return int(np.count_nonzero(self.arrays.keys))

    def identity(self) -> dict[str, Any]:
        """What must agree between this and another table for tokens and contexts to mean the same."""
        return {name: self.about[name] for name in ("vocab_size", "fingerprint", "orders")}

    def check(self, table: Representative) -> None:
        """Refuse to be used beside a table over another vocabulary or tokenizer.

        Raises:
            CorpusFileError: what is known of the two disagrees.
        """
        storage.check_identity(table.identity(), self.identity(), "the corpus", orders=False, error=CorpusFileError)

    def thaw(self) -> Representative:
        """A copy that can learn on."""
        table = Representative(
            memory_mb=self.nbytes / 2**20,
            orders=self.orders,
            successors=int(self.about["successors"]),
            forgetting=0.0,
            vocab_size=int(self.about["vocab_size"]),
            fingerprint=str(self.about["fingerprint"]),
        )
        for name, saved in self.arrays._asdict().items():
            getattr(table.arrays, name)[...] = saved
        table.clock = int(self.about["clock"])
        return table
