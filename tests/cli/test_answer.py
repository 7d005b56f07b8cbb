"""`aded generate` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aded.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aded.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_answers_in_json(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = [
        "--json",
        "--compare",
        "--dtype",
        "float32",
        "--max-new-tokens",
        "24",
        "--max-draft-tokens",
        "8",
        "--state",
        str(state),
    ]
    result = run("generate", "Write a Python function that merges two sorted lists.", *options)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["identical"] is True
    assert figures["tokens"] == 24
    assert figures["steps"] <= figures["tokens"]
    assert {"text", "mean_accepted_tokens", "tokens_per_second", "time_to_first_token_s"} <= figures.keys()
    assert {"baseline_tokens_per_second", "speedup"} <= figures.keys()
    again = json.loads(run("generate", "Write a Python function that merges two sorted lists.", *options).stdout)
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
