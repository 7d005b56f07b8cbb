"""Where a step's time goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from typer.testing import CliRunner

import aded
from benchmarks.step_profile import app, profile_step
from support.models import build
from support.tokenizers import word_level


def test_the_command_shows_each_part_plain_and_ours(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build("llama").save_pretrained(folder)
    word_level().save_pretrained(folder)
    shown = CliRunner().invoke(app, ["--model", str(folder), "--dtype", "float32", "--json"])
    parts = json.loads(shown.stdout)
    assert list(parts) == ["1", "8", "32"]
    for sides in parts.values():
        assert list(sides) == ["plain", "ours"]
        assert all(seconds > 0 for side in sides.values() for seconds in side.values())
    shown = CliRunner().invoke(app, ["--model", str(folder), "--dtype", "float32"])
    assert "linear layers" in shown.stdout


def test_looking_at_the_parts_of_a_step_leaves_the_model_as_it_was() -> None:
    model = build("llama")
    before = model(torch.tensor([[1, 2, 3]])).logits
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    profile_step(model, 4, ours=True, length=8, steps=1)
    assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with pytest.raises(aded.UnsupportedError, match="eager"):
        profile_step(model, 4, ours=False)
