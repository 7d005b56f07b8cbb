"""Programs that constrain what a model may say: the same text as without us, of one prompt and of several."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import aded
from support.counted import Counted

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PROMPTS = ["Describe a person living in Paris as JSON.", "Describe your cat as JSON."]


def asked(tokenizer: Any, count: int) -> dict[str, torch.Tensor]:
    messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:count]]
    options = {"return_tensors": "pt", "return_dict": True, "padding": True, "padding_side": "left"}
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)


def is_valid(text: str) -> bool:
    said = json.loads(text)
    return set(said) == set(SCHEMA["required"]) and len(said["tags"]) >= 2


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_xgrammar(embedded, count: int, sampled: bool) -> None:
    xgrammar = pytest.importorskip("xgrammar", reason="the extra `clients` installs it")
    model, tokenizer = embedded
    vocabulary = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    grammar = xgrammar.GrammarCompiler(vocabulary).compile_json_schema(json.dumps(SCHEMA), any_whitespace=False)
    inputs, stats = asked(tokenizer, count), aded.Stats()

    def said(**ours: Any) -> torch.Tensor:
        torch.manual_seed(4)
        processors = [xgrammar.contrib.hf.LogitsProcessor(grammar)]  # one for each call, as it asks for
        return model.generate(**inputs, max_new_tokens=100, do_sample=sampled, logits_processor=processors, **ours)

    plain = said()
    ours = said(custom_generate=aded.generate, max_draft_tokens=12, stats=stats)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted
    answers = tokenizer.batch_decode(ours[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert all(map(is_valid, answers))


@pytest.mark.parametrize("backend", ["outlines_core", "xgrammar", "llguidance"])
def test_outlines(embedded, counted: Counted, backend: str) -> None:
    outlines = pytest.importorskip("outlines", reason="the extra `clients` installs it")
    pytest.importorskip(backend)
    model, tokenizer = embedded
    schema = outlines.json_schema(SCHEMA)
    prompts = [tokenizer.decode(ids) for ids in asked(tokenizer, 1)["input_ids"]] + ["The cat as JSON: "]

    def said() -> list[str]:
        generator = outlines.Generator(outlines.from_transformers(model, tokenizer), schema, backend=backend)
        options = {"max_new_tokens": 100, "do_sample": False}
        return [generator(prompts[0], **options), *generator.batch(prompts, **options)]

    plain = said()
    aded.accelerate(model, drafter=counted, max_draft_tokens=12)
    assert said() == plain
    assert all(map(is_valid, plain))
    assert 0 < counted.accepted < counted.drafted
