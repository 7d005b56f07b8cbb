"""Measured step costs, and how they follow the steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded.budget import MAX_DRAFT_TOKENS, CostCurve, MeasuredCost, Pass
from aded.budget.cost import OnlineFit


def curve(slope: float) -> CostCurve:
    return CostCurve([1, MAX_DRAFT_TOKENS + 1], [1.0, 1.0 + slope * MAX_DRAFT_TOKENS])


@given(st.floats(0.5, 2.5), st.floats(0, 0.5), st.integers(0, 99))
def test_predicted_step_times_follow_what_steps_take(factor: float, more: float, seed: int) -> None:
    """Steps slower and longer than measured: after a hundred of different sizes, all sizes are predicted well."""
    fit, draw = OnlineFit(), np.random.default_rng(seed)
    costs = curve(0.1)
    for tokens in draw.integers(1, 32, 100):
        fit.learn(costs(int(tokens)), factor * costs(int(tokens)) + more)
    sizes = np.array([1, 8, 31])
    expected = factor * costs.at(sizes) + more
    assert np.allclose(fit(costs.at(sizes)), expected, rtol=0.15)


def test_a_step_that_was_interrupted_hardly_moves_the_prediction() -> None:
    fit = OnlineFit()
    for _ in range(50):
        fit.learn(1.0, 1.0)
    fit.learn(1.0, 100.0)
    assert fit(np.array([1.0]))[0] < 1.2


def test_rows_and_longer_caches_add_to_the_cost() -> None:
    costs = CostCurve([1, 65], [1.0, 65.0], length=100, per_entry=(0.01, 0.001))
    sizes = np.array([8])
    assert costs.at(sizes, rows=4)[0] == 32
    assert costs.at(sizes, rows=10)[0] == 80
    assert np.isclose(costs.at(sizes, rows=4, length=200)[0], 32 + 100 * (4 * 0.01 + 32 * 0.001))
    assert CostCurve.from_json(costs.to_json()).at(sizes, rows=3, length=300) == costs.at(sizes, rows=3, length=300)


def test_measuring_covers_every_size_and_stops_when_time_is_up() -> None:
    asked: list[int] = []

    def step(tokens: int) -> float:
        asked.append(tokens)
        return 0.5 * tokens

    costs = CostCurve.measure(step, limit_s=4.0)
    assert max(asked) < MAX_DRAFT_TOKENS + 1
    assert costs(MAX_DRAFT_TOKENS + 1) > costs(4) > costs(1) > 0


@pytest.mark.parametrize("plain", [0.001, 0.055, 0.3])
def test_of_a_slow_model_wide_steps_are_known_too(plain: float) -> None:
    """A curve with a bump at 8 tokens, as llama.cpp's kernels for quantized weights have it: 16 cost hardly more."""
    shape = {1: 1.0, 2: 1.9, 3: 2.6, 4: 3.4, 6: 4.5, 8: 8.4, 12: 9.0, 16: 9.5, 24: 15.0, 32: 21.0, 48: 30.0, 65: 40.0}
    spent: list[float] = []

    def step(tokens: int) -> float:
        spent.append(plain * shape[tokens])
        return spent[-1]

    costs = CostCurve.measure(step, limit_s=2.0, trials=False)
    assert costs.steady
    for tokens in (1, 2, 4, 8, 16):
        assert costs(tokens) == pytest.approx(plain * shape[tokens])
    assert 30 < costs(65) / plain < 50
    assert sum(spent) < max(2.0, 32 * plain) + 52 * plain


def test_a_measured_cost_follows_the_steps_of_a_batch() -> None:
    cost, ones = MeasuredCost(curve(0.1)), np.ones(2)
    assert cost.known(3)
    before = cost.per_token(ones, 3, 3)
    assert np.allclose(before, [1.2, 1.5])
    for _ in range(60):
        for width in (1, 2):
            cost.observe(Pass(3, 3 * width, 3, 0, 2 * curve(0.1)(3 * width)))
    assert np.allclose(cost.per_token(ones, 3, 3), 2 * before, rtol=0.05)
    assert np.allclose(cost.per_token(2 * ones, 3, 3), before, rtol=0.05)
