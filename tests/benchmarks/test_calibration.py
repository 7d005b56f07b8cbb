"""The picture of a drafter's calibration."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded import AdedError
from aded.traces import Trace
from support.paths import SHIPPED

plot = pytest.importorskip("benchmarks.calibration", reason="matplotlib is not installed")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    Trace(Trace.load(SHIPPED).sequences[:4]).save(tmp_path / "few")
    return tmp_path / "few"


def test_the_command_draws_and_says_how_far_off_predictions_are(few: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(plot.app, [str(few), "--plot", str(tmp_path / "drawn.svg"), "--max-draft-tokens", "8"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("adaptive, 8 nodes: error 0.")
    assert "predicted" in shown.stdout
    assert "<svg" in (tmp_path / "drawn.svg").read_text()


def test_a_kind_of_file_it_cannot_draw_is_one_clear_error(few: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(plot.app, [str(few), "--plot", str(tmp_path / "drawn.doc"), "--max-draft-tokens", "2"])
    assert isinstance(shown.exception, AdedError)
    assert "choose a name ending in .svg" in str(shown.exception)
