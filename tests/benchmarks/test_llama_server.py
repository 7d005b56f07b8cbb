"""llama.cpp's own server beside ours; the server itself is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("llama_cpp", reason="make llamacpp builds it")

from aded.errors import AdedError
from benchmarks import llama_server
from benchmarks.llama_server import Row, app
from support.gguf_models import llama_file


class Server:
    """Answers as llama-server does, the faster for drafts."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def handle_completions(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["temperature"] == 0.0
        assert all(isinstance(token, int) for token in asked["prompt"])
        drafts = {} if self._kind == "none" else {"draft_n": 6, "draft_n_accepted": 3}
        return {"timings": {"predicted_ms": 100.0 if drafts else 200.0, "predicted_n": asked["n_predict"], **drafts}}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(llama_server, "_server", lambda file, kind, threads, context, static=None: Server(kind))
    monkeypatch.setenv("ADED_CACHE", str(tmp_path))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one two three one two three\nfour five\n")
    made = ["--prompts", str(prompts), "--model", llama_file(tmp_path / "llama.gguf"), "--context", "256"]
    return [*made, "--threads", "1", "--types", "ngram-mod", "--max-new-tokens", "12"]


def test_each_way_is_compared_with_plain_decoding_of_its_own(command: list[str]) -> None:
    rows = json.loads(CliRunner().invoke(app, [*command, "--lookup", "--json"]).stdout)
    ways = ["llama-cpp-python", "adaptive", "prompt lookup, 2", "llama-server", "ngram-mod"]
    assert [row["way"] for row in rows] == [*ways, *ways[1:], ways[0]]  # each request begins with another
    assert [row["baseline"] for row in rows[:5]] == ["llama-cpp-python"] * 3 + ["llama-server"] * 2
    assert [row["tokens"] for row in rows] == [12] * 10
    assert rows[4]["accepted"] == 3
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    mod = next(line for line in shown.stdout.splitlines() if "ngram-mod" in line)
    assert "2.00x" in mod
    assert "6 of 12" in mod
    assert max(map(len, shown.stdout.splitlines())) <= 100


def test_results_are_kept_and_gone_on_from(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "rows.jsonl"
    command += ["--repeats", "2", "--record", str(record)]
    assert CliRunner().invoke(app, command).exit_code == 0
    lines = record.read_text().splitlines()
    assert len(lines) == 16
    record.write_text("\n".join(lines[:11]) + "\n")
    rows = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [json.loads(line)["seconds"] for line in lines[:11]] == [row["seconds"] for row in rows[:11]]
    assert sorted((row["repeat"], row["prompt"], row["way"]) for row in rows) == sorted(
        (repeat, prompt, way)
        for repeat in (1, 2)
        for prompt in ("1", "2")
        for way in ("adaptive", "llama-cpp-python", "llama-server", "ngram-mod")
    )


def test_a_speedup_is_the_median_of_its_repeats() -> None:
    def row(repeat: int, way: str, seconds: float) -> Row:
        return Row(repeat, "a", "qa", way, "plain", seconds, seconds / 2, 10, 0, 0)

    rows = [row(i, "plain", 12.0) for i in (1, 2, 3)] + [row(1, "fast", 6.0), row(2, "fast", 1.0), row(3, "fast", 4.0)]
    assert llama_server._ratios("fast", rows) == {"qa": [pytest.approx(3.0)]}


def test_edits_are_asked_for_without_any_file(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command[2:], "--context", "4096", "--edits", "1", "--types", "none", "--json"])
    assert {row["category"] for row in json.loads(shown.stdout)} == {"edit"}
    with pytest.raises(AdedError, match="nothing to ask"):
        CliRunner().invoke(app, command[2:], catch_exceptions=False)
