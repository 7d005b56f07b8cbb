"""Streamers that remember."""

from __future__ import annotations

import torch
from transformers.generation.streamers import BaseStreamer


class Recorder(BaseStreamer):
    """Keeps what it was given, in order, and counts how often it was told of the end."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.seen.extend(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1
