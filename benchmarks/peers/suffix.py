"""Suffix decoding (Oliaro et al., arXiv 2411.04975), by its authors' package `arctic-inference` 0.3.0."""

from __future__ import annotations

import importlib
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from aded.drafters.base import TokenBuffer, register
from aded.errors import UnknownDrafterError
from aded.tree import DraftTree, Outcome

__all__ = ["SuffixDrafter"]


class SuffixDrafter:
    """A suffix tree over the prompt and over earlier answers.

    Args:
        tree: whether drafts are trees; chains otherwise.
        depth: depth of the suffix trees, the package's default.
        factor: drafts are at most this many times the matched length, the package's default.
        min_probability: least estimated probability of a drafted token, the package's default.
    """

    top_k = 0

    def __init__(self, *, tree: bool, depth: int = 64, factor: float = 1.0, min_probability: float = 0.1) -> None:
        try:
            package: Any = importlib.import_module("arctic_inference.suffix_decoding")
        except ModuleNotFoundError as error:
            raise UnknownDrafterError(
                "suffix decoding needs: pip install --no-deps arctic-inference==0.3.0 (it builds for some minutes)"
            ) from error
        self.cache: Any = package.SuffixDecodingCache(max_tree_depth=depth)
        self.tree, self.depth, self.factor, self.min_probability = tree, depth, factor, min_probability
        self._requests = itertools.count()

    def start(self, prompt: Sequence[int]) -> _Session:
        request = next(self._requests)
        self.cache.start_request(request, np.asarray(prompt, np.int32))
        session = _Session(self, request, prompt)
        weakref.finalize(session, self.cache.stop_request, request)  # a session has no end of its own
        return session


class _Session:
    def __init__(self, drafter: SuffixDrafter, request: int, prompt: Sequence[int]) -> None:
        self._drafter, self._request = drafter, request
        self._tokens = TokenBuffer(prompt)

    def draft(self, max_nodes: int) -> DraftTree:
        drafter = self._drafter
        if max_nodes < 1:
            return DraftTree.empty()
        found = drafter.cache.speculate(
            self._request,
            self._tokens.view(drafter.depth).copy(),
            max_spec_tokens=max_nodes,
            max_spec_factor=drafter.factor,
            min_token_prob=drafter.min_probability,
            use_tree_spec=drafter.tree,
        )
        return DraftTree.build(found.token_ids[:max_nodes], found.parents[:max_nodes])

    def observe(self, outcome: Outcome) -> None:
        emitted = np.asarray(outcome.emitted, np.int32)
        self._tokens.extend(outcome.emitted)
        self._drafter.cache.add_active_response(self._request, emitted)


@register("suffix-chain")
def _chain(**options: Any) -> SuffixDrafter:
    return SuffixDrafter(tree=False, **options)


@register("suffix-tree")
def _tree(**options: Any) -> SuffixDrafter:
    return SuffixDrafter(tree=True, **options)
