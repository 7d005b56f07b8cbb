"""The main path on the embedded model."""

from __future__ import annotations

import json

import pytest
import torch

import aded
from support import paths

PROMPTS = [
    "Write a Python function that merges two sorted lists.",
    "Repeat this list three times: apple, banana, cherry, date.",
]


def encode(tokenizer, text: str) -> dict[str, torch.Tensor]:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


@pytest.mark.parametrize("drafter", ["adaptive", "paper", "prompt-lookup", "token-recycling", "none"])
def test_every_drafter_gives_the_models_own_greedy_output(embedded, asked, drafter: str) -> None:
    model, _ = embedded
    inputs, plain = asked("Write a poem in which every line begins with: The river", 24)
    stats = aded.Stats()
    options = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": 7, "stats": stats}
    ours = model.generate(**inputs, max_new_tokens=24, do_sample=False, **options)
    assert torch.equal(plain, ours)
    if drafter == "none":
        assert stats.drafted == 0
    else:
        assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_output_is_the_same_and_takes_fewer_steps(embedded, asked, prompt: str) -> None:
    model, _ = embedded
    inputs, plain = asked(prompt, 40)
    stats = aded.Stats()
    ours = model.generate(
        **inputs, max_new_tokens=40, do_sample=False, custom_generate=aded.generate, max_draft_tokens=24, stats=stats
    )
    assert torch.equal(plain, ours)
    assert stats.tokens == ours.shape[1] - inputs["input_ids"].shape[1]
    assert stats.steps < stats.tokens
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seeded_sample_is_the_same(embedded, seed: int) -> None:
    model, tokenizer = embedded
    inputs = encode(tokenizer, PROMPTS[1])
    options = {"max_new_tokens": 24, "do_sample": True, "temperature": 0.8, "top_p": 0.9}
    torch.manual_seed(seed)
    plain = model.generate(**inputs, **options)
    torch.manual_seed(seed)
    stats = aded.Stats()
    ours = model.generate(**inputs, **options, custom_generate=aded.generate, max_draft_tokens=8, stats=stats)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


def test_benchmark_prompts_give_the_models_own_output(embedded) -> None:
    """By induction: each token is the best after those before it. One plain pass over them all says so."""
    model, tokenizer = embedded
    lines = paths.PROMPTS.read_text().splitlines()
    # code, sums, another language
    questions = [json.loads(lines[number]) for number in (0, 9, 10)]
    stats = aded.Stats()
    common = {
        "custom_generate": aded.generate,
        "drafter": aded.create_drafter("adaptive"),
        "max_draft_tokens": 7,
        "stats": stats,
    }
    for question in questions:
        inputs = encode(tokenizer, question["turns"][0][:2000])
        ours = model.generate(**inputs, max_new_tokens=48, do_sample=False, **common)
        prompt = inputs["input_ids"].shape[1]
        with torch.no_grad():
            scores = model(ours[:, :-1], logits_to_keep=ours.shape[1] - prompt).logits
        assert torch.equal(scores.argmax(-1), ours[:, prompt:]), question["question_id"]
        whole = ours.shape[1] == prompt + 48
        assert whole or ours[0, -1] == model.generation_config.eos_token_id, question["question_id"]
    assert 0 < stats.accepted < stats.drafted
