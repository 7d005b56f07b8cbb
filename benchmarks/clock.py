"""The time on a device that runs beside its host."""

from __future__ import annotations

import time

import torch

__all__ = ["synchronized"]


def synchronized(device: torch.device) -> float:
    """The time once the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
