"""Two commits beside each other; and what does not depend on a machine is no worse than it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded.errors import AdedError
from aded.traces.trace import Trace
from benchmarks import commits
from benchmarks.commits import TRACE, app
from benchmarks.probe import counts
from support.paths import ROOT

# Renewed by hand where a change is meant to move them: the test says what it found.
KEPT = ROOT / "tests" / "data" / "figures.json"
ANSWERS = 12
SLACK = 0.005  # processors round otherwise


def test_drafts_are_no_worse_and_take_no_more_memory_than_they_did() -> None:
    found, kept = counts(Trace.load(TRACE), ANSWERS), json.loads(KEPT.read_text())
    assert set(found) == set(kept), found
    for figure, value in kept.items():
        better = figure.startswith("tokens")
        within = found[figure] >= (1 - SLACK) * value if better else found[figure] <= (1 + SLACK) * value
        assert within, f"{figure}: {found[figure]}, it was {value}; all that was found: {json.dumps(found)}"


def test_both_are_measured_in_turns_and_their_ratios_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def measured(source: Path, arguments: list[str]) -> dict[str, float]:
        asked.append(source)
        here = source == ROOT / "src"
        assert (source / "aded" / "__init__.py").is_file()
        assert arguments[1:3] == ["7", "1,8"]
        common = {"drafting a step, 8 nodes, ms": (3.0 if here else 2.0) + len(asked) // 3}
        return common | ({"new, ms": 1.0} if here else {"gone, ms": 1.0})

    monkeypatch.setattr(commits, "measured", measured)
    command = ["HEAD", "--turns", "2", "--answers", "7", "--widths", "1,8"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert [source == ROOT / "src" for source in asked] == [False, True, True, False]
    line = next(line for line in shown.stdout.splitlines() if "drafting" in line)
    assert [float(value) for value in line.split("ms")[1].split()] == [2.5, 3.5, 1.417, 1.333, 1.5]
    assert "new, ms" in shown.stdout
    asked.clear()
    turns = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["turns"]
    assert len(turns) == 2
    assert len(turns[0]) == 2


def test_what_cannot_be_measured_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(AdedError, match="git has no commit nowhere"):
        CliRunner().invoke(app, ["nowhere"], catch_exceptions=False)
    with pytest.raises(AdedError, match="cannot be had"):
        commits.measured(tmp_path, [str(tmp_path / "no trace"), "1", "", ""])
