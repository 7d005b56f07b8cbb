"""Adapters of PEFT: switched between calls, turned off, and those that put tokens before a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import aded
from support.models import PROMPT, build
from support.oracle import ChainThenWrong, Oracle

OPTIONS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_are_served_switched_and_given_back() -> None:
    peft = pytest.importorskip("peft", reason="the extra `clients` installs it")
    adapted = peft.get_peft_model(build("llama"), peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    options: dict[str, Any] = {**OPTIONS, "input_ids": PROMPT, "max_new_tokens": 40}

    adapted.add_adapter("second", peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))

    def said(**ours: Any) -> list[Any]:
        answers = []
        for name in ("default", "second", "default"):
            adapted.set_adapter(name)
            answers.append(adapted.generate(**options, **ours))
        with adapted.disable_adapter():
            return [*answers, adapted.generate(**options, **ours)]

    plain, stats = said(), aded.Stats()
    assert len({tuple(answer[0].tolist()) for answer in plain}) == 3
    aded.accelerate(adapted, drafter=Oracle(plain[0][0, PROMPT.shape[1] :].tolist()), max_draft_tokens=8)
    assert all(torch.equal(*pair) for pair in zip(plain, said(stats=stats), strict=True))
    assert 0 < stats.accepted < stats.drafted
    aded.restore(adapted)
    with pytest.raises(ValueError, match="stats"):
        said(stats=stats)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:decoding plainly")
def test_tokens_that_adapters_put_before_a_prompt_are_counted_or_refused(kind: str) -> None:
    peft = pytest.importorskip("peft", reason="the extra `clients` installs it")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=8)
    adapted = peft.get_peft_model(build("llama"), config)
    options: dict[str, Any] = {**OPTIONS, "input_ids": PROMPT, "max_new_tokens": 40}
    plain = adapted.generate(**options)
    for drafter in (Oracle, ChainThenWrong):
        ours = {"drafter": drafter(plain[0, -40:].tolist()), "max_draft_tokens": 8, "on_unsupported": "fallback"}
        assert torch.equal(plain, adapted.generate(**options, custom_generate=aded.generate, **ours))
