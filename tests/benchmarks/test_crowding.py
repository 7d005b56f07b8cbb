"""The table of `benchmarks.crowding`."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from aded.traces import Trace
from benchmarks.crowding import app
from support.paths import SHIPPED


def test_a_trace_is_replayed_before_and_after_other_text(tmp_path: Path) -> None:
    Trace(Trace.load(SHIPPED).sequences[:2], Trace.load(SHIPPED).about).save(tmp_path / "few")
    (tmp_path / "text").write_text("What is not said here is said elsewhere, by somebody else.\n" * 200)
    command = [str(tmp_path / "few"), "--text", str(tmp_path / "text"), "--tokens", "1000", "--max-draft-tokens", "8"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    rows = [line for line in shown.output.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| table",
        "| new",
        "| after 0 million tokens",
        "| after against new",
    ]
    Trace(Trace.load(SHIPPED).sequences[:2], {"fingerprint": "other"}).save(tmp_path / "other")
    refused = CliRunner().invoke(app, [str(tmp_path / "other"), *command[1:]])
    assert "another tokenizer" in str(refused.exception)
