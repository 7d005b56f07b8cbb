"""Bits of ours against plain decoding's."""

from __future__ import annotations

import json
from functools import wraps
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aded.errors import AdedError
from benchmarks.exactness import app
from support.models import build
from support.processor import sums_as_the_library
from support.tokenizers import word_level

WORDS = "one two three one two three one two three one two three"


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    build("llama", hidden_size=128, eos_token_id=39).save_pretrained(folder)
    word_level().save_pretrained(folder)
    return str(folder)


@pytest.mark.skipif(not sums_as_the_library(), reason="this processor's library sums otherwise")
@pytest.mark.parametrize("temperature", ["0", "1"])
def test_the_command_finds_every_bit_the_same(model: str, tmp_path: Path, temperature: str) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{WORDS}\nfour five six\n")
    command = ["--prompts", str(prompts), "--model", model, "--max-new-tokens", "40", "--temperature", temperature]
    drafts = ["--drafters", "adaptive,prompt-lookup", "--budgets", "auto,4"]
    shown = CliRunner().invoke(app, [*command, *drafts, "--json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)
    assert [(row["drafter"], row["budget"]) for row in rows] == [
        ("adaptive", "auto"),
        ("adaptive", "4"),
        ("prompt-lookup", "auto"),
        ("prompt-lookup", "4"),
    ]
    assert all(row["same"] == row["answers"] == 2 and row["differing"] == 0 < row["scores"] for row in rows)
    assert all(row["promise"] == "generate" for row in rows)
    assert len({row["digest"] for row in rows}) == 1
    command += ["--drafters", "adaptive", "--budgets", "4"]
    again = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert again[0]["digest"] == rows[0]["digest"]
    assert [row["round"] for row in rows] == [1] * 4
    table = CliRunner().invoke(app, command).stdout
    assert "2 of 2" in table
    assert max(map(len, table.splitlines())) <= 100


def test_answers_are_recorded_and_gone_on_from(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, record = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text(f"{WORDS}\nfour five six\nseven eight seven eight\n")
    command = ["--prompts", str(prompts), "--model", model, "--max-new-tokens", "12", "--rounds", "2"]
    whole = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    recorded = [*command, "--record", str(record), "--json"]
    for part, answers in ("2/2", 1), ("1/2", 3):
        shown = CliRunner().invoke(app, [*recorded, "--part", part])
        assert [row["answers"] for row in json.loads(shown.stdout)] == [answers, answers], shown.output
    assert len(record.read_text().splitlines()) == 6
    monkeypatch.setattr("aded.generate", None)
    rows = json.loads(CliRunner().invoke(app, recorded).stdout)
    assert [(row["round"], row["digest"]) for row in rows] == [(row["round"], row["digest"]) for row in whole]
    assert len({row["digest"] for row in rows}) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--part", "3/2"], "--part is which part of how many"),
        (["--part", "half"], "--part is which part of how many"),
        (["--max-new-tokens", "9"], "other settings"),
        ([], "no result of ours"),
    ],
)
def test_what_cannot_be_gone_on_from_is_one_error(model: str, tmp_path: Path, change: list[str], says: str) -> None:
    prompts, record = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text(f"{WORDS}\n")
    command = ["--prompts", str(prompts), "--model", model, "--max-new-tokens", "8", "--record", str(record)]
    assert CliRunner().invoke(app, command).exit_code in (0, 1)
    if not change:
        record.write_text(record.read_text() + "torn\n")
    found = CliRunner().invoke(app, [*command, *change])
    assert isinstance(found.exception, AdedError)
    assert says in str(found.exception)


def test_a_difference_is_exit_code_1(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another token had been chosen."""
    import aded

    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{WORDS}\n")
    right = aded.generate

    @wraps(right)
    def wrong(*args: object, **kwargs: object) -> object:
        answer = right(*args, **kwargs)  # type: ignore[arg-type]
        answer.sequences[0, -1] = (answer.sequences[0, -1] + 1) % 40
        return answer

    monkeypatch.setattr(aded, "generate", wrong)
    shown = CliRunner().invoke(app, ["--prompts", str(prompts), "--model", model, "--max-new-tokens", "8", "--json"])
    assert shown.exit_code == 1, shown.output
    assert json.loads(shown.stdout)[0]["same"] == 0
