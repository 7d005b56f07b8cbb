"""`aded generate` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import aded
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


def test_the_version_and_short_help() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"aded {aded.__version__}\n"
    for words in (["-h"], ["generate", "-h"], ["trace", "record", "-h"]):
        assert CliRunner().invoke(app, words).exit_code == 0


def test_an_answer_as_one_page_and_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="the extra cli brings it")
    from support.gguf_files import write_tiny_gguf

    monkeypatch.setenv("ADED_CACHE", str(tmp_path / "cache"))
    write_tiny_gguf(tmp_path / "tiny.gguf")
    options = ["--model", str(tmp_path / "tiny.gguf"), "--max-new-tokens", "12", "--max-draft-tokens", "4"]
    shown = CliRunner().invoke(app, ["generate", "the other", *options, "--json", "--html", str(tmp_path / "a.html")])
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert figures["finish_reason"] == "length"
    assert 0 <= figures["accepted"] <= figures["drafted"]
    made = (tmp_path / "a.html").read_text()
    replay = json.JSONDecoder().raw_decode(made[made.index("const REPLAY = ") + len("const REPLAY = ") :])[0]
    assert sum(len(step["tokens"]) for step in replay["steps"]) == figures["tokens"] == 12
    assert replay["figures"]["accepted"] == figures["accepted"]
    alone = CliRunner().invoke(app, ["generate", "the other", *options, "--quiet"])
    assert alone.stdout.strip() == figures["text"].strip()
    assert not alone.stderr


def test_progress_in_a_log_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from aded.cli.progress import progress_bar

    with progress_bar("requests", lines=True) as progress:
        for done in (1, 1, 2):
            progress(done, 2)
    assert capsys.readouterr().err == "requests: 1 of 2\nrequests: 2 of 2\n"
    with progress_bar("tokens", lines=True) as progress:
        for done in range(10_000):
            progress(done, 10_000)
    assert len(capsys.readouterr().err.splitlines()) == 100
    for options in ({}, {"quiet": True, "lines": True}):
        with progress_bar("requests", **options) as progress:
            progress(1, 2)
    assert not capsys.readouterr().err
