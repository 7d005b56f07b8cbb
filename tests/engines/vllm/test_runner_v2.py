"""Model Runner V2. What needs vLLM runs in the environment of `make vllm-test`; V2 itself in Triton's interpreter."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from aded.engines.vllm.verification import agreeing
from support.v2_runner import LENGTH, LONGEST, Runner, cycle
from support.vllm_engines import SCRIPTS, read, run_script


def test_of_a_draft_what_agrees_is_emitted_and_one_token_more() -> None:
    drawn = torch.tensor([7, 8, 9, 1, 5, 5, 6, 2])  # requests of 4, 1 and 3 tokens
    drafted = torch.tensor([0, 7, 8, 3, 0, 0, 5, -1])
    said, count = agreeing(drawn, drafted, torch.tensor([0, 4, 5, 8]), 5)
    assert count.tolist() == [3, 1, 2]
    assert said[0, :3].tolist() == [7, 8, 9]
    assert said[1, :1].tolist() == [5]
    assert said[2, :2].tolist() == [5, 6]
    assert agreeing(drawn[:4], torch.tensor([0, 7, 8, 9]), torch.tensor([0, 4]), 5)[1].tolist() == [4]


def test_requests_are_known_by_name_in_whatever_slot_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch)
    runner.add("a", 4, cycle(10), 20)
    runner.add("b", 2, cycle(30), 20)
    assert runner.step(waiting=("b",))["b"] == 0
    assert not runner.likely[1].any(), "a prompt that is not done gets no draft"
    emitted = [runner.step() for _ in range(5)]
    assert [step["a"] for step in emitted] == [LONGEST + 1] * 5
    del runner.running["a"]
    runner.add("c", 4, cycle(50), 20)  # in the slot of one that ended
    runner.step()
    assert runner.step() == {"b": LONGEST + 1, "c": LONGEST + 1}


def test_confidences_are_the_calibrated_acceptance_of_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, random = Runner(monkeypatch), np.random.default_rng(0)
    for i, slot in enumerate((3, 0, 5)):  # texts that repeat themselves, but not always
        text = [10 * i + int(n % 7) + 100 * int(random.random() < 0.15) for n in range(2 * LENGTH)]
        runner.add(str(i), slot, text, 30)
    for _ in range(12):
        runner.step()
    drafted = (runner.likely > 0).numpy()
    assert drafted.sum() > 4
    along = np.cumprod(runner.likely.numpy().astype(np.float64), axis=1)
    np.testing.assert_allclose(along[drafted], runner.budget.likely, rtol=1e-5)
    evidence = runner.budget.evidence.every
    assert 0 < evidence[0] < evidence[1] or evidence[0] > 16, "what was accepted and what was not was learned"
    assert not np.allclose(runner.budget.likely, runner.speculator._served.step._verified[[3, 0, 5]][drafted])


def test_what_was_not_verified_is_not_learned_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch)
    runner.add("a", 1, cycle(10), 30)
    before = runner.budget.evidence.classes.copy()
    for _ in range(6):
        runner.step(verified=0)
    assert (runner.likely > 0).any()
    np.testing.assert_array_equal(runner.budget.evidence.classes, before)
    runner.step(verified=1)
    assert runner.budget.evidence.classes[0].sum() == pytest.approx(before[0].sum() + 1)


def test_what_requests_ask_is_heeded_and_those_that_ended_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch)
    runner.add("a", 4, cycle(10), 20, aded_drafts="off")
    runner.add("b", 2, cycle(30), 20, aded_tenant="somebody")
    runner.add("c", 3, cycle(50), 20, aded_tenant=3)  # not readable, and too late to refuse
    emitted = [runner.step() for _ in range(6)]
    assert [step["a"] for step in emitted] == [1] * 6
    assert [step["c"] for step in emitted] == [1] * 6
    assert emitted[-1]["b"] == LONGEST + 1
    drafts = runner.speculator._served.step._speculator._drafts
    assert len(drafts._shared) == 3
    runner.running.clear()
    runner.add("d", 0, cycle(70), 20)
    runner.step()
    assert not drafts._which.any()
    assert list(runner.speculator._asked) == ["d"]


def test_greedy_and_seeded_texts_are_those_of_v2_without_drafts(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """min_p and logit_bias, which vLLM refuses with speculation, and penalties too; two ranks, of which one drafts."""
    pytest.importorskip("vllm", reason="vLLM is not installed here: make vllm-test")
    path = os.pathsep.join([str(SCRIPTS / "interpreted"), os.environ.get("PYTHONPATH", "")])

    def answer(speculative: dict[str, Any] | None, given: dict[str, Any], processors: str) -> dict[str, Any]:
        environment = {"PYTHONPATH": path, "VLLM_CPU_OMP_THREADS_BIND": processors}
        return read(run_script("seeded.py", small, speculative, given, **environment))

    with ThreadPoolExecutor(2) as threads:
        plain = threads.submit(answer, None, {}, "0")
        ours = threads.submit(
            answer, {"model": "aded.vllm", "num_speculative_tokens": 4}, {"tensor_parallel_size": 2}, "0|1"
        )
        assert ours.result()["said"] == plain.result()["said"]
    counts = ours.result()["counts"]
    accepted = counts["vllm:spec_decode_num_accepted_tokens"]
    assert 50 < accepted < counts["vllm:spec_decode_num_draft_tokens"] - 50
