"""The likeliest tokens of a vocabulary, without sorting it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["top_k"]

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
