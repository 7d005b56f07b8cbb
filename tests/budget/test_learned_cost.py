"""Step costs learned from the steps themselves."""

from __future__ import annotations

import numpy as np
import pytest

from aded.budget import LearnedCost, Pass


def learn(times: LearnedCost, requests: int, drafted: int, prompts: int, emitted: int, seconds: float) -> None:
    times.observe(Pass(requests, requests + drafted, emitted, prompts, seconds))


def cost(times: LearnedCost, requests: int, drafted: int) -> float:
    """Of a step, where nothing drafted is accepted."""
    return float(times.per_token(np.full(drafted + 1, float(requests)), requests)[drafted]) * requests


def test_step_times_follow_the_machine() -> None:
    times = LearnedCost()
    assert not times.known(4)
    for _ in range(20):
        learn(times, 4, 0, 0, 4, 0.010)
        learn(times, 4, 8, 0, 4, 0.030)
    assert times.known(4)
    assert [round(cost(times, 4, n), 3) for n in (0, 4, 8, 36)] == [0.010, 0.020, 0.030, 0.030]
    for _ in range(60):
        learn(times, 4, 0, 0, 4, 0.020)
    assert cost(times, 4, 0) == pytest.approx(0.020, rel=0.05)
    for _ in range(600):
        learn(times, 4, 8, 0, 4, 0.030)
    assert not times.known(4)


def test_a_plain_step_is_not_mistaken_for_one_with_few_drafts() -> None:
    times = LearnedCost()
    for _ in range(20):
        learn(times, 16, 0, 0, 16, 0.044)
        learn(times, 16, 1, 0, 16, 0.058)
        learn(times, 16, 2, 0, 17, 0.064)
    assert cost(times, 16, 0) == pytest.approx(0.044)
    assert cost(times, 16, 2) > 0.058


def test_a_size_that_was_fast_by_chance_is_not_sought() -> None:
    times = LearnedCost()
    for _ in range(10):
        for drafted, seconds in ((0, 0.050), (2, 0.058), (8, 0.070), (12, 0.082)):
            learn(times, 16, drafted, 0, 16, seconds)
    learn(times, 16, 5, 0, 16, 0.030)
    costs = [cost(times, 16, n) for n in range(13)]
    assert costs == sorted(costs)
    assert costs[5] > 0.050


def test_two_disturbed_steps_are_not_believed_for_long() -> None:
    times = LearnedCost()
    for seconds in (0.140, 0.120):
        learn(times, 4, 0, 0, 4, seconds)
    for _ in range(31):
        learn(times, 4, 8, 0, 8, 0.070)
    assert times.known(4)
    learn(times, 4, 8, 0, 8, 0.070)
    assert not times.known(4), "so it is tried again"
    for _ in range(2):
        learn(times, 4, 0, 0, 4, 0.050)
    for _ in range(40):
        learn(times, 4, 8, 0, 8, 0.070)
    assert times.known(4), "what was tried again is believed longer"
    assert cost(times, 4, 0) == pytest.approx(0.050)


def test_drafts_that_are_free_by_themselves_are_not_where_steps_are_full_of_prompts() -> None:
    """To 64 tokens a step costs the same, and beyond in proportion."""
    quiet, busy = LearnedCost(), LearnedCost()
    for _ in range(40):
        for times, full in ((quiet, 0), (busy, 1)):
            learn(times, 16, 0, 0, 16, 0.010)
            for drafted, prompts in ((8, 100 * full), (16, 400 * full), (32, 1600 * full)):
                learn(times, 16, drafted, prompts, 16 + drafted // 2, 0.010 * max(16 + drafted + prompts, 64) / 64)
    one_in_ten = 16 + 0.1 * np.arange(33)
    assert np.argmin(quiet.per_token(one_in_ten, 16)) == 32
    assert np.argmin(busy.per_token(one_in_ten, 16)) < 8
