"""Proof that an output is plain decoding's: replay it one token at a time and measure how close each choice was."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from aded.engines.base.certificate import Certificate, certificate_of
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.engine import CHUNK
from aded.engines.transformers.exactness import exactness


@torch.no_grad()
def certify(
    model: Any,
    input_ids: torch.Tensor,
    output_ids: torch.Tensor,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    row: int = 0,
    rows: int = 1,
) -> Certificate:
    """Replay an output through the plain model, one token at a time.

    A sampled token is the best of its scores plus noise that only the seed decides (torch draws it as the argmax of
    probabilities over exponential noise), so that a sample is checked as a greedy output is, noise included.

    Args:
        model: the target.
        input_ids: the prompt, shape (1, p).
        output_ids: prompt and output as `generate` returns them, shape (1, p + n).
        temperature: that of the sample; 0 for a greedy output. Other ways to change scores are not replayed.
        seed: the generator's when the call to `generate` began.
        row, rows: which row of how many the sample was drawn as.

    Raises:
        ValueError: the output does not begin with the prompt, or shapes are not (1, length).
    """
    prompt = input_ids.shape[-1]
    if output_ids.ndim != 2 or len(output_ids) != 1 or not torch.equal(output_ids[:, :prompt], input_ids):
        raise ValueError("output_ids must be (1, prompt + output) and begin with input_ids (1, prompt)")
    emitted = output_ids[0, prompt:]
    if not len(emitted):
        return Certificate(np.empty(0, np.float32), 0.0, exactness(model))
    whole = _after_prompt(model, input_ids, prompt)
    plain = _replay(model, output_ids, prompt, 1, whole)
    noise = -temperature * _noise(plain, seed, row, rows).log() if temperature > 0 else None
    # Long prompts are taken in in pieces, which moves scores as well.
    pieces = whole if prompt <= 2 * CHUNK else _after_prompt(model, input_ids, CHUNK)
    replays = (_replay(model, output_ids, prompt, shape, pieces).cpu().numpy() for shape in (2, 5, 16, 33))
    perturbation = None if noise is None else noise.cpu().numpy()
    return certificate_of(emitted.cpu().numpy(), plain.cpu().numpy(), replays, perturbation, exactness(model))


def _noise(logits: torch.Tensor, seed: int, row: int, rows: int) -> torch.Tensor:
    """Exponential noise (n, vocabulary) of a row's choices, drawn as sampling a batch of `rows` draws it."""
    with torch.random.fork_rng([logits.device] if logits.device.type == "cuda" else []):
        torch.manual_seed(seed)
        shape = (rows, logits.shape[-1])
        return torch.stack([logits.new_empty(shape).exponential_(1)[row] for _ in range(len(logits))])


def _after_prompt(model: Any, prompt: torch.Tensor, chunk: int) -> tuple[DynamicCache, torch.Tensor]:
    """The cache after a prompt fed `chunk` tokens a pass, and float32 logits (1, vocabulary) after its last token."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    for piece in prompt.split(chunk, dim=-1):
        logits = model(input_ids=piece, **with_cache(cache), **last).logits
    return cache, logits[0, -1:].float()


def _replay(
    model: Any, ids: torch.Tensor, prompt: int, chunk: int, start: tuple[DynamicCache, torch.Tensor]
) -> torch.Tensor:
    """float32 logits (n, vocabulary) of each emitted token, the output fed `chunk` tokens a pass."""
    cache, rows = deepcopy(start[0]), [start[1]]
    for piece in ids[:, prompt:-1].split(chunk, dim=-1):
        if piece.shape[1]:
            rows.append(model(input_ids=piece, **with_cache(cache)).logits[0].float())
    return torch.cat(rows)
