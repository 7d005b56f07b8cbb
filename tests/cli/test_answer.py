"""`aded generate` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded.cli import app, main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aded.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_answers_in_json(tmp_path: Path) -> None:
    prompt, state = "Write a Python function that merges two sorted lists.", str(tmp_path / "state")
    options = ["--json", "--dtype", "float32", "--max-new-tokens", "16", "--max-draft-tokens", "8", "--state", state]
    shown = CliRunner().invoke(app, ["generate", prompt, *options, "--compare"])
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert figures["identical"] is True
    assert figures["tokens"] == 16
    assert figures["steps"] <= figures["tokens"]
    assert {"text", "mean_accepted_tokens", "tokens_per_second", "time_to_first_token_s"} <= figures.keys()
    assert {"baseline_tokens_per_second", "speedup"} <= figures.keys()
    result = run("generate", prompt, *options)
    assert result.returncode == 0, result.stderr
    again = json.loads(result.stdout)
    assert again["text"] == figures["text"]
    assert again["steps"] < figures["steps"]  # the state was kept


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "/no/such/model"], "cannot load the model"),
        (["--drafter", "nothing"], "choose one of adaptive"),
        (["--max-draft-tokens", "many"], "whole number"),
        (["--dtype", "int3"], "choose one of float32"),
        (["--state", __file__], "state file"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["aded", "generate", "hello", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capfd.readouterr().err
    assert ended.value.code == 2
    assert len(shown.strip().splitlines()) == 1, shown
    assert says in shown
    assert "Traceback" not in shown


def test_a_wrong_option_ends_the_process_so() -> None:
    result = run("generate", "hello", "--drafter", "nothing")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
