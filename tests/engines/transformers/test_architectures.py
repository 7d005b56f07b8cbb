"""Token-for-token equality with `generate` over model families, on small random models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

import aded
from support.models import CHAINS_ONLY, ENDS, FAMILIES, PROMPT, build
from support.oracle import Chain, Oracle

OPTIONS: dict[str, Any] = {"max_new_tokens": 36, "pad_token_id": 0}


def generate(model: Any, seed: int | None, **ours: Any) -> torch.Tensor:
    sampling = {"do_sample": False} if seed is None else {"do_sample": True, "temperature": 1.3, "top_k": 20}
    torch.manual_seed(seed or 0)
    return model.generate(PROMPT, **OPTIONS, **sampling, **ours)


@pytest.mark.parametrize("seed", [None, 7], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_output_is_the_models_own(family: str, seed: int | None) -> None:
    model = build(family)
    plain = generate(model, seed)
    learned = generate(
        model, seed, custom_generate=aded.generate, drafter=aded.create_drafter("adaptive"), max_draft_tokens=12
    )
    assert torch.equal(plain, learned)
    stats = aded.Stats()
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    told = generate(model, seed, custom_generate=aded.generate, drafter=oracle, max_draft_tokens=12, stats=stats)
    assert torch.equal(plain, told)
    assert stats.drafted > stats.accepted
    if family not in CHAINS_ONLY:  # these verify the first of equal siblings: the wrong one
        assert stats.steps < stats.tokens / 3
        return
    stats, chain = aded.Stats(), Chain(oracle.answer)
    told = generate(model, seed, custom_generate=aded.generate, drafter=chain, max_draft_tokens=12, stats=stats)
    assert torch.equal(plain, told)
    assert stats.steps < stats.tokens / 3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_eager_attention_gives_the_models_own_output(family: str) -> None:
    model = build(family)
    model.set_attn_implementation("eager")
    plain = generate(model, None)
    stats, oracle = aded.Stats(), Oracle(plain[0, PROMPT.shape[1] :].tolist())
    ours = generate(model, None, custom_generate=aded.generate, drafter=oracle, max_draft_tokens=12, stats=stats)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("seed", [None, 3], ids=["greedy", "sampled"])
def test_a_static_cache_gives_the_models_own_output(seed: int | None) -> None:
    model = build("llama")
    static = {"cache_implementation": "static", "disable_compile": True}
    plain = generate(model, seed, **static)
    stats, oracle = aded.Stats(), Oracle(plain[0, PROMPT.shape[1] :].tolist())
    ours = generate(
        model, seed, **static, custom_generate=aded.generate, drafter=oracle, max_draft_tokens=12, stats=stats
    )
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


UNSUPPORTED = {
    "recurrent-gemma": lambda: tf.RecurrentGemmaForCausalLM(
        tf.RecurrentGemmaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            lru_width=32,
            attention_window_size=16,
            **ENDS,
        )
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_a_tree_cannot_verify_is_refused_or_decoded_plainly(name: str) -> None:
    model = UNSUPPORTED[name]().eval()
    plain = model.generate(PROMPT, **OPTIONS, do_sample=False)
    with pytest.raises(aded.UnsupportedError, match="fallback"):
        model.generate(PROMPT, **OPTIONS, do_sample=False, custom_generate=aded.generate)
    with pytest.warns(UserWarning, match="decoding plainly"):
        ours = model.generate(
            PROMPT, **OPTIONS, do_sample=False, custom_generate=aded.generate, on_unsupported="fallback"
        )
    assert torch.equal(plain, ours)


def test_beams_are_refused_or_decoded_plainly() -> None:
    model, options = build("llama"), {"num_beams": 2}
    torch.manual_seed(0)
    plain = model.generate(PROMPT, **OPTIONS, **options)
    with pytest.raises(aded.UnsupportedError):
        model.generate(PROMPT, **OPTIONS, **options, custom_generate=aded.generate)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="decoding plainly"):
        ours = model.generate(PROMPT, **OPTIONS, **options, custom_generate=aded.generate, on_unsupported="fallback")
    assert torch.equal(plain, ours)
