from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from aded.representative import Interpolation, InterpolationWeights
from aded.representative.interpolation import em_update
from support.tables import TEXTS, predict, small


@given(TEXTS)
def test_a_prediction_is_a_distribution_sorted_by_probability(tokens: list[int]) -> None:
    table = small()
    table.learn_text(tokens)
    table.learn_text(tokens)
    found = predict(table, tokens[-5:])
    probs = [p for _, p in found]
    assert sum(probs) <= 1.0 + 1e-4
    assert probs == sorted(probs, reverse=True)
    assert len(dict(found)) == len(found)


def test_trust_made_for_other_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="prior strengths"):
        InterpolationWeights((1, 2), 1, (0.1,))
    with pytest.raises(ValueError, match="other layers"):
        Interpolation([small(), small()], InterpolationWeights(small().orders, 1, [1.0] * len(small().orders)))


def choose(mixed: Interpolation, token: int) -> None:
    """The target chose this token after token 1."""
    weights, choice = mixed.weights, (np.array([[1]], np.int32), np.array([token], np.int32))
    em_update(mixed.tables, mixed.orders, weights.shares, weights.seen, *choice, *weights.steps)


def test_trust_goes_to_the_layer_that_proves_right() -> None:
    right, wrong = small(orders=(1,)), small(orders=(1,))
    right.learn_text([1, 2])
    wrong.learn_text([1, 3])
    mixed = Interpolation([wrong, right], InterpolationWeights((1,), 2, (1.0,)))
    assert mixed.predict([1])[0][0] == 3
    for _ in range(100):
        choose(mixed, 2)
    assert mixed.predict([1])[0][0] == 2


def test_a_choice_never_made_teaches_no_trust() -> None:
    table = small()
    table.learn_text([1, 2])
    mixed = Interpolation([table])
    before = mixed.weights.shares.copy()
    choose(mixed, -1)
    assert np.array_equal(mixed.weights.shares, before)


def test_a_layer_of_its_own_comes_before_a_shared_one() -> None:
    own, shared = small(), small()
    shared.learn_text([1, 2, 3] * 9)
    own.learn_text([1, 2, 4])
    found = dict(Interpolation([own, shared]).predict([1, 2]))
    assert found[4] > 0
    assert found[3] > 0
    assert sum(found.values()) <= 1 + 1e-4
