"""A trial of drafts on a device, of some milliseconds after what is compiled: they must be the host's."""

from __future__ import annotations

import numpy as np
import torch

from aded.batch import ChainOutcomes, Chains, Limits
from aded.drafters.adaptive import AdaptiveDrafter
from aded.engines.base.asked import Asked
from aded.engines.device.drafter import DeviceDrafter

_STEPS, _PROMPT, _LONGEST, _VOCABULARY = 12, 30, 3, 50
_LEAST = 0.05  # of a path's probability


def why_not(device: torch.device) -> str:
    """Why drafts on this device are not to be trusted; "" where one text is learned and drafted as on the host."""
    try:
        return _differs(device)
    except Exception as error:  # whatever a compiler or driver raises: the host can still draft
        return f"{type(error).__name__}: {error}"


def _differs(device: torch.device) -> str:
    # No token is drafted that is as likely as another: of such, either may be taken.
    random = np.random.default_rng(7)
    again = random.integers(0, _VOCABULARY, 9)
    text = np.concatenate([np.where(random.random(9) < 0.1, 3, again) for _ in range(12)]).astype(np.int32)
    made = [AdaptiveDrafter(memory_mb=0.2, successors=8, sequence_mb=0.1, sequence_successors=4) for _ in range(2)]
    host = made[0].open(1)
    there = DeviceDrafter(
        made[1], requests=1, max_length=1000, vocabulary=_VOCABULARY, longest=_LONGEST, most=_LONGEST,
        min_probability=_LEAST, device=device,
    )  # fmt: skip
    tokens, row = torch.from_numpy(text[None]).to(device), torch.zeros(1, dtype=torch.int32, device=device)
    host.start(0, text[:_PROMPT].tolist())
    there.start(0, tokens, _PROMPT, Asked())
    drafted, one = 0, np.zeros(1, np.int64)
    for end in range(_PROMPT + 1, _PROMPT + 1 + _STEPS):
        host.observe(one, ChainOutcomes(text[None, :end], one + 1, np.zeros((1, _LONGEST), np.float32)))()
        expected = host.draft(one, _LONGEST, Limits([_LONGEST], trees=False), _LEAST)
        ids, _ = there.step(row, row + 1, row, row + end, tokens)
        assert isinstance(expected, Chains)
        n = int(expected.lengths[0])
        drafted += n
        wanted = expected.ids[0, :n].tolist() + [int(text[end - 1])] * (_LONGEST - n)
        if ids[0].tolist() != wanted:
            return f"it drafts {ids[0].tolist()} where the host drafts {wanted}"
    return "" if drafted > _STEPS else "too little was drafted to compare"
