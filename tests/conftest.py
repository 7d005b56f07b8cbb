from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import settings

from aded.budget import CostCurve

settings.register_profile("suite", deadline=None, max_examples=60)
settings.load_profile("suite")

# Seconds in which tests measure what steps cost, where users' runs take three: no test asserts times.
CostCurve.measure.__func__.__kwdefaults__["limit_s"] = 0.3  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def embedded():
    """The embedded model and its tokenizer, in float32."""
    from aded.engines.transformers.loading import load

    loaded = load(None, dtype="float32")
    return loaded.model, loaded.tokenizer


@pytest.fixture(scope="session")
def asked(embedded) -> Callable[[str, int], tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Of a question and a number of tokens: the embedded model's inputs, and its own greedy answer, decoded once."""
    model, tokenizer = embedded

    @cache
    def ask(text: str, count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        messages = [{"role": "user", "content": text}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return inputs, model.generate(**inputs, max_new_tokens=count, do_sample=False)

    return ask
