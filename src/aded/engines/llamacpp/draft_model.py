"""A draft model for a stock `Llama(draft_model=...)`, which verifies drafts itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from llama_cpp.llama_speculative import LlamaDraftModel
from numpy.typing import NDArray

from aded import drafters
from aded.batch import Limits, Outcomes
from aded.budget import FixedBudget
from aded.deprecation import renamed_option
from aded.drafters.base import Drafter
from aded.speculation import Speculator
from aded.tree import DraftTree, Outcome

_MIN_PROBABILITY = 0.4  # of a chain: about where a token verified in vain costs as much as one accepted gains


class DraftModel(LlamaDraftModel):
    """Drafts the likeliest chain of a drafter, as far as it is likelier than not to pay.

    llama-cpp-python tells a draft model the tokens so far and nothing else: it learns from kept tokens only, and a
    draft is not a tree. `aded.llamacpp.accelerate` gives more.

    Args:
        drafter: a drafter or the name of one.
        max_draft_tokens: longest draft.
        min_probability: a token is drafted while the whole chain up to it has at least this probability.
        max_tokens, least: the old names of both.
    """

    def __init__(
        self,
        drafter: str | Drafter = "adaptive",
        *,
        max_draft_tokens: int = 10,
        min_probability: float = _MIN_PROBABILITY,
        max_tokens: int | None = None,
        least: float | None = None,
    ) -> None:
        most = renamed_option("max_tokens", max_tokens, "max_draft_tokens", max_draft_tokens, 10)
        likely = renamed_option("least", least, "min_probability", min_probability, _MIN_PROBABILITY)
        if most < 1 or not 0 <= likely <= 1:
            raise ValueError(
                f"max_draft_tokens must be at least 1 and min_probability from 0 to 1, not {most} and {likely}"
            )
        made = drafters.create(drafter) if isinstance(drafter, str) else drafter
        self._speculator = Speculator(made, FixedBudget(most, min_probability=likely))
        self._most = most
        self._known: NDArray[np.intc] = np.empty(0, np.intc)
        self._draft = DraftTree.empty()

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """The draft after these tokens, possibly empty."""
        known = len(self._known)
        if 0 < known < len(input_ids) and np.array_equal(input_ids[:known], self._known):
            self._speculator.observe([0], Outcomes([Outcome(input_ids[known:].tolist(), self._draft)]))
        else:
            self._speculator.start(0, input_ids.tolist())
        self._known = input_ids.copy()
        (self._draft,) = self._speculator.propose([0], Limits([self._most], nodes=self._most, trees=False))
        return self._draft.tokens.astype(np.intc)
