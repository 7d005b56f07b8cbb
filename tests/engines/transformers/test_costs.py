"""Measured step costs: kept for what they were measured with, and never when the machine was busy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from aded.budget import MAX_DRAFT_TOKENS, CostCurve
from aded.cli import app
from aded.engines.transformers.cost import cost_curve
from support.models import build
from support.tokenizers import word_level


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Counts measurements; each takes its step times from `seconds`."""
    seen: dict[str, Any] = {"count": 0, "seconds": 0.5, "steady": True}

    def measure(step: Any, **options: Any) -> CostCurve:
        assert step(3) > 0
        seen["count"] += 1
        return CostCurve([1, MAX_DRAFT_TOKENS + 1], [seen["seconds"], 1.0], steady=seen["steady"])

    monkeypatch.setattr(CostCurve, "measure", measure)
    monkeypatch.setenv("ADED_CACHE", str(tmp_path / "cache"))
    return seen


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_curve_is_kept_for_the_next_process_until_renewed(folder: Path, measured: dict[str, Any]) -> None:
    assert cost_curve(load(folder))(1) == 0.5
    measured["seconds"] = 0.7
    assert cost_curve(load(folder))(1) == 0.5, "a model loaded anew finds it"
    assert cost_curve(load(folder), renew=True)(1) == 0.7
    assert cost_curve(load(folder))(1) == 0.7
    assert measured["count"] == 2


def test_other_conditions_are_measured_by_themselves(folder: Path, measured: dict[str, Any]) -> None:
    cost_curve(load(folder))
    cost_curve(load(folder).to(torch.float16))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        cost_curve(load(folder))
    finally:
        torch.set_num_threads(threads)
    cost_curve(load(folder))
    assert measured["count"] == 3


def test_a_busy_machines_curve_is_not_kept(folder: Path, measured: dict[str, Any]) -> None:
    measured["steady"] = False
    model = load(folder)
    cost_curve(model)
    cost_curve(model)
    assert measured["count"] == 1, "within a process it serves"
    cost_curve(load(folder))
    assert measured["count"] == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "aded-step-cost-1"}', None])
def test_a_damaged_file_is_measured_anew(
    folder: Path, measured: dict[str, Any], tmp_path: Path, text: str | None
) -> None:
    cost_curve(load(folder))
    (file,) = (tmp_path / "cache" / "costs").iterdir()
    file.write_text(file.read_text().replace('"seconds": [0.5', '"seconds": [-1') if text is None else text)
    assert cost_curve(load(folder))(1) == 0.5
    assert measured["count"] == 2


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_measurements_that_disagree_are_not_steady(noise: float) -> None:
    calls = 0

    def step(tokens: int) -> float:
        nonlocal calls
        calls += 1
        return 0.05 * (1 + noise * (calls % 37))

    assert CostCurve.measure(step, limit_s=3.0).steady is (noise == 0)


def test_the_command_prints_what_it_measured(folder: Path, measured: dict[str, Any], tmp_path: Path) -> None:
    word_level().save_pretrained(folder)
    shown = CliRunner().invoke(app, ["calibrate", "--model", str(folder), "--dtype", "float32", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["step_cost"]["seconds"][0] == 0.5
    shown = CliRunner().invoke(app, ["calibrate", "--model", str(folder), "--dtype", "float32"])
    assert "2.00x" in shown.stdout
    assert measured["count"] == 2
