"""What the processor at hand is known to do."""

from __future__ import annotations

import torch

from aded.kernels.vectors import has_bf16_dot, has_fma


def sums_as_the_library() -> bool:
    """Whether our kernels know the order in which torch sums bfloat16 here, so that the bits are `generate`'s."""
    return has_bf16_dot() or (torch.backends.cpu.get_cpu_capability() == "AVX2" and has_fma())
