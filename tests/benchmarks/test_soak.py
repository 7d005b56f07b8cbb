"""The soak's table, and that it finds what grows."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

import aded
from benchmarks.soak import app


def test_every_answer_compared_is_plain_decodings(capsys: pytest.CaptureFixture[str]) -> None:
    shown = CliRunner().invoke(app, ["--requests", "60", "--every", "30"])
    rows = [line for line in shown.output.splitlines() if line.startswith("| ")]
    assert rows[-1].endswith("| 6 of 6 |"), shown.output
    assert "From request 30 on, memory grew by" in shown.output


def test_what_grows_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, plain = [], aded.generate

    def leaking(*arguments: object, **options: object) -> object:
        kept.append(torch.ones(2**21))
        return plain(*arguments, **options)

    monkeypatch.setattr(aded, "generate", leaking)
    assert CliRunner().invoke(app, ["--requests", "40", "--every", "10"]).exit_code == 1
