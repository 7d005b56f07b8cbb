"""The drafting code of ADED's authors: their package `draftretriever` (registry name and version 0.1.1)."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aded.drafters.base import TokenBuffer, register
from aded.errors import UnknownDrafterError
from aded.tree import DraftTree, Outcome
from benchmarks.peers.paths import tree_of_paths

__all__ = ["AuthorsDrafter"]


@register("draftretriever")
class AuthorsDrafter:
    """Their retriever as their decoder calls it: with the last 16 tokens, which it also learns from.

    Args:
        window: tokens handed over at each step.
    """

    top_k = 0

    def __init__(self, *, window: int = 16) -> None:
        try:
            self._package: Any = importlib.import_module("draftretriever")
        except ModuleNotFoundError as error:
            raise UnknownDrafterError("the drafter draftretriever needs: pip install draftretriever==0.1.1") from error
        self.window = window
        self.reader: Any = None
        self.build([[0, 0, 0]])

    def build(self, texts: Sequence[Sequence[int]]) -> None:
        """Make the corpus index from token sequences; what was learned since the last one is lost."""
        self.reader = None  # a reader removes its index when it goes, so it must go before the folder does
        self._folder = tempfile.TemporaryDirectory()
        index = str(Path(self._folder.name) / "index")
        writer = self._package.Writer(index, vocab_size=1 << 16)
        for text in texts:
            writer.add_entry(list(text))
        writer.finalize()
        self.reader = self._package.Reader(index)

    def start(self, prompt: Sequence[int]) -> _Session:
        return _Session(self, prompt)


class _Session:
    def __init__(self, drafter: AuthorsDrafter, prompt: Sequence[int]) -> None:
        self._drafter = drafter
        self._tokens = TokenBuffer(prompt)

    def draft(self, max_nodes: int) -> DraftTree:
        if max_nodes < 1 or len(self._tokens) < 2:  # it aborts the process without a pair to look up
            return DraftTree.empty()
        choices = max(max_nodes, 2)  # it aborts the process if asked for one
        found = self._drafter.reader.search(self._tokens.view(self._drafter.window).tolist(), choices=choices)
        paths = [[token for token in path if token >= 0] for path in found[0]]
        return tree_of_paths(sorted(paths), max_nodes)  # they come in the order of a hash set

    def observe(self, outcome: Outcome) -> None:
        self._tokens.extend(outcome.emitted)
