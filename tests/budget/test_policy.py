"""How much of the drafts is verified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree, Outcome
from aded.batch import Limits, Outcomes, Trees
from aded.budget import MAX_DRAFT_TOKENS, AdaptiveBudget, CostCurve, Evidence, FixedBudget, MeasuredCost, Pass
from aded.decoding import decode
from aded.speculation import Speculator
from support.engines import Saying

LIKELY = DraftTree.chain([1, 2, 3, 4], np.log(np.array([0.9, 0.8, 0.7, 0.6], np.float32)).tolist())
ONE = np.zeros(1, np.int64)


def curve(slope: float) -> CostCurve:
    return CostCurve([1, MAX_DRAFT_TOKENS + 1], [1.0, 1.0 + slope * MAX_DRAFT_TOKENS])


def budget(slope: float, **options: object) -> AdaptiveBudget:
    return AdaptiveBudget(MeasuredCost(curve(slope)), **options)


def choose(
    chooser: AdaptiveBudget, *trees: DraftTree, emitted: Sequence[int] = (0,), limits: Limits | None = None
) -> list[DraftTree]:
    if limits is not None:
        chooser.begin(limits)
    return list(chooser.choose(np.arange(len(trees)), Trees(trees), np.array(emitted)))


def observe(chooser: AdaptiveBudget, tree: DraftTree, accepted: int) -> None:
    emitted = [*tree.tokens[:accepted].tolist(), 99]
    chooser.observe(ONE, Outcomes([Outcome(emitted, tree)]))


def test_free_nodes_are_all_verified_and_dear_ones_never() -> None:
    assert len(choose(budget(0.0), LIKELY)[0]) == 4
    assert len(choose(budget(2.0), LIKELY)[0]) == 0


@given(st.floats(0, 2), st.lists(st.floats(-6, 0, width=32), max_size=20))
def test_the_chosen_tree_has_the_best_expected_rate(slope: float, steps: list[float]) -> None:
    tree = DraftTree.build(range(len(steps)), [-1] * len(steps), sorted(steps, reverse=True))
    costs = curve(slope)
    chosen = len(choose(budget(slope), tree)[0])
    rates = [(1 + np.exp(tree.log_probs[:k]).sum()) / costs(k + 1) for k in range(len(steps) + 1)]
    assert rates[chosen] >= max(rates) - 1e-5


@given(st.floats(0, 2), st.integers(0, 8), st.lists(st.floats(-2, 0, width=32), max_size=8))
def test_what_is_taken_in_again_after_a_rejected_draft_is_part_of_its_price(
    slope: float, again: int, steps: list[float]
) -> None:
    tree = DraftTree.chain(range(len(steps)), np.cumsum(np.array(steps, np.float32)).tolist())
    limits = Limits([64], again=[again], restores=True)
    chosen = len(choose(budget(slope), tree, limits=limits)[0])
    path = [1.0, *np.exp(tree.log_probs).tolist()]
    emitted = np.cumsum(path)
    redone = [(1 - path[k]) * (again + emitted[k]) for k in range(len(steps) + 1)]
    rates = [emitted[k] / (1.0 + slope * (again + k + redone[k])) for k in range(len(steps) + 1)]
    assert rates[chosen] >= max(rates) - 1e-4


def test_rows_in_step_pay_for_what_all_take_in_again() -> None:
    """What only a row that is ahead takes in fills up the rectangle, and costs nothing."""
    for again, expected in (([0, 0], 4), ([0, 9], 4)):
        kept = choose(budget(0.0, slots=2), LIKELY, LIKELY, emitted=(0, 0), limits=Limits([9, 9], again=again))
        assert [len(tree) for tree in kept] == [expected, expected]


def test_drafts_that_keep_failing_are_given_up_and_good_ones_taken_up_again() -> None:
    chooser = budget(0.3)
    assert len(choose(chooser, LIKELY)[0]) > 0
    for _ in range(300):
        observe(chooser, LIKELY, 0)
    assert len(choose(chooser, LIKELY)[0]) == 0
    for _ in range(300):
        observe(chooser, LIKELY, 4)
    assert len(choose(chooser, LIKELY)[0]) == 4


def test_what_a_call_learned_of_the_drafters_probabilities_serves_the_next() -> None:
    evidence = Evidence()
    first = budget(0.3, evidence=evidence)
    for _ in range(300):
        observe(first, LIKELY, 0)
    assert len(choose(budget(0.3, evidence=evidence), LIKELY)[0]) == 0
    assert len(choose(budget(0.3), LIKELY)[0]) > 0


def step(chooser: AdaptiveBudget, tree: DraftTree, drafting: float, slope: float = 0.0, accepted: int = -1) -> bool:
    """One step of a loop: whether there was a draft."""
    drafted = chooser.draft_cap(ONE) > 0
    (chosen,) = choose(chooser, tree) if drafted else [DraftTree.empty()]
    if accepted >= 0:
        observe(chooser, chosen, accepted)
    taken = Pass(1, 1 + len(chosen), 1, 0, 1.0 + slope * len(chosen))
    chooser.timed(taken, drafting * drafted, 0.0)
    return drafted


def test_where_nothing_pays_drafts_become_rare_but_do_not_end() -> None:
    chooser = budget(2.0)
    drafted = [step(chooser, LIKELY, 0.1) for _ in range(400)]
    assert all(drafted[:4])
    assert sum(drafted[-200:]) <= 200 / 10
    assert sum(drafted[-32:]) >= 1


@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 2**31))
def test_a_drafter_sees_every_token_though_budgets_rest_and_callers_leave(length: int, taken: int, seed: int) -> None:
    """Drafts of a steep curve never pay, so most steps are passed over; a caller takes so many tokens and leaves."""
    output = np.random.default_rng(seed).integers(0, 9, length).astype(np.int32)

    class Watching:
        top_k = 1

        def __init__(self) -> None:
            self.seen: list[int] = []
            self.calls = 0

        def start(self, prompt: Sequence[int]) -> Watching:
            return self

        def draft(self, max_nodes: int) -> DraftTree:
            return DraftTree.build([9], [-1], [-0.1])  # is never right

        def observe(self, outcome: Outcome) -> None:
            self.seen += outcome.emitted
            self.calls += 1

    session, emitted, engine = Watching(), list[int](), Saying(output)
    speculator = Speculator(session, budget(2.0))
    speculator.start(0, [])
    steps = decode(engine, speculator)
    for outcomes in steps:
        emitted += outcomes[0].emitted
        if len(emitted) >= taken:
            break
    steps.close()
    assert session.seen == emitted == output[: len(emitted)].tolist()
    assert session.calls < 30
    assert engine.asked.count(1) <= session.calls + 1, (
        "likeliest tokens are not asked for where nobody learns from them"
    )


def test_drafts_that_gain_less_than_drafting_takes_become_rare() -> None:
    """A node pays for verifying it, and yet a step with a draft is slower than one without."""
    chooser, draft = budget(0.05), DraftTree.chain([1], [float(np.log(0.2))])
    assert sum(step(chooser, draft, 0.3, slope=0.05, accepted=0) for _ in range(200)) < 100


@given(st.lists(st.lists(st.floats(-4, 0, width=32), max_size=6), min_size=1, max_size=5), st.floats(0, 1))
def test_a_batch_gets_the_width_with_the_best_expected_rate(rows: list[list[float]], slope: float) -> None:
    trees = [DraftTree.build(range(len(row)), [-1] * len(row), sorted(row, reverse=True)) for row in rows]
    costs = CostCurve([1, MAX_DRAFT_TOKENS + 1], [1.0, 1.0 + slope * MAX_DRAFT_TOKENS])
    chooser = AdaptiveBudget(MeasuredCost(costs), slots=len(trees))
    chosen = choose(chooser, *trees, emitted=[0] * len(trees))
    width = max(map(len, chosen))
    assert all(len(small) == min(width, len(tree)) for small, tree in zip(chosen, trees, strict=True))

    cost = costs.at(np.arange(1, 8), rows=len(rows))

    def rate(k: int) -> float:
        return float(sum(1 + np.exp(tree.log_probs[:k]).sum() for tree in trees)) / cost[k]

    assert rate(width) >= max(map(rate, range(7))) * (1 - 1e-6)


@given(st.lists(st.lists(st.floats(-4, 0, width=32), max_size=6), min_size=1, max_size=5), st.floats(0, 1))
def test_ragged_batches_get_the_likeliest_nodes_whosever_they_are(rows: list[list[float]], slope: float) -> None:
    trees = [DraftTree.build(range(len(row)), [-1] * len(row), sorted(row, reverse=True)) for row in rows]
    costs = CostCurve([1, MAX_DRAFT_TOKENS + 1], [1.0, 1.0 + slope * MAX_DRAFT_TOKENS])
    chooser = AdaptiveBudget(MeasuredCost(costs), slots=len(trees), ragged=True)
    chosen = choose(chooser, *trees, emitted=[0] * len(trees))
    count, gains = len(rows), np.sort(np.exp([score for row in rows for score in row]))[::-1]

    def rate(n: int) -> float:
        return float((count + gains[:n].sum()) / costs.at(np.array([count + n]))[0])

    taken = sum(map(len, chosen))
    assert rate(taken) >= max(map(rate, range(len(gains) + 1))) * (1 - 1e-6)
    kept = np.sort(np.exp(np.concatenate([tree.log_probs for tree in chosen])))[::-1]
    assert np.allclose(kept, gains[:taken])


def test_a_row_far_ahead_does_not_slow_the_others_down() -> None:
    costs = CostCurve([1, MAX_DRAFT_TOKENS + 1], [1.0, 1.0 + 0.15 * MAX_DRAFT_TOKENS])
    nothing = DraftTree.chain([1], [-9.0])

    def first(emitted: list[int]) -> int:
        return len(choose(AdaptiveBudget(MeasuredCost(costs), slots=2), LIKELY, nothing, emitted=emitted)[0])

    assert first([0, 0]) > 0
    assert first([90, 0]) == 0
    assert first([0, 90]) > 0


def test_a_fixed_budget_cuts_where_a_path_is_unlikely() -> None:
    drafts, none = Trees([LIKELY]), np.zeros(1, np.int64)
    assert FixedBudget(3).draft_cap(ONE) == 3
    assert FixedBudget(3).choose(ONE, drafts, none) is drafts
    (cut,) = FixedBudget(3, min_probability=0.75).choose(ONE, drafts, none)
    assert cut.tokens.tolist() == [1, 2]
