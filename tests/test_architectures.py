"""Token-for-token equality with `generate` over model families, on small random models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

import aded
from oracle import Oracle

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.6,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
HEAD: dict[str, Any] = {"head_dim": 8}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2: dict[str, Any] = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
ENDS: dict[str, Any] = {"initializer_range": 0.6, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
FALCON = {k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "intermediate_size")}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SMALL),
    "mistral-sliding": ("Mistral", {**SMALL, **HEAD, "sliding_window": 8}),
    "qwen2": ("Qwen2", SMALL),
    "qwen2-sliding": ("Qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SMALL, **HEAD}),
    "qwen3-moe": ("Qwen3Moe", {**SMALL, **HEAD, **EXPERTS}),
    "gemma": ("Gemma", {**SMALL, **HEAD}),
    "gemma2": ("Gemma2", {**SMALL, **HEAD, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", {**SMALL, **HEAD, "num_hidden_layers": 6, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "phi": ("Phi", SMALL),
    "phi3": ("Phi3", SMALL),
    "gpt2": ("GPT2", {**GPT2, **ENDS}),
    "gptj": ("GPTJ", {**GPT2, **ENDS, "rotary_dim": 4}),
    "gpt-neox": ("GPTNeoX", SMALL),
    "opt": ("OPT", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon": ("Falcon", FALCON),
    "falcon-alibi": ("Falcon", {**FALCON, "alibi": True}),
    "bloom": ("Bloom", {"vocab_size": 40, "hidden_size": 32, "n_layer": 2, "n_head": 4, **ENDS}),
    "mpt": (
        "Mpt",
        {"vocab_size": 40, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "use_cache": True, **ENDS},
    ),
    "stablelm": ("StableLm", SMALL),
    "starcoder2": ("Starcoder2", SMALL),
    "mixtral": ("Mixtral", {**SMALL, "num_local_experts": 4}),
    "cohere": ("Cohere", SMALL),
    "cohere2": ("Cohere2", {**SMALL, "num_hidden_layers": 4, "sliding_window": 8}),
    "olmo2": ("Olmo2", SMALL),
    "smollm3": ("SmolLM3", {**SMALL, "no_rope_layers": [1, 0]}),
    "granite": ("Granite", SMALL),
}


def build(family: str, **changes: Any) -> Any:
    prefix, options = FAMILIES[family]
    config_class = getattr(tf, "Gemma3TextConfig" if family == "gemma3" else f"{prefix}Config")
    config = config_class(**{**options, **changes})
    torch.manual_seed(0)
    return tf.AutoModelForCausalLM.from_config(config).eval()


PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])
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
    learned = generate(model, seed, custom_generate=aded.generate, drafter=aded.create_drafter("adaptive"), nodes=12)
    assert torch.equal(plain, learned)
    stats = aded.Stats()
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    told = generate(model, seed, custom_generate=aded.generate, drafter=oracle, nodes=12, stats=stats)
    assert torch.equal(plain, told)
    if family not in ("falcon-alibi", "bloom", "mpt"):  # these verify the first of equal siblings: the wrong one
        assert stats.steps < stats.tokens / 3
        return
    chain = Oracle(oracle.answer)
    chain.draft = lambda most: aded.DraftTree.chain(chain.answer[chain.position : chain.position + 4])  # type: ignore
    stats = aded.Stats()
    told = generate(model, seed, custom_generate=aded.generate, drafter=chain, nodes=12, stats=stats)
    assert torch.equal(plain, told)
    assert stats.steps < stats.tokens / 3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_eager_attention_gives_the_models_own_output(family: str) -> None:
    model = build(family)
    model.set_attn_implementation("eager")
    plain = generate(model, None)
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    assert torch.equal(plain, generate(model, None, custom_generate=aded.generate, drafter=oracle, nodes=12))


@pytest.mark.parametrize("seed", [None, 3], ids=["greedy", "sampled"])
def test_a_static_cache_gives_the_models_own_output(seed: int | None) -> None:
    model = build("llama")
    static = {"cache_implementation": "static", "disable_compile": True}
    plain = generate(model, seed, **static)
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    assert torch.equal(plain, generate(model, seed, **static, custom_generate=aded.generate, drafter=oracle, nodes=12))


UNSUPPORTED = {
    "mamba": lambda: tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, state_size=4, **ENDS)
    ),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=40, d_model=32, d_ff=32, num_layers=2, num_heads=4, d_kv=8, decoder_start_token_id=0)
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
