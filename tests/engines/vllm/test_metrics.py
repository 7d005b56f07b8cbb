"""What a worker counts, and how the server shows it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from aded.batch import Chains
from aded.budget import Acceptance, AdaptiveBudget, CalibratedBudget, Evidence, LearnedCost, Pass
from aded.drafters.adaptive import AdaptiveDrafter
from aded.engines.base.asked import Asked
from aded.engines.vllm.engine import Ran, StepDrafter
from aded.engines.vllm.meter import forget_others, meter_file, read_facts, write_facts
from aded.engines.vllm.metrics import ServerMetrics


def run(drafter: StepDrafter, steps: int, length: int = 20) -> None:
    """One request whose text repeats itself; every draft is accepted."""
    text = np.array([[10 + i % 7 for i in range(400)]], np.int32)
    drafts: list[list[int]] = [[]]
    for _ in range(steps):
        n = len(drafts[0]) + 1
        sampled = [text[0, length : length + n].tolist()]
        length += n
        ran = Ran(["a"], {"a": n - 1}, n, {"a"}, lambda name: Asked())
        drafts = drafter(sampled, np.array([length], np.int32), text, ran)


def made(**options: int) -> StepDrafter:
    times = iter(np.arange(0.0, 1000.0, 0.01))
    limits = {"requests": 2, "max_length": 400, "longest": 4}
    return StepDrafter(
        AdaptiveDrafter(memory_mb=1, sequence_mb=0.2), **limits, **options, clock=lambda: float(next(times))
    )


def test_steps_are_counted_by_why_they_have_no_draft() -> None:
    drafter = made()
    run(drafter, 20)
    steps = drafter.meter.facts()["steps"]
    assert sum(steps.values()) == 20
    assert steps["unknown cost"] > 0
    assert steps["drafted"] > 10
    none = made(max_draft_tokens=0)
    run(none, 5)
    assert none.meter.facts()["steps"] == {"nothing to draft": 5}


def test_times_of_steps_and_acceptance_are_told_as_they_were_learned() -> None:
    drafter = made()
    run(drafter, 20)
    facts = drafter.meter.facts()
    assert facts["draft_seconds"] > 0
    assert min(facts["step_seconds"].values()) > 0
    assert {"1", "5"} <= set(facts["step_seconds"])
    assert facts["accepted"]
    assert set(facts["accepted"]) == set(facts["expected"])
    assert all(0 < share <= 1 for share in facts["accepted"].values())


def test_why_a_budget_chose_nothing_is_known() -> None:
    paths = np.full((1, 3), 0.9, np.float32)
    slots, emitted, drafts = np.zeros(1, np.int64), np.zeros(1, np.int64), Chains(np.ones((1, 3), np.int32), paths)
    for seconds, without in ((1.0, "not worth it"), (0.0, "")):  # what four tokens take more than one
        cost = LearnedCost()
        for _ in range(4):
            cost.observe(Pass(1, 1, 1, 0, 0.1))
            cost.observe(Pass(1, 4, 3, 0, 0.1 + seconds))
        budget = AdaptiveBudget(cost, ragged=True)
        assert budget.draft_cap(slots) > 0
        budget.choose(slots, drafts, emitted)
        assert budget.without == without
    nothing = CalibratedBudget(3)
    assert nothing.draft_cap(slots) == 3
    nothing.choose(slots, Chains(drafts.ids, 0 * paths), emitted)
    assert nothing.without == "nothing to draft"


def test_acceptance_is_told_by_class() -> None:
    evidence = Evidence()
    assert evidence.by_class() == []
    nodes = Chains(np.ones((1, 2), np.int32), np.array([[0.5, 0.4]], np.float32)).nodes()
    for _ in range(200):
        Acceptance(1, evidence).learn(np.zeros(1, np.int64), nodes, np.array([True, False]))
    (first, second) = evidence.by_class()
    assert first[0] == "first, 0.45-0.55"
    assert first[1] > 0.9 > first[2] == pytest.approx(0.5)
    assert second[0] == "second and third, 0.35-0.45"
    assert second[1] < 0.05


def test_the_server_shows_what_its_workers_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADED_CACHE", str(tmp_path))
    shown, file = ServerMetrics("i", [0]), meter_file("i", 0)
    shown.refresh()  # nothing was told yet
    facts = {"steps": {"drafted": 5, "backoff": 2}, "draft_seconds": 0.5, "step_seconds": {"4": 0.02}, "saves": 1}
    facts |= {
        "accepted": {"first, 0.45-0.55": 0.4},
        "expected": {"first, 0.45-0.55": 0.5},
        "contexts": 7,
        "filled": 0.1,
    }
    for steps in (5, 8):
        write_facts(file, {**facts, "steps": {"drafted": steps, "backoff": 2}})
        shown._next = 0.0
        shown.refresh()

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"engine": "0", **labels})

    assert value("aded_steps_total", drafts="drafted") == 8
    assert value("aded_steps_total", drafts="backoff") == 2
    assert value("aded_step_seconds", tokens="4") == 0.02
    assert value("aded_accepted_share", tokens="first, 0.45-0.55", kind="said") == 0.5
    assert value("aded_saves_total", outcome="saved") == 1
    assert value("aded_table_contexts") == 7
    file.write_bytes(b"no facts")
    assert read_facts(file) == {}
    old = file.with_name("old-0.json")
    old.write_text("{}")
    os.utime(old, (0, 0))
    forget_others(file)
    assert file.exists()
    assert not old.exists()
