"""How likely drafted tokens are to be accepted, and chains of many sequences chosen by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Chains
from aded.budget import Acceptance, AdaptiveBudget, LearnedCost, Pass

PATHS = np.array([[0.95, 0.9, 0.85], [0.3, 0.1, 0.0]], np.float32)
BOTH = np.arange(2)


def chains(paths: NDArray[np.float32]) -> Chains:
    return Chains(np.ones(paths.shape, np.int32), paths)


def lengths(budget: AdaptiveBudget, paths: NDArray[np.float32]) -> list[int]:
    return budget.choose(BOTH, chains(paths), np.zeros(2, np.int64)).lengths.tolist()


def ragged(costs: list[tuple[int, float]]) -> AdaptiveBudget:
    """A budget that has seen steps of two requests with so many draft tokens take so long."""
    cost = LearnedCost()
    for _ in range(10):
        for drafted, seconds in costs:
            cost.observe(Pass(2, 2 + drafted, 2, 0, seconds))
    return AdaptiveBudget(cost, slots=2, ragged=True)


def verify(budget: AdaptiveBudget, paths: NDArray[np.float32], accepted: list[int]) -> None:
    emitted = np.array(accepted) + 1
    budget.observe(BOTH, ChainOutcomes(np.zeros((2, 9), np.int32), emitted, paths))


def test_sure_drafts_are_verified_and_unlikely_ones_only_where_they_are_free() -> None:
    flat = ragged([(0, 0.010), (1, 0.010), (3, 0.010), (5, 0.010)])
    steep = ragged([(0, 0.010), (1, 0.013), (3, 0.019), (5, 0.025)])
    assert lengths(flat, PATHS) == [3, 2]
    assert lengths(steep, PATHS) == [3, 0]
    for _ in range(200):  # the surest is never accepted
        verify(steep, np.where(PATHS > 0.5, PATHS, 0), [0, 0])
    assert lengths(steep, PATHS) == [0, 0]


def test_equal_tokens_are_taken_draft_by_draft_and_as_many_as_pay() -> None:
    budget = ragged([(0, 0.010), (3, 0.010), (4, 0.090)])
    assert lengths(budget, np.full((2, 4), 0.7, np.float32)) == [3, 0]


def correct(acceptance: Acceptance, slots: NDArray[np.int64], paths: NDArray[np.float32]) -> NDArray[np.float64]:
    corrected = np.zeros(paths.shape)
    corrected[np.nonzero(paths)] = acceptance.correct(slots, chains(paths).nodes())
    return corrected


def learn(acceptance: Acceptance, paths: NDArray[np.float32], accepted: NDArray[np.int64]) -> None:
    nodes = chains(paths).nodes()
    acceptance.learn(np.arange(len(paths)), nodes, nodes.depth < accepted[nodes.draft])


def test_acceptance_follows_what_came_of_drafts() -> None:
    acceptance = Acceptance(3)
    # Of the first sequence's drafts the first token is always right and the rest never; the second's are all wrong.
    paths = np.array([[0.4, 0.4, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4]], np.float32)
    assert correct(acceptance, BOTH, paths) == pytest.approx(paths)
    for _ in range(300):
        learn(acceptance, paths, np.array([1, 0]))
    first, second = correct(acceptance, BOTH, paths)
    assert first[0] > 2 * first[1]
    assert first[0] > 5 * second[0]
    assert (np.diff(first) <= 0).all()
    # A third is like both together: the first token right half of the time.
    acceptance.start(2)
    assert correct(acceptance, np.array([2]), paths[:1])[0, 0] == pytest.approx(0.5, abs=0.15)
    # And who was wrong is tried again in the end.
    for _ in range(500):
        acceptance.relax(BOTH)
    assert correct(acceptance, BOTH, paths)[1, 0] > 2 * second[0]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_corrected_path_is_a_probability_and_never_rises(data: st.DataObject) -> None:
    acceptance, rows = Acceptance(4), np.arange(4)
    for _ in range(data.draw(st.integers(1, 30))):
        steps = data.draw(st.lists(st.lists(st.floats(0.05, 1.0), max_size=5), min_size=4, max_size=4))
        paths = np.zeros((4, 5), np.float32)
        for i, probabilities in enumerate(steps):
            paths[i, : len(probabilities)] = np.cumprod(probabilities)
        corrected = correct(acceptance, rows, paths)
        assert ((corrected >= 0) & (corrected <= 1)).all()
        assert (np.diff(corrected, axis=1) <= 0).all()
        assert ((corrected > 0) == (paths > 0)).all()
        verified = np.array([data.draw(st.integers(0, len(probabilities))) for probabilities in steps])
        accepted = np.array([data.draw(st.integers(0, n)) for n in verified.tolist()])
        learn(acceptance, np.where(np.arange(5) < verified[:, None], paths, 0).astype(np.float32), accepted)
