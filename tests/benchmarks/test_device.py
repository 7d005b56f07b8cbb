"""What runs on a GPU when one is at hand, tried on a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aded.engines.transformers.loading import load
from aded.errors import AdedError
from benchmarks.device import app, random_model, speeds, step_times
from support.models import build
from support.paths import ROOT
from support.tokenizers import word_level

WORDS = "one two three one two three one two three one two three"


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    build("llama", eos_token_id=39).save_pretrained(folder)
    word_level().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text(f"{WORDS}\nfour five six\n")
    return file


def test_the_script_for_a_gpu_runs_on_a_processor(model: str, prompts: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    script = str(ROOT / "benchmarks" / "gpu" / "transformers.sh")
    command = ["bash", script, str(prompts), str(figures), model, model, "--device", "cpu"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert ended.returncode == 0, ended.stderr
    found = json.loads(figures.read_text())
    ways = found["bfloat16, eager"]
    assert list(ways) == ["generate", "our step, no drafts", "adaptive", "prompt lookup", "assistant"]
    assert ways["generate"]["speedup"] == 1
    assert ways["adaptive"]["same"] + ways["adaptive"]["ties"] == ways["adaptive"]["answers"] == 1
    assert ways["adaptive"]["learning_ms"] > 0
    assert min(found["steps of tiny billion, seconds"].values()) > 0
    assert found["device"] == "cpu"


def test_each_script_says_what_it_takes() -> None:
    for script in sorted((ROOT / "benchmarks" / "gpu").glob("*.sh")):
        ended = subprocess.run(["bash", str(script)], capture_output=True, text=True)
        assert ended.returncode == 2
        assert f"benchmarks/gpu/{script.name} " in ended.stderr


def test_float32_answers_are_all_the_same(model: str) -> None:
    found = speeds(load(model, dtype="float32"), [WORDS, "four five six"], compiled=False, tokens=24)
    assert [way["same"] for way in found.values()] == [2] * 4
    assert found["adaptive"]["tokens_a_step"] > 1


def test_what_no_time_is_left_for_is_named(model: str, prompts: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [str(figures), "--prompts", str(prompts), "--model", model, "--device", "cpu", "--eager-only"]
    command += ["--dtypes", "float32", "--sizes", "tiny", "--limit", "1", "--max-new-tokens", "8", "--minutes", "0.1"]
    with pytest.MonkeyPatch.context() as patch:
        times = iter([0.0, 0.0, 1000.0])
        patch.setattr("benchmarks.device.time.monotonic", lambda: next(times))
        shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    found = json.loads(figures.read_text())
    assert found["left out for want of time"] == ["steps of tiny billion, seconds"]
    assert "float32, eager" in found
    with pytest.raises(AdedError, match="no size huge"):
        CliRunner().invoke(app, [*command, "--sizes", "huge"], catch_exceptions=False)


def test_steps_are_timed_by_their_tokens() -> None:
    times = step_times(random_model("tiny", torch.device("cpu"), torch.float32), [1, 8], repeats=1)
    assert set(times) == {1, 8}
    assert min(times.values()) > 0
