"""How much of the drafts is worth verifying: step costs, acceptance, the choice between them, and backing off."""

from aded.budget.acceptance import Acceptance, Evidence
from aded.budget.backoff import Backoff
from aded.budget.calibrated import CalibratedBudget
from aded.budget.cost import MAX_DRAFT_TOKENS, SIZES, CostCurve, MeasuredCost, Pass, StepCost
from aded.budget.learned_cost import LearnedCost
from aded.budget.policy import AdaptiveBudget, Budget, FixedBudget

__all__ = [
    "MAX_DRAFT_TOKENS",
    "SIZES",
    "Acceptance",
    "AdaptiveBudget",
    "Backoff",
    "Budget",
    "CalibratedBudget",
    "CostCurve",
    "Evidence",
    "FixedBudget",
    "LearnedCost",
    "MeasuredCost",
    "Pass",
    "StepCost",
]
