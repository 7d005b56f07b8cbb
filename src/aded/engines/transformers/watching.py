"""Plain decoding in a batch, keeping the likeliest tokens at every position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from aded.engines.loaded import Watched
from aded.engines.transformers.linear import fast_linear

__all__ = ["watched"]


class _Watch(LogitsProcessor):
    """Sees each step's raw logits and keeps the k likeliest ids with their probabilities."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.ids: list[torch.Tensor] = []
        self.probs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        raw = scores.float()
        best, ids = raw.topk(min(self._k, raw.shape[-1]), dim=-1)
        self.ids.append(ids.to(torch.int32).cpu())
        self.probs.append((best - raw.logsumexp(-1, keepdim=True)).exp().cpu())
        return scores


@torch.no_grad()
def watched(
    model: Any,
    pad: int,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    top_k: int,
    temperature: float,
    seed: int,
) -> list[Watched]:
    """See `LoadedModel.watched`; prompts are padded on the left with `pad`."""
    width = max(map(len, prompts))
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    watch = _Watch(top_k)
    choice: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        choice = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    torch.manual_seed(seed)
    with fast_linear(model):
        output = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([watch]),
            **choice,
        )
    top_ids, top_probs = torch.stack(watch.ids, 1).numpy(), torch.stack(watch.probs, 1).numpy()
    answers = []
    for row, emitted in enumerate(output[:, width:].tolist()):
        length = next((i + 1 for i, token in enumerate(emitted) if token in ends), len(emitted))
        answers.append(Watched(np.asarray(emitted[:length], np.int32), top_ids[row, :length], top_probs[row, :length]))
    return answers
