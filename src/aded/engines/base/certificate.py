"""What replays of an output say about every choice in it. An engine supplies the replays, the arithmetic is here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.stats import Exactness


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far each emitted token's score lies below the best.

    Attributes:
        margins: float32, (emitted tokens,): best logit minus the emitted token's, 0 where it was the best.
        noise: the rounding noise of such a difference of two logits, in the same unit: the most by which the lead of
            the best token over its nearest rival, or over the token emitted, moved between forward passes of different
            shapes.
        exact: what is promised of the bits of decoding on this model, see `Stats.exact`. Where it is "generate", all
            margins of our output are 0.
    """

    margins: NDArray[np.float32]
    noise: float
    exact: Exactness = "rounding"

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


def certificate_of(
    emitted: Sequence[int] | NDArray[Any],
    plain: NDArray[np.float32],
    replays: Iterable[NDArray[np.float32]],
    perturbation: NDArray[np.float32] | None = None,
    exact: Exactness = "rounding",
) -> Certificate:
    """Judge an output by the logits of the target.

    Args:
        emitted: its tokens, (n,).
        plain: float32, (n, vocabulary): the logits each was chosen from, fed one token at a time.
        replays: the same of forward passes of other shapes.
        perturbation: float32, (n, vocabulary): what a sample added to them; its token is the best of the sum.
        exact: what is promised on this model.
    """
    tokens = np.asarray(emitted, np.int64)[:, None]
    chosen = plain if perturbation is None else plain + perturbation
    margins = chosen.max(-1) - np.take_along_axis(chosen, tokens, 1)[:, 0]
    # The best token, its nearest rival, and the token emitted, which is one of them or another near tie.
    compared = np.concatenate([np.argpartition(-chosen, (0, 1), axis=1)[:, :2], tokens], axis=1)
    lead, noise = np.take_along_axis(plain, compared, 1), 0.0
    for scores in replays:
        moved = np.take_along_axis(scores, compared, 1) - lead
        noise = max(noise, float(np.abs(moved[:, 1:] - moved[:, :1]).max()))
    return Certificate(margins.astype(np.float32), noise, exact)
