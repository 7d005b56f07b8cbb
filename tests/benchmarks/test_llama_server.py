"""llama.cpp's own server beside ours; the server itself is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("llama_cpp", reason="make llamacpp builds it")

from benchmarks import llama_server
from benchmarks.llama_server import app
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


def test_each_way_is_compared_with_plain_decoding_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "_server", lambda file, kind, threads, context, static=None: Server(kind))
    monkeypatch.setenv("ADED_CACHE", str(tmp_path))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one two three one two three\nfour five\n")
    command = ["--prompts", str(prompts), "--model", llama_file(tmp_path / "llama.gguf"), "--context", "256"]
    command += ["--threads", "1", "--types", "ngram-mod", "--max-new-tokens", "12"]
    rows = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [row["way"] for row in rows] == ["llama-cpp-python", "adaptive", "llama-server", "ngram-mod"] * 2
    assert [row["baseline"] for row in rows[:4]] == ["llama-cpp-python"] * 2 + ["llama-server"] * 2
    assert [row["tokens"] for row in rows] == [12] * 8
    assert rows[3]["accepted"] == 3
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    mod = next(line for line in shown.stdout.splitlines() if "ngram-mod" in line)
    assert "2.00x" in mod
    assert "6 of 12" in mod
    assert max(map(len, shown.stdout.splitlines())) <= 100
