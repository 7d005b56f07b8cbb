"""What is made of vLLM's own measurements."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aded import AdedError
from benchmarks.serving import Measured, summarise
from benchmarks.vllm import app
from support.paths import PROMPTS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--concurrency", "four"], "whole numbers"),
        (["--concurrency", "0"], "from 1 on"),
        (["--methods", "none,eagle"], "there is no way eagle"),
        ([], "vLLM is not installed"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.serving._vllm", lambda: "/nowhere/vllm")
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
    def server(model: str, method: str, log: Path, arguments: list[str]) -> Iterator[int]:
        started.append(method)
        if len(started) == 4:
            raise AdedError("out of memory")
        yield 0

    def client(options: dict[str, Any], logs: Path, name: str) -> dict[str, Any]:
        count = options["--num-prompts"]
        sent = (options["--dataset-path"]).read_text().splitlines()
        assert len(sent) == count
        known = {"completed": count, "num_prompts": count, "output_throughput": 10.0}
        return known | {"mean_tpot_ms": 9.0, "mean_ttft_ms": 50.0}

    monkeypatch.setattr("benchmarks.serving._vllm", lambda: sys.executable)
    monkeypatch.setattr("benchmarks.serving.server", server)
    monkeypatch.setattr("benchmarks.serving._client", client)
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
