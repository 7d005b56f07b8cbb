from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree, DraftTreeError


@st.composite
def trees(draw, max_nodes: int = 24) -> DraftTree:
    n = draw(st.integers(0, max_nodes))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    steps = [draw(st.floats(-3, 0, width=32)) for _ in range(n)]
    scores: list[float] = []
    for i in range(n):
        scores.append((scores[parents[i]] if parents[i] >= 0 else 0.0) + steps[i])
    return DraftTree.build(list(range(n)), parents, np.asarray(scores, np.float32))


@given(trees())
def test_ancestor_mask_is_the_path_to_each_node(tree: DraftTree) -> None:
    mask = tree.ancestor_mask()
    for node in range(len(tree)):
        assert np.flatnonzero(mask[node]).tolist() == tree.path(node)
        assert len(tree.path(node)) == tree.depths[node] + 1


@given(trees(), st.integers(0, 24), st.integers(0, 8))
def test_a_limited_tree_is_a_valid_tree_within_its_limits(tree: DraftTree, nodes: int, depth: int) -> None:
    limited = tree.limit(nodes=nodes, depth=depth)
    limited.validate()
    assert len(limited) <= nodes
    assert (limited.depths < depth).all()
    allowed = np.sort(tree.log_probs[tree.depths < depth])[::-1]
    assert np.allclose(np.sort(limited.log_probs)[::-1], allowed[: len(limited)])


@given(trees())
def test_best_chain_follows_the_likeliest_child(tree: DraftTree) -> None:
    chain = tree.best_chain()
    assert chain.is_chain
    node = -1
    for token in chain.tokens.tolist():
        children = tree.children(node)
        node = children[token]
        assert tree.log_probs[node] == max(tree.log_probs[child] for child in children.values())
    assert not tree.children(node)


def test_a_chain_has_one_path() -> None:
    chain = DraftTree.chain([5, 6, 7])
    assert chain.is_chain
    assert chain.depths.tolist() == [0, 1, 2]
    assert DraftTree.empty().is_chain


@pytest.mark.parametrize(
    ("tokens", "parents", "log_probs"),
    [
        ([1, 2], [-1, 1], None),
        ([1, 2], [0, -1], None),
        ([1, 2], [-1], None),
        ([-1], [-1], None),
        ([3, 3], [-1, -1], None),
        ([1, 2], [-1, 0], [-2.0, -1.0]),
        ([1], [-1], [0.5]),
        ([1], [-1], [float("nan")]),
        ([[1]], [[-1]], None),
    ],
)
def test_arrays_that_are_no_tree_are_refused(tokens, parents, log_probs) -> None:
    with pytest.raises(DraftTreeError):
        DraftTree.build(tokens, parents, log_probs)


def test_within_leaves_out_unknown_ids_and_all_below_them() -> None:
    tree = DraftTree.build([3, 50, 4, 60, 5], [-1, -1, 1, 0, 0])
    assert tree.within(50).tokens.tolist() == [3, 5]
    assert tree.within(60).tokens.tolist() == [3, 50, 4, 5]
    assert DraftTree.build([3, 4], [-1, 0]).within(5).tokens.tolist() == [3, 4]
    assert len(DraftTree.empty().within(1)) == 0
