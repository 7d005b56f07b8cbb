"""What a replay of an output says about every choice in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Certificate"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far each emitted token's score lies below the best.

    Attributes:
        margins: float32, (emitted tokens,): best logit minus the emitted token's, 0 where it was the best.
        noise: the rounding noise of such a difference of two logits, in the same unit: the most by which the lead of
            the best token over its nearest rival, or over the token emitted, moved between forward passes of different
            shapes.
    """

    margins: NDArray[np.float32]
    noise: float

    @property
    def lossless(self) -> bool:
        """Whether no emitted token lies further below the best than rounding alone explains."""
        return bool((self.margins <= self.noise).all())

    @property
    def ties(self) -> int:
        """Positions where another token scored higher, but within the noise."""
        return int(((self.margins > 0) & (self.margins <= self.noise)).sum())

    @property
    def first_difference(self) -> int | None:
        """First position whose token lies below the best by more than the noise."""
        found = np.flatnonzero(self.margins > self.noise)
        return int(found[0]) if len(found) else None
