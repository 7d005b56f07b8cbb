"""What is made of vLLM's own measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded import AdedError
from benchmarks.servers import app
from benchmarks.serving import ENGINES, Engine, Measured, Vllm, Wanted, server, summarise
from support.paths import PROMPTS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--concurrency", "four"], "whole numbers"),
        (["--concurrency", "0"], "from 1 on"),
        (["--methods", "none,eagle"], "there is no way eagle"),
        (["--engine", "sglang", "--methods", "suffix"], "there is no way suffix"),
        (["--engine", "tgi"], "choose one of vllm, sglang"),
        ([], "vLLM is not installed"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vllm, "installed", lambda self: False)
    shown = CliRunner().invoke(app, ["--prompts", str(PROMPTS), "--model", "m", *options])
    assert isinstance(shown.exception, AdedError)
    assert message in str(shown.exception)


def measured(turn: int, method: str, rate: float, drafted: int = 0, accepted: int = 0) -> Measured:
    return Measured(turn, method, 4, rate, 1000 / rate, 50.0, 1 + accepted / 10 if drafted else None, drafted, accepted)


def test_repeats_are_compared_turn_by_turn() -> None:
    rates = [(10, 13), (20, 22), (40, 48)]
    results = [measured(turn, "none", plain) for turn, (plain, _) in enumerate(rates)]
    results += [measured(turn, "aded", ours, 20, 5 * (turn + 1)) for turn, (_, ours) in enumerate(rates)]
    none, aded = summarise(results)
    assert none.against_none == 1
    assert (aded.against_none, aded.least, aded.most) == pytest.approx((1.2, 1.1, 1.3))
    assert aded.tokens_per_second == 22
    assert aded.accepted == 0.5
    assert aded.acceptance_length == pytest.approx(2.0)
    (alone,) = summarise(results[3:])
    assert alone.against_none is None


def test_a_comparison_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    @contextmanager
    def server(engine: Engine, model: str, method: str, log: Path, arguments: list[str]) -> Iterator[int]:
        started.append(method)
        if len(started) == 4:
            raise AdedError("out of memory")
        yield 0

    def client(self: Engine, model: str, port: int, wanted: Wanted) -> list[str]:
        found = {"completed": len(wanted.prompts), "output_throughput": 10.0, "mean_tpot_ms": 9.0, "mean_ttft_ms": 50.0}
        return ["sh", "-c", f"echo '{json.dumps(found)}' > {wanted.result}"]

    monkeypatch.setattr(Vllm, "installed", lambda self: True)
    monkeypatch.setattr(Vllm, "client", client)
    monkeypatch.setattr("benchmarks.serving.server", server)
    record = tmp_path / "turns.jsonl"
    command = ["--prompts", str(PROMPTS), "--model", "m", "--concurrency", "1,2", "--requests", "3", "--repeats", "2"]
    command += ["--record", str(record)]
    shown = CliRunner().invoke(app, command)
    assert "out of memory" in str(shown.exception)
    assert started == ["none", "ngram", "aded", "none"]
    assert len(record.read_text().splitlines()) == 6
    shown = CliRunner().invoke(app, command)
    assert shown.exception is None
    assert started[4:] == ["none", "ngram", "aded"]
    assert len(record.read_text().splitlines()) == 12
    assert shown.stdout.count("1.00x (1.00-1.00)") == 4
    assert "other settings" in str(CliRunner().invoke(app, [*command, "--max-new-tokens", "9"]).exception)


def test_a_client_is_asked_in_its_own_way(tmp_path: Path) -> None:
    wanted = Wanted(["one", "two\nlines"], 4, 128, 0.5, tmp_path / "aded-4.json")
    for name, texts in (("vllm", ["turns"]), ("sglang", ["messages", 0, "content"])):
        command = ENGINES[name].client("m", 8000, wanted)
        assert command[command.index("--max-concurrency") + 1] == "4"
        rows = [json.loads(line) for line in (tmp_path / "aded-4.prompts.jsonl").read_text().splitlines()]
        for key in texts:
            rows = [row[key] for row in rows]
        assert rows == ([["one"], ["two\nlines"]] if name == "vllm" else ["one", "two\nlines"])
    assert ENGINES["sglang"].serve("m", 8000, "none")[-2:] == ["--port", "8000"]
    assert ENGINES["sglang"].serve("m", 8000, "aded")[-3:-2] == ["ADED"]


def test_a_server_that_ends_says_what_it_said(tmp_path: Path) -> None:
    class Ends(Vllm):
        def serve(self, model: str, port: int, method: str) -> list[str]:
            return ["sh", "-c", "echo no memory; exit 3"]

    with pytest.raises(AdedError, match="no memory"), server(Ends(), "m", "none", tmp_path / "log", []):
        pass
