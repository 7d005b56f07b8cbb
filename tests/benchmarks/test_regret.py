"""Choosing each step's draft against the best fixed budget, on recorded answers and several step costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded import AdedError, create_drafter
from aded.budget import MAX_DRAFT_TOKENS, CostCurve
from aded.traces import Trace
from benchmarks.regret import app, regret
from support.paths import SHIPPED

CURVES = {
    "free": CostCurve([1], [1.0]),
    "gentle": CostCurve([1, 8, 16, 65], [26.6, 31.4, 38.3, 90.8]),
    "steep": CostCurve([1, 2, 4, 8, 32], [11, 14.8, 21.8, 36, 120]),
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    whole = Trace.load(SHIPPED)
    return Trace(whole.sequences[::9], whole.about)


@pytest.mark.parametrize("name", CURVES)
def test_within_three_percent_of_the_best_fixed_budget(trace: Trace, name: str) -> None:
    found = regret(trace, lambda: create_drafter("adaptive"), CURVES[name], fixed=(0, 2, 4, 8, 16, MAX_DRAFT_TOKENS))
    assert found.ratio >= 0.97
    assert found.chosen >= found.fixed[0]


def test_where_nodes_never_pay_every_step_is_plain(trace: Trace) -> None:
    found = regret(trace, lambda: create_drafter("adaptive"), CostCurve([1, 2, 65], [1, 3, 130]), fixed=(0,))
    assert found.nodes_used == 0
    assert found.chosen == found.fixed[0] == pytest.approx(1.0)


def test_the_command_takes_pairs_and_reports(tmp_path: Path) -> None:
    report = {"step_cost": {"tokens": [1, 65], "seconds": [0.03, 0.1]}}
    (tmp_path / "bench.json").write_text(json.dumps(report))
    options = ["--curve", "1:1", "--curve", str(tmp_path / "bench.json"), "--limit", "2"]
    shown = CliRunner().invoke(app, [str(SHIPPED), *options, "--json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)
    assert [row["curve"] for row in rows] == ["1:1", str(tmp_path / "bench.json")]
    assert all(row["ratio"] > 0.9 and row["fixed"]["0"] > 0 for row in rows)
    assert "against plain" in CliRunner().invoke(app, [str(SHIPPED), "--curve", "1:1", "--limit", "1"]).stdout


@pytest.mark.parametrize("curve", ["2:3", "1:0", "1:2,x", "/no/such/file", "3:1,1:2"])
def test_a_curve_that_is_none_is_refused(curve: str) -> None:
    shown = CliRunner().invoke(app, [str(SHIPPED), "--curve", curve])
    assert isinstance(shown.exception, AdedError)
    assert "--curve takes" in str(shown.exception)
