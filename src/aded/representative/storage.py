"""What a saved representative must be to be used: a table of the right vocabulary, tokenizer and context lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import AdedError, CorpusFileError, StateFileError
from aded.files import FileKind, whole
from aded.representative.lookup import Table

STATE = FileKind("aded-representative", 1, "state file", "delete it to start afresh", StateFileError, private=True)
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
            raise error(f"{what} belongs to another model: its {word} is {b!r}, this one's is {a!r}")


# Bounds of what a file may say, far beyond what is ever written: what is larger was not written by us.
MOST_CONTEXT = 1024  # tokens
_MOST_SUCCESSORS = 4096
_MOST_VOCABULARY = 2**31 - 1
_MOST_CLOCK = 2**32 - 1  # stamps are uint32
_MOST_WEIGHT = 1e6  # probabilities, or the paper's weights up to its cap
_MOST_COUNT = 1e30


def check_header(kind: FileKind, header: dict[str, Any], path: str | Path) -> None:
    """Refuse a header that does not say what table it is of.

    Raises:
        AdedError: of the file's kind.
    """
    orders = header.get("orders")
    right = {
        "orders": isinstance(orders, list)
        and all(whole(order, 0, MOST_CONTEXT) for order in orders)
        and orders == sorted(set(orders))
        and orders[-1:] > [0],
        "vocab_size": whole(header.get("vocab_size"), 0, _MOST_VOCABULARY),
        "fingerprint": isinstance(header.get("fingerprint"), str),
        "successors": whole(header.get("successors"), 1, _MOST_SUCCESSORS),
        "clock": whole(header.get("clock"), 0, _MOST_CLOCK),
        "prompts": isinstance(header.get("prompts", True), bool),
    }
    for name, holds in right.items():
        if not holds:
            raise kind.damaged(path, f"{name} in its header")


def checked_table(
    kind: FileKind, arrays: dict[str, NDArray[Any]], header: dict[str, Any], path: str | Path, *, vocab_size: int = 0
) -> Table:
    """The table made of these arrays; what cannot be in one is refused, before anything of it is used.

    Args:
        header: a checked one, see `check_header`.
        vocab_size: of who is to use it; 0: as the header says.

    Raises:
        AdedError: of the file's kind.
    """
    n, successors = len(arrays["keys"]) if "keys" in arrays and arrays["keys"].ndim else -1, header["successors"]
    for name, like in Table.empty(0.01, 1)._asdict().items():
        array = arrays.get(name)
        # One value a slot, or as many as it has successors.
        if array is None or array.dtype != like.dtype or array.shape != (n, successors)[: like.ndim]:
            raise kind.damaged(path, f"array {name}")
    table = Table(*(arrays[name] for name in Table._fields))
    size = vocab_size or header["vocab_size"] or _MOST_VOCABULARY
    for array, least, most, what in (
        (table.successors, -1, size - 1, "tokens outside the vocabulary"),
        (table.weights, 0.0, _MOST_WEIGHT, "weights that are none"),
        (table.counts, 0.0, _MOST_COUNT, "counts that are none"),
        (table.stamps, 0, header["clock"], "times after its clock"),
    ):
        # A comparison with what is no number fails.
        if array.size and not (array.min() >= least and array.max() <= most):
            raise kind.damaged(path, what)
    if np.any(table.weights[table.successors < 0]):
        raise kind.damaged(path, "weights of no token")
    return table
