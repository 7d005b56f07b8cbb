"""The ablation's table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aded.traces import Trace
from benchmarks.ablation import VARIANTS, app
from benchmarks.command import run
from support.paths import ROOT, SHIPPED


def test_the_command_prints_a_row_for_each_part_taken_away(tmp_path: Path) -> None:
    Trace(Trace.load(SHIPPED).sequences[:2]).save(tmp_path / "few")
    command = [
        sys.executable,
        "-m",
        "benchmarks.ablation",
        str(tmp_path / "few"),
        "--max-draft-tokens",
        "4",
        "--processes",
        "1",
    ]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    head, _, *rows = shown.stdout.splitlines()
    assert head == "| drafter | fresh 4 | kept 4 |"
    assert [row.split("|")[1].strip() for row in rows] == list(VARIANTS)
    assert all(float(figure) >= 1 for row in rows for figure in row.split("|")[2:4])


def test_a_trace_that_is_not_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation", str(tmp_path / "nothing"), "--max-draft-tokens", "4"])
    with pytest.raises(SystemExit) as ended:
        run(app)
    assert ended.value.code == 2
    assert capfd.readouterr().err.startswith("benchmarks: there is no trace")
