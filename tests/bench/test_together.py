"""Many requests at once, replayed; and what is made of vLLM's own measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded import AdedError
from aded.bench.serving import Measured, summarise
from aded.bench.together import together
from aded.budget import CostCurve
from aded.cli import app
from aded.traces import Trace
from support.paths import PROMPTS, SHIPPED


@pytest.fixture(scope="module")
def trace() -> Trace:
    whole = Trace.load(SHIPPED)
    return Trace(whole.sequences[::3], whole.about)


@pytest.mark.parametrize("requests", [1, 16, 64])
def test_where_tokens_are_nearly_free_drafts_pay(trace: Trace, requests: int) -> None:
    free = together(trace, CostCurve([1, 4096], [10.0, 11.0]), requests=requests)
    assert free.rate > 1.5
    assert free.tokens_per_step > 1.5
    assert free.drafting_ms > 0


@pytest.mark.parametrize("requests", [1, 16, 64])
def test_where_each_token_costs_as_much_as_a_step_nothing_is_lost(trace: Trace, requests: int) -> None:
    dear = together(trace, CostCurve([1, 2, 4096], [1.0, 2.0, 4096.0]), requests=requests)
    assert dear.rate > 0.98
    assert dear.drafted_per_step < 0.2


def test_costs_are_learned_though_requests_come_and_go_all_the_time(trace: Trace) -> None:
    """Hardly a step has no new request in it."""
    found = together(trace, CostCurve([1, 300, 1000], [10.0, 11.0, 30.0]), requests=64)
    assert found.rate > 1.3


def test_the_command_reports_each_number_of_requests(tmp_path: Path) -> None:
    few = tmp_path / "few.safetensors"
    whole = Trace.load(SHIPPED)
    Trace(whole.sequences[:6], whole.about).save(few)
    shown = CliRunner().invoke(app, ["vllm", "drafting", str(few), "--requests", "1,3", "--json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)
    assert [row["requests"] for row in rows] == [1, 3]
    assert all(row["tokens_per_step"] > 1 for row in rows)
    table = CliRunner().invoke(app, ["vllm", "drafting", str(few), "--requests", "2"]).stdout
    assert "drafting" in table
    assert "percentile" in table, "headings are whole"
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--concurrency", "four"], "whole numbers"),
        (["--concurrency", "0"], "from 1 on"),
        (["--methods", "none,eagle"], "there is no way eagle"),
        ([], "vLLM is not installed"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded.bench.serving._vllm", lambda: "/nowhere/vllm")
    shown = CliRunner().invoke(app, ["vllm", "compare", "--prompts", str(PROMPTS), "--model", "m", *options])
    assert isinstance(shown.exception, AdedError)
    assert message in str(shown.exception)


def measured(turn: int, method: str, rate: float, drafted: int = 0, accepted: int = 0) -> Measured:
    return Measured(turn, method, 4, rate, 1000 / rate, 50.0, 1 + accepted / 10 if drafted else None, drafted, accepted)


def test_repeats_are_compared_turn_by_turn() -> None:
    rates = [(10, 13), (20, 22), (40, 48)]
    results = [measured(turn, "none", plain) for turn, (plain, _) in enumerate(rates)]
    results += [measured(turn, "aded", ours, 20, 5 * (turn + 1)) for turn, (_, ours) in enumerate(rates)]
    none, aded = summarise(results)
    assert none.against_none == 1
    assert (aded.against_none, aded.least, aded.most) == pytest.approx((1.2, 1.1, 1.3))
    assert aded.tokens_per_second == 22
    assert aded.accepted == 0.5
    assert aded.acceptance_length == pytest.approx(2.0)
    (alone,) = summarise(results[3:])
    assert alone.against_none is None
