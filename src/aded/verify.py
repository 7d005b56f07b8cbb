"""The walk over a scored tree: the same for greedy decoding and for sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aded.tree import DraftTree

__all__ = ["walk"]


def walk(tree: DraftTree, choose: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Follow the target through the tree, yielding (token, node): node is the one that held it, -1 if none did.

    `choose(row)` is the target's own decision after the root (row 0) or after node `row - 1`. It is asked exactly once
    for each token emitted and in order, so a random choice consumes its generator just as plain decoding would:
    speculation then cannot change a sample. The walk ends with the first token no child holds. A caller may stop
    earlier, after any token.
    """
    node = -1
    while True:
        token = choose(node + 1)
        node = tree.children(node).get(token, -1)
        yield token, node
        if node < 0:
            return
