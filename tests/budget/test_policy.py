from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree, Observation
from aded.budget import MAX_NODES, CostCurve, MeasuredBudget, _Fit
from aded.decoding import decode

LIKELY = DraftTree.chain([1, 2, 3, 4], np.log(np.array([0.9, 0.8, 0.7, 0.6], np.float32)).tolist())


def curve(slope: float) -> CostCurve:
    return CostCurve([1, MAX_NODES + 1], [1.0, 1.0 + slope * MAX_NODES])


def test_free_nodes_are_all_verified_and_dear_ones_never() -> None:
    assert len(MeasuredBudget(lambda: curve(0.0)).choose([LIKELY])[0]) == 4
    assert len(MeasuredBudget(lambda: curve(2.0)).choose([LIKELY])[0]) == 0


@given(st.floats(0, 2), st.lists(st.floats(-6, 0, width=32), max_size=20))
def test_the_chosen_tree_has_the_best_expected_rate(slope: float, steps: list[float]) -> None:
    tree = DraftTree.build(range(len(steps)), [-1] * len(steps), sorted(steps, reverse=True))
    costs = curve(slope)
    chosen = len(MeasuredBudget(lambda: costs).choose([tree])[0])
    rates = [(1 + np.exp(tree.log_probs[:k]).sum()) / costs(k + 1) for k in range(len(steps) + 1)]
    assert rates[chosen] >= max(rates) - 1e-5


def test_drafts_that_keep_failing_are_given_up_and_good_ones_taken_up_again() -> None:
    budget = MeasuredBudget(lambda: curve(0.3))
    assert len(budget.choose([LIKELY])[0]) > 0
    for _ in range(300):
        budget.observe(LIKELY, 0)
    assert len(budget.choose([LIKELY])[0]) == 0
    for _ in range(300):
        budget.observe(LIKELY, 4)
    assert len(budget.choose([LIKELY])[0]) == 4


def test_where_nothing_pays_drafts_become_rare_but_do_not_end() -> None:
    budget = MeasuredBudget(lambda: curve(2.0))

    def step(tree: DraftTree) -> bool:
        drafted = budget.max_nodes > 0
        chosen = budget.choose([tree if drafted else DraftTree.empty()])
        budget.timed(chosen, 1.0, 0.1 * drafted, 0.0)
        return drafted

    drafted = [step(LIKELY) for _ in range(400)]
    assert all(drafted[:4])
    assert sum(drafted[-200:]) <= 200 / 10
    assert sum(drafted[-32:]) >= 1


@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 2**31))
def test_a_drafter_sees_every_token_though_budgets_rest_and_callers_leave(length: int, taken: int, seed: int) -> None:
    """Drafts of a steep curve never pay, so most steps are passed over; a caller takes so many tokens and leaves."""
    output = np.random.default_rng(seed).integers(0, 9, length).astype(np.int32)

    class Watching:
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.calls = 0

        def draft(self, max_nodes: int) -> DraftTree:
            return DraftTree.build([9], [-1], [-0.1])  # is never right

        def observe(self, observation: Observation) -> None:
            self.seen += observation.emitted
            self.calls += 1

    class Saying:
        """An engine that says the output, whatever is drafted."""

        said = 0

        def prefill(self) -> list[Any]:
            return [self]

        def verify(self, *_: Any) -> list[Any]:
            return [self]

        def commit(self, paths: Any) -> None: ...

        def top_k(self, k: int) -> None: ...

        def choose(self, row: int) -> int:
            self.said += 1
            return int(output[self.said - 1])

    session, emitted = Watching(), []
    steps = decode(Saying(), [session], budget=MeasuredBudget(lambda: curve(2.0)), max_tokens=length, top_k=1)
    for step in steps:
        emitted += step.tokens
        if len(emitted) >= taken:
            break
    steps.close()
    assert session.seen == emitted == output[: len(emitted)].tolist()
    assert session.calls < 30


def test_drafts_that_gain_less_than_drafting_takes_become_rare() -> None:
    """A node pays for verifying it, and yet a step with a draft is slower than one without."""
    budget, drafts = MeasuredBudget(lambda: curve(0.05)), 0
    draft = DraftTree.chain([1], [float(np.log(0.2))])
    for _ in range(200):
        drafts += budget.max_nodes > 0
        chosen = budget.choose([draft if budget.max_nodes else DraftTree.empty()])
        for tree in chosen:
            budget.observe(tree, 0)
        budget.timed(chosen, 1.0 + 0.05 * len(chosen[0]), 0.3 * (budget.max_nodes > 0), 0.0)
    assert drafts < 100


@given(st.lists(st.lists(st.floats(-4, 0, width=32), max_size=6), min_size=1, max_size=5), st.floats(0, 1))
def test_a_batch_gets_the_width_with_the_best_expected_rate(rows: list[list[float]], slope: float) -> None:
    trees = [DraftTree.build(range(len(row)), [-1] * len(row), sorted(row, reverse=True)) for row in rows]
    costs = CostCurve([1, MAX_NODES + 1], [1.0, 1.0 + slope * MAX_NODES])
    chosen = MeasuredBudget(lambda: costs).choose(trees, dict.fromkeys(range(len(trees)), 0))
    width = max(map(len, chosen))
    assert all(len(small) == min(width, len(tree)) for small, tree in zip(chosen, trees, strict=True))

    cost = costs.at(np.arange(1, 8), rows=len(rows))

    def rate(k: int) -> float:
        return float(sum(1 + np.exp(tree.log_probs[:k]).sum() for tree in trees)) / cost[k]

    assert rate(width) >= max(map(rate, range(7))) * (1 - 1e-6)


def test_a_row_far_ahead_does_not_slow_the_others_down() -> None:
    costs = CostCurve([1, MAX_NODES + 1], [1.0, 1.0 + 0.15 * MAX_NODES])
    nothing = DraftTree.chain([1], [-9.0])
    assert len(MeasuredBudget(lambda: costs).choose([LIKELY, nothing], {0: 0, 1: 0})[0]) > 0
    assert len(MeasuredBudget(lambda: costs).choose([LIKELY, nothing], {0: 90, 1: 0})[0]) == 0
    assert len(MeasuredBudget(lambda: costs).choose([LIKELY, nothing], {0: 0, 1: 90})[0]) > 0


@given(st.floats(0.5, 2.5), st.floats(0, 0.5), st.integers(0, 99))
def test_predicted_step_times_follow_what_steps_take(factor: float, more: float, seed: int) -> None:
    """Steps slower and longer than measured: after a hundred of different sizes, all sizes are predicted well."""
    fit, draw = _Fit(), np.random.default_rng(seed)
    costs = curve(0.1)
    for tokens in draw.integers(1, 32, 100):
        fit.learn(costs(int(tokens)), factor * costs(int(tokens)) + more)
    sizes = np.array([1, 8, 31])
    expected = factor * costs.at(sizes) + more
    assert np.allclose(fit(costs.at(sizes)), expected, rtol=0.15)


def test_a_step_that_was_interrupted_hardly_moves_the_prediction() -> None:
    fit = _Fit()
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
    assert max(asked) < MAX_NODES + 1
    assert costs(MAX_NODES + 1) > costs(4) > costs(1) > 0
