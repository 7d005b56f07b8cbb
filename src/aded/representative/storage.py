"""What a saved representative must be to be used: a table of the right vocabulary, tokenizer and context lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from aded.errors import AdedError, CorpusFileError, StateFileError
from aded.files import FileKind
from aded.representative.lookup import Table

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
    names = {"vocab_size": "vocabulary size", "fingerprint": "tokenizer"}
    for name, word in (names | ({"orders": "context lengths"} if orders else {})).items():
        a, b = mine[name], theirs.get(name)
        if a and b and a != b:
            raise error(f"{what} belongs to another model: its {word} is {b}, this one's is {a}")


def checked_table(kind: FileKind, arrays: dict[str, NDArray[Any]], successors: Any, path: str | Path) -> Table:
    """The table made of these arrays; arrays that are none are refused, before anything of them is used."""
    n = len(arrays["keys"]) if "keys" in arrays else -1
    for name, like in Table.empty(0.01, 1)._asdict().items():
        array = arrays.get(name)
        # One value a slot, or as many as it has successors.
        if array is None or array.dtype != like.dtype or array.shape != (n, successors)[: like.ndim]:
            raise kind.error(f"the {kind.word} {path} is damaged (array {name}); {kind.remedy}")
    return Table(*(arrays[name] for name in Table._fields))
