"""Edits as prompts."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from aded.traces import read_prompts
from benchmarks.edits import app


def test_edits_are_written_as_prompts_that_every_command_reads(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.jsonl", "same.jsonl", "other.jsonl")]
    for file, seed in zip(files, ("3", "3", "4"), strict=True):
        assert CliRunner().invoke(app, [str(file), "--count", "3", "--seed", seed]).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    prompts = read_prompts(files[0])
    assert [prompt.category for prompt in prompts] == ["code edits"] * 3
    for prompt in prompts:
        assert prompt.output is not None
        before = set(prompt.turns[0].splitlines())
        lines = prompt.output.splitlines()
        assert sum(line not in before for line in lines) <= 0.1 * len(lines)
        assert "renamed_value" in prompt.output
