"""What a corpus knows, in the form of llama.cpp's n-gram caches: `llama-server --lookup-cache-static FILE`.

The file is a sequence of n-grams in the machine's byte order: four int32 token ids, -1 past the n-gram's end; how many
tokens followed it; and of each its id and how often it did, all int32 (`common/ngram-cache.cpp` of llama.cpp). A static
cache is asked for n-grams of two tokens. Tables name contexts by hashes, so all pairs that they can know are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aded.errors import CorpusFileError
from aded.files import replace
from aded.representative import Corpus
from aded.representative.lookup import context_keys, find

__all__ = ["ngrams", "write_llamacpp"]

_LENGTH = 2  # LLAMA_NGRAM_STATIC
_PLACES = 4  # LLAMA_NGRAM_MAX


def ngrams(corpus: Corpus) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]]:
    """Every pair of tokens that is held, int32 (2,), what followed it, int32 (n,), and how often, int32 (n,)."""
    table, keys = corpus.arrays, np.zeros(_LENGTH + 1, np.uint64)

    def followed(context: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        context_keys(context, keys[: len(context) + 1])
        slot = int(find(table.keys, keys[len(context)]))
        if slot < 0:
            return None
        counts = np.rint(table.counts[slot] * table.weights[slot]).astype(np.int32)
        return table.successors[slot][counts > 0], counts[counts > 0]

    for first in range(corpus.about["vocab_size"]):
        pairs = followed(np.array([first], np.int32))
        for second in [] if pairs is None else pairs[0].tolist():
            context = np.array([first, second], np.int32)
            if (found := followed(context)) is not None and len(found[0]):
                yield context, *found


def write_llamacpp(corpus: Corpus, path: Path) -> int:
    """Write them for llama.cpp; returns how many n-grams there are.

    Raises:
        CorpusFileError: the corpus holds no contexts of one and of two tokens.
    """
    if not {1, 2} <= set(corpus.orders):
        raise CorpusFileError(
            f"llama.cpp asks for what follows two tokens; this corpus holds contexts of {corpus.orders} tokens"
        )
    parts: list[bytes] = []
    for context, tokens, counts in ngrams(corpus):
        padding = [-1] * (_PLACES - _LENGTH)
        row = [*context.tolist(), *padding, len(tokens), *np.stack([tokens, counts], axis=1).ravel().tolist()]
        parts.append(np.array(row, np.int32).tobytes())
    replace(path, *parts)
    return len(parts)
