"""Chains for a stock `llama_cpp.Llama(draft_model=...)`, which verifies them itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from llama_cpp.llama_speculative import LlamaDraftModel
from numpy.typing import NDArray

from aded import drafters
from aded.drafters.base import Drafter, Observation, Session
from aded.tree import DraftTree

__all__ = ["DraftModel"]


class DraftModel(LlamaDraftModel):
    """Drafts the likeliest chain of a drafter, as far as it is likelier than not to pay.

    llama-cpp-python tells a draft model the tokens so far and nothing else: it learns from kept tokens only, and a
    draft is not a tree. `aded.llamacpp.accelerate` gives more.

    Args:
        drafter: a drafter or the name of one.
        max_tokens: longest draft.
        least: a token is drafted while the whole chain up to it has at least this probability.
    """

    def __init__(self, drafter: str | Drafter = "adaptive", *, max_tokens: int = 10, least: float = 0.4) -> None:
        if max_tokens < 1 or not 0 <= least <= 1:
            raise ValueError(f"max_tokens must be at least 1 and least from 0 to 1, not {max_tokens} and {least}")
        self._drafter = drafters.create(drafter) if isinstance(drafter, str) else drafter
        self._max_tokens, self._least = max_tokens, least
        self._known = np.empty(0, np.intc)
        self._session: Session | None = None
        self._draft = DraftTree.empty()

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """The draft after these tokens, possibly empty."""
        known = len(self._known)
        goes_on = known < len(input_ids) and np.array_equal(input_ids[:known], self._known)
        if self._session is None or not goes_on:
            self._session = self._drafter.start(input_ids.tolist())
        else:
            self._session.observe(Observation(input_ids[known:].tolist(), self._draft))
        self._known = input_ids.copy()
        chain = self._session.draft(self._max_tokens).best_chain()
        likely = int((np.exp(chain.log_probs) >= self._least).sum())
        self._draft = chain.limit(depth=likely)
        return self._draft.tokens.astype(np.intc)
