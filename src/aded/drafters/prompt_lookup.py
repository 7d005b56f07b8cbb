"""Prompt lookup: copy what followed the last occurrence of the current n-gram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aded.drafters.base import TokenBuffer, register
from aded.tree import DraftTree, Outcome


@register("prompt-lookup")
class PromptLookupDrafter:
    """A chain copied from the sequence itself (Saxena, 2023), longest n-gram first, most recent match first.

    Args:
        max_ngram: longest n-gram to match.
        max_chain: most tokens copied.
    """

    top_k = 0

    def __init__(self, *, max_ngram: int = 3, max_chain: int = 10) -> None:
        self.max_ngram, self.max_chain = max_ngram, max_chain

    def sharing(self, share: str | None = None, tenant: str | None = None) -> PromptLookupDrafter:
        """It shares nothing anyway."""
        return self

    def start(self, prompt: Sequence[int]) -> _Session:
        return _Session(self, prompt)


class _Session:
    def __init__(self, drafter: PromptLookupDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._tokens = TokenBuffer(prompt)

    def draft(self, max_nodes: int) -> DraftTree:
        tokens = self._tokens.view()
        count = min(max_nodes, self._drafter.max_chain)
        for n in range(min(self._drafter.max_ngram, len(tokens) - 1), 0, -1):
            if count <= 0:
                break
            match = np.ones(len(tokens) - n, np.bool_)
            for j in range(n):
                match &= tokens[j : len(tokens) - n + j] == tokens[len(tokens) - n + j]
            found = np.flatnonzero(match)
            if len(found):
                return DraftTree.chain(tokens[found[-1] + n :][:count].tolist())
        return DraftTree.empty()

    def observe(self, outcome: Outcome) -> None:
        self._tokens.extend(outcome.emitted)
