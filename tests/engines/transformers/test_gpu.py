"""On a CUDA device; left out without one. `benchmarks/gpu/transformers.sh` runs these where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import aded
from support.models import build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

PROMPT = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8]


def answers(model: Any, **options: Any) -> tuple[list[int], list[int], aded.Stats]:
    ids, stats = torch.tensor([PROMPT], device="cuda"), aded.Stats()
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 48, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, **given)
    ours = model.generate(ids, **given, custom_generate=aded.generate, stats=stats, **options)
    return plain[0].tolist(), ours[0].tolist(), stats


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("most", ["auto", 4, 32])
def test_float32_greedy_answers_are_generates(most: Any, compiled: bool) -> None:
    model = build("llama").to("cuda")
    for _ in range(2):  # the second time drafts are known
        plain, ours, stats = answers(model, max_draft_tokens=most, compile=compiled)
        assert ours == plain
    if most != "auto":
        assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_have_a_certificate(dtype: torch.dtype) -> None:
    model = build("llama").to("cuda", dtype)
    plain, ours, stats = answers(model, max_draft_tokens=8)
    assert stats.exact == "rounding"
    assert stats.accepted > 0
    prompt, said = torch.tensor([PROMPT], device="cuda"), torch.tensor([ours[len(PROMPT) :]], device="cuda")
    assert aded.certify(model, prompt, said).lossless or ours == plain


def test_seeded_samples_are_generates() -> None:
    model = build("llama").to("cuda")
    ids = torch.tensor([PROMPT], device="cuda")
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 32, "do_sample": True, "pad_token_id": 0}
    said = []
    for ours in ({}, {"custom_generate": aded.generate, "max_draft_tokens": 6}):
        torch.manual_seed(7)
        said.append(model.generate(ids, **given, **ours)[0].tolist())
    assert said[0] == said[1]
