"""No drafting: every step is a plain decoding step."""

from __future__ import annotations

from collections.abc import Sequence

from aded.drafters.base import register
from aded.tree import DraftTree, Outcome


@register("none")
class NoDrafter:
    """Drafts nothing and learns nothing; the loop then decodes as the engine alone would."""

    top_k = 0
    drafts = False

    def sharing(self, share: str | None = None, tenant: str | None = None) -> NoDrafter:
        """It shares nothing anyway."""
        return self

    def start(self, prompt: Sequence[int]) -> NoDrafter:
        return self

    def draft(self, max_nodes: int) -> DraftTree:
        return DraftTree.empty()

    def observe(self, outcome: Outcome) -> None:
        return None
