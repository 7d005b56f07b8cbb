"""What the page draws: of a model, and of a step its tokens and the tree that was verified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import aded
from aded.budget import CostCurve
from aded.engines.base.completion import Steps
from aded.engines.base.loaded import LoadedModel
from aded.stats import Stats
from aded.tree import DraftTree, Outcome


def facts_of(loaded: LoadedModel, drafter: str, drafters: Sequence[str], cost: CostCurve | None) -> dict[str, Any]:
    """What the page shows of a model.

    Args:
        drafter, drafters: the name of who drafts, and of those who could.
        cost: of a step; None where it was not measured.
    """
    facts: dict[str, Any] = {"version": aded.__version__, "model": loaded.name, "facts": loaded.facts()}
    facts |= {"drafter": drafter, "drafters": list(drafters)}
    return facts if cost is None else facts | {"step_cost": {"tokens": cost.sizes, "seconds": cost.seconds}}


def traced(loaded: LoadedModel, tokens: Sequence[int], outcome: Outcome | None, stats: Stats) -> dict[str, Any]:
    """A step for the page.

    Args:
        tokens: those it emitted that are part of the answer.
        outcome: None where the engine decodes without us.
        stats: the answer's so far.
    """
    tree, path = (DraftTree.empty(), []) if outcome is None else (outcome.tree, list(outcome.path))
    shown: list[dict[str, Any]] = []
    for i, token in enumerate(tokens):
        drafted = i < len(path)
        row = 0 if i == 0 else path[i - 1] + 1 if i <= len(path) else None
        shown.append(
            {
                "text": loaded.shown(token),
                "drafted": drafted,
                "depth": i + 1 if drafted else 0,
                "drafter_probability": _edge(tree, path[i]) if drafted else None,
                "probability": _probability(outcome, row, token),
            }
        )
    nodes = [
        {"text": loaded.shown(int(token)), "parent": int(parent), "probability": math.exp(float(log_prob))}
        for token, parent, log_prob in zip(tree.tokens, tree.parents, tree.log_probs, strict=True)
    ]
    seconds = {"draft": stats.draft_s, "verify": stats.verify_s, "learn": stats.learn_s}
    return {"tokens": shown, "nodes": nodes, "path": path, "seconds": seconds}


class StepRecorder:
    """Keeps the steps of one answer.

    Args:
        most: tokens of the answer at most; a step can emit more.

    Attributes:
        counts: what an engine is to tell of steps.
        steps: as the page draws them.
    """

    def __init__(self, loaded: LoadedModel, most: int) -> None:
        self._loaded, self._left = loaded, most
        self.counts = Steps(self._took)
        self.steps: list[dict[str, Any]] = []

    def _took(self, emitted: Sequence[int], outcome: Outcome | None) -> None:
        tokens = list(emitted)[: self._left]
        self._left -= len(tokens)
        if tokens:
            self.steps.append(traced(self._loaded, tokens, outcome, self.counts))


def _edge(tree: DraftTree, node: int) -> float:
    """What the drafter gave a token after the ones before it."""
    parent = int(tree.parents[node])
    before = float(tree.log_probs[parent]) if parent >= 0 else 0.0
    return math.exp(min(float(tree.log_probs[node]) - before, 0.0))


def _probability(outcome: Outcome | None, row: int | None, token: int) -> float | None:
    """The model's, where the step brought it."""
    if outcome is None or outcome.top_ids is None or outcome.top_probs is None or row is None:
        return None
    for known, probability in zip(outcome.top_ids[row].tolist(), outcome.top_probs[row].tolist(), strict=True):
        if known == token:
            return float(probability)
    return None
