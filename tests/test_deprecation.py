"""Old names go on working, and say what they are called now."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import aded
from aded.cli import app
from aded.engines.base.settings import Settings
from support.models import PROMPT, build
from support.oracle import Oracle
from support.paths import SHIPPED

OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "pad_token_id": 0, "do_sample": False}


@pytest.mark.parametrize(("old", "new"), [("Observation", "Outcome"), ("undo", "restore")])
def test_old_names_of_the_package(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"aded.{old} is called aded.{new} now"):
        assert getattr(aded, old) is getattr(aded, new)
    assert old not in aded.__all__


def test_the_old_option_of_generate_and_accelerate() -> None:
    model = build("llama")
    plain = model.generate(PROMPT, **OPTIONS)
    oracle, stats = Oracle(plain[0, PROMPT.shape[1] :].tolist()), aded.Stats()
    with pytest.warns(DeprecationWarning, match="nodes= is called max_draft_tokens= now"):
        ours = model.generate(PROMPT, **OPTIONS, custom_generate=aded.generate, drafter=oracle, nodes=4, stats=stats)
    assert torch.equal(ours, plain)
    assert 0 < stats.accepted < stats.drafted <= 4 * stats.steps
    with pytest.warns(DeprecationWarning, match="nodes= is called max_draft_tokens= now"):
        undo = aded.accelerate(model, nodes=4)
    assert torch.equal(model.generate(PROMPT, **OPTIONS), plain)
    undo()
    with pytest.raises(aded.SettingsError, match="give max_draft_tokens only"):
        aded.accelerate(model, nodes=4, max_draft_tokens=4)


def test_the_old_option_of_the_command_line() -> None:
    command = ["trace", "replay", str(SHIPPED), "--drafters", "none", "--json"]
    shown = CliRunner().invoke(app, [*command, "--nodes", "2"])
    assert shown.exit_code == 0
    assert "--nodes is called --max-draft-tokens now" in shown.stderr
    assert shown.stdout.count('"max_draft_tokens": 2') == 1
    assert CliRunner().invoke(app, [*command, "--max-draft-tokens", "2"]).stderr.strip() == ""


def test_the_old_settings_of_vllm() -> None:
    with pytest.warns(DeprecationWarning, match="least is called min_probability now"):
        assert Settings.read({"least": 0.2}, {}).min_probability == 0.2
    with pytest.warns(DeprecationWarning, match="ADED_LEAST is called ADED_MIN_PROBABILITY now"):
        assert Settings.read({}, {"ADED_LEAST": "0.3"}).min_probability == 0.3


def test_the_old_options_of_llama_cpp() -> None:
    pytest.importorskip("llama_cpp", reason="make llamacpp builds it")
    for old in ({"max_tokens": 4}, {"least": 0.3}):
        with pytest.warns(DeprecationWarning, match=f"{next(iter(old))}= is called m"):
            aded.llamacpp.DraftModel(**old)
    with pytest.warns(DeprecationWarning, match="nodes= is called"), pytest.raises(aded.UnsupportedError):
        aded.llamacpp.accelerate(object(), nodes=4)
