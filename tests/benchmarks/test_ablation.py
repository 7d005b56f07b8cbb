"""The ablation's table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from aded.traces import Trace
from benchmarks.ablation import VARIANTS
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
    command[3] = str(tmp_path / "nothing")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("benchmarks: there is no trace")
