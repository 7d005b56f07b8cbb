"""What a saved representative must be to be used: a table of the right vocabulary, tokenizer and context lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import AdedError, CorpusFileError, StateFileError
from aded.files import FileKind
from aded.representative.lookup import Table

__all__ = ["CORPUS", "STATE", "check_identity", "checked_table"]

STATE = FileKind("aded-representative", 1, "state file", "delete it to start afresh", StateFileError)
CORPUS = FileKind("aded-corpus", 1, "corpus", "build it again", CorpusFileError)


def check_identity(
    mine: dict[str, Any],
    theirs: dict[str, Any],
    what: str,
    *,
    orders: bool = True,
    error: type[AdedError] = StateFileError,
) -> None:
    """Refuse what was learned over another vocabulary, tokenizer or, if `orders`, set of context lengths.

    0 and "" mean unknown, and agree with everything.
    """
    names = {"vocab_size": "vocabulary size", "fingerprint": "tokenizer"} | (
        {"orders": "context lengths"} if orders else {}
    )
    for name, word in names.items():
        a, b = mine[name], theirs.get(name)
        if a and b and a != b:
            raise error(f"{what} belongs to another model: its {word} is {b}, this one's is {a}")


def checked_table(kind: FileKind, arrays: dict[str, NDArray[Any]], successors: Any, path: str | Path) -> Table:
    """The table made of these arrays; arrays that are none are refused, before anything of them is used."""
    shapes = {
        "keys": (np.uint64, 1),
        "stamps": (np.uint32, 1),
        "counts": (np.float32, 1),
        "successors": (np.int32, 2),
        "weights": (np.float32, 2),
    }
    n = len(arrays["keys"]) if "keys" in arrays else -1
    for name, (dtype, ndim) in shapes.items():
        array = arrays.get(name)
        wide = array is not None and (ndim == 1 or array.shape[1:] == (successors,))
        if array is None or array.dtype != dtype or array.ndim != ndim or len(array) != n or not wide:
            raise kind.error(f"the {kind.word} {path} is damaged (array {name}); {kind.remedy}")
    return Table(*(arrays[name] for name in Table._fields))
