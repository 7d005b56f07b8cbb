from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded.representative import Interpolation, InterpolationWeights
from aded.search import best_first, mcts
from support.tables import TEXTS, small


@pytest.mark.parametrize("search", [best_first, mcts])
@given(tokens=TEXTS, budget=st.integers(0, 40))
def test_a_search_returns_a_valid_tree_within_its_budget(search, tokens: list[int], budget: int) -> None:
    table = small()
    table.learn_text(tokens)
    tree = search(Interpolation([table]), np.asarray(tokens[-8:], np.int32), budget)
    tree.validate()
    assert len(tree) <= budget


def test_best_first_takes_the_likeliest_paths() -> None:
    table = small(orders=(1,))
    ids, probs = np.array([[2, 3]], np.int32), np.array([[0.9, 0.1]], np.float32)
    for token in (1, 2, 3):
        table.learn(np.array([[token]], np.int32), ids, probs)
    tree = best_first(Interpolation([table], InterpolationWeights((1,), 1, (0.0,))), np.array([1], np.int32), 4)
    assert tree.tokens.tolist() == [2, 2, 2, 2]
    assert tree.is_chain
    assert np.exp(tree.log_probs) == pytest.approx([0.9, 0.81, 0.729, 0.6561], rel=1e-3)
