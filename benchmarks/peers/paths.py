"""Trees from lists of paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aded.tree import DraftTree

__all__ = ["tree_of_paths"]


def tree_of_paths(paths: Iterable[Sequence[int]], max_nodes: int) -> DraftTree:
    """The tree of all paths, shallow nodes first, cut after `max_nodes`."""
    rows = [list(path) for path in paths]
    tokens: list[int] = []
    parents: list[int] = []
    index: dict[tuple[int, ...], int] = {(): -1}
    for depth in range(max(map(len, rows), default=0)):
        for row in rows:
            prefix = tuple(row[: depth + 1])
            if len(prefix) <= depth or prefix in index or prefix[:-1] not in index or len(tokens) >= max_nodes:
                continue
            index[prefix] = len(tokens)
            tokens.append(prefix[-1])
            parents.append(index[prefix[:-1]])
    return DraftTree.build(tokens, parents)
