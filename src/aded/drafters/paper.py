"""The method exactly as the paper states it: tri-grams, kept-token learning, Monte-Carlo tree search."""

from __future__ import annotations

from collections.abc import Sequence

from aded.drafters.base import TokenBuffer, register
from aded.representative import Interpolation, InterpolationWeights, Representative
from aded.search import mcts
from aded.tree import DraftTree, Outcome


@register("paper")
class PaperDrafter:
    """ADED as published (arXiv 2407.12021), with its constants.

    Each tri-gram among the last 16 tokens gains 0.04 a step, at most up to 3.0; a pair of tokens keeps its 12 likeliest
    successors; a pair never seen drafts nothing. The table is ours: fixed memory instead of unbounded.
    """

    top_k = 0

    def __init__(
        self,
        *,
        memory_mb: float = 64.0,
        gain: float = 0.04,
        cap: float = 3.0,
        window: int = 16,
        c1: float = 32.0,
        c2: float = 8.0,
        iterations: int = 150,
        depth: int = 4,
    ) -> None:
        self.representative = Representative(memory_mb=memory_mb, orders=(2,), successors=12)
        self._interpolation = Interpolation((self.representative,), InterpolationWeights((2,), 1, (0.0,)))
        self.gain, self.cap, self.window = gain, cap, window
        self._options = {"c1": c1, "c2": c2, "iterations": iterations, "depth": depth}

    @property
    def nbytes(self) -> int:
        """Bytes of learned state."""
        return self.representative.nbytes

    def start(self, prompt: Sequence[int]) -> _Session:
        return _Session(self, prompt)


class _Session:
    def __init__(self, drafter: PaperDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._tokens = TokenBuffer(prompt)
        drafter.representative.holds_prompts = True
        self._strengthen()

    def _strengthen(self) -> None:
        drafter = self._drafter
        window = self._tokens.view(drafter.window)
        drafter.representative.strengthen(window, start=2, gain=drafter.gain, cap=drafter.cap)

    def draft(self, max_nodes: int) -> DraftTree:
        return mcts(self._drafter._interpolation, self._tokens.view(2), max_nodes, **self._drafter._options)  # type: ignore[arg-type]

    def observe(self, outcome: Outcome) -> None:
        self._tokens.extend(outcome.emitted)
        self._strengthen()
