from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree
from aded.budget import MAX_NODES, CostCurve, MeasuredBudget

LIKELY = DraftTree.chain([1, 2, 3, 4], np.log(np.array([0.9, 0.8, 0.7, 0.6], np.float32)).tolist())


def curve(slope: float) -> CostCurve:
    return CostCurve([1, MAX_NODES + 1], [1.0, 1.0 + slope * MAX_NODES])


def test_free_nodes_are_all_verified_and_dear_ones_never() -> None:
    assert len(MeasuredBudget(lambda: curve(0.0)).choose(LIKELY)) == 4
    assert len(MeasuredBudget(lambda: curve(2.0)).choose(LIKELY)) == 0


@given(st.floats(0, 2), st.lists(st.floats(-6, 0, width=32), max_size=20))
def test_the_chosen_tree_has_the_best_expected_rate(slope: float, steps: list[float]) -> None:
    tree = DraftTree.build(range(len(steps)), [-1] * len(steps), sorted(steps, reverse=True))
    costs = curve(slope)
    chosen = len(MeasuredBudget(lambda: costs).choose(tree))
    rates = [(1 + np.exp(tree.log_probs[:k]).sum()) / costs(k + 1) for k in range(len(steps) + 1)]
    assert rates[chosen] >= max(rates) - 1e-5


def test_drafts_that_keep_failing_are_given_up_and_good_ones_taken_up_again() -> None:
    budget = MeasuredBudget(lambda: curve(0.3))
    assert len(budget.choose(LIKELY)) > 0
    for _ in range(300):
        budget.observe(LIKELY, 0)
    assert len(budget.choose(LIKELY)) == 0
    for _ in range(300):
        budget.observe(LIKELY, 4)
    assert len(budget.choose(LIKELY)) == 4


def test_measuring_covers_every_size_and_stops_when_time_is_up() -> None:
    asked: list[int] = []

    def step(tokens: int) -> float:
        asked.append(tokens)
        return 0.5 * tokens

    costs = CostCurve.measure(step, limit_s=4.0)
    assert max(asked) < MAX_NODES + 1
    assert costs(MAX_NODES + 1) > costs(4) > costs(1) > 0
