"""What a user may say to every engine: who drafts, and how much is verified at most."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

from aded import drafters
from aded.budget import AdaptiveBudget, Budget, CostCurve, Evidence, FixedBudget, MeasuredCost
from aded.drafters.base import Drafter

MaxDraftTokens = int | Literal["auto"]

_DRAFTERS: weakref.WeakKeyDictionary[Any, dict[str, Drafter]] = weakref.WeakKeyDictionary()
_EVIDENCE: weakref.WeakKeyDictionary[Any, Evidence] = weakref.WeakKeyDictionary()


def kept_drafter(model: Any, drafter: str | Drafter) -> Drafter:
    """A drafter given by name is made once for each model, so that it keeps what it learns between calls."""
    if not isinstance(drafter, str):
        return drafter
    made = _DRAFTERS.setdefault(model, {})
    if drafter not in made:
        made[drafter] = drafters.create(drafter)
    return made[drafter]


def budget_for(
    max_draft_tokens: MaxDraftTokens,
    drafter: Drafter,
    *,
    curve: Callable[[], CostCurve],
    length: Callable[[], int],
    slots: int = 1,
) -> Budget:
    """The budget of one call.

    Args:
        max_draft_tokens: most draft tokens a step, or "auto": as many as pay.
        drafter: how far its probabilities were right is remembered from call to call.
        curve: step costs of this machine; asked for at once, and only where drafts are to be weighed.
        length: tells the length of the sequences, in tokens.
        slots: sequences of the call.

    Raises:
        ValueError: `max_draft_tokens` is neither "auto" nor a whole number from 0 on.
    """
    if max_draft_tokens == "auto":
        if not getattr(drafter, "drafts", True):
            return FixedBudget(0)  # nothing need be measured
        try:
            # That of a prediction is of one call: what is known of the drafter within it stays with that.
            evidence = _EVIDENCE.setdefault(getattr(drafter, "within", drafter), Evidence())
        except TypeError:  # a drafter that cannot be hashed or referred to weakly begins anew
            evidence = Evidence()
        return AdaptiveBudget(MeasuredCost(curve(), length), slots=slots, evidence=evidence)
    if isinstance(max_draft_tokens, bool) or not isinstance(max_draft_tokens, int) or max_draft_tokens < 0:
        raise ValueError(f'max_draft_tokens must be "auto" or a whole number from 0 on, not {max_draft_tokens!r}')
    return FixedBudget(max_draft_tokens)
