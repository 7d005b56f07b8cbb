"""Many requests at once, replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded.budget import CostCurve
from aded.traces import Trace, TracedSequence
from benchmarks.simulated_serving import app, simulate
from support.paths import SHIPPED


@pytest.fixture(scope="module")
def trace() -> Trace:
    whole = Trace.load(SHIPPED)
    return Trace(whole.sequences[::3], whole.about)


@pytest.mark.parametrize("requests", [1, 16, 64])
def test_where_tokens_are_nearly_free_drafts_pay(trace: Trace, requests: int) -> None:
    free = simulate(trace, CostCurve([1, 4096], [10.0, 11.0]), requests=requests, cold=False)
    assert free.rate > 1.5
    assert free.tokens_per_step > 1.5
    assert free.drafting_ms > 0


@pytest.mark.parametrize("requests", [1, 16, 64])
def test_where_each_token_costs_as_much_as_a_step_nothing_is_lost(trace: Trace, requests: int) -> None:
    dear = simulate(trace, CostCurve([1, 2, 4096], [1.0, 2.0, 4096.0]), requests=requests, cold=False)
    assert dear.rate > 0.98
    assert dear.drafted_per_step < 0.2


def test_costs_are_learned_though_requests_come_and_go_all_the_time(trace: Trace) -> None:
    """Hardly a step has no new request in it."""
    found = simulate(trace, CostCurve([1, 300, 1000], [10.0, 11.0, 30.0]), requests=64, cold=False)
    assert found.rate > 1.3


def test_the_command_reports_each_number_of_requests(tmp_path: Path) -> None:
    few = tmp_path / "few.safetensors"
    whole = Trace.load(SHIPPED)
    begun = [
        TracedSequence(s.name, s.category, s.prompt, s.output[:48], s.top_ids[:48], s.top_probs[:48])
        for s in whole.sequences[:6]
    ]
    Trace(begun, whole.about).save(few)
    shown = CliRunner().invoke(app, [str(few), "--requests", "1,3", "--json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)
    assert [row["requests"] for row in rows] == [1, 3]
    assert all(row["tokens_per_step"] > 1 for row in rows)
    table = CliRunner().invoke(app, [str(few), "--requests", "2"]).stdout
    assert "drafting" in table
    assert "percentile" in table, "headings are whole"
    assert max(map(len, table.splitlines())) <= 80
