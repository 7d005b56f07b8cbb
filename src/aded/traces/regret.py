"""What choosing each step's draft is worth: tokens a second on a cost curve, against fixed budgets in hindsight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aded.budget import MAX_DRAFT_TOKENS, AdaptiveBudget, Budget, CostCurve, Evidence, FixedBudget, MeasuredCost
from aded.drafters.base import Drafter
from aded.traces.replay import decode_sequence
from aded.traces.trace import Trace

__all__ = ["FIXED", "Regret", "regret"]

FIXED = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_DRAFT_TOKENS)


@dataclass(frozen=True)
class Regret:
    """Decoding rates on one cost curve, in tokens a second of it.

    Attributes:
        chosen: with the measured budget.
        fixed: with each fixed budget of nodes; 0 is plain decoding.
        nodes_used: mean nodes the measured budget verified.
    """

    chosen: float
    fixed: dict[int, float]
    nodes_used: float

    @property
    def best(self) -> int:
        """The fixed budget that was best in hindsight."""
        return max(self.fixed, key=self.fixed.__getitem__)

    @property
    def ratio(self) -> float:
        """The measured budget's rate over the best fixed one's; below 1 is regret."""
        return self.chosen / self.fixed[self.best]


def regret(
    trace: Trace,
    make: Callable[[], Drafter],
    curve: CostCurve,
    *,
    fixed: Sequence[int] = FIXED,
    keep_state: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Regret:
    """Replay a trace with the measured budget and with fixed ones, every verification step charged to `curve`.

    Prompts cost the same with any budget and are left out. `progress` is told replays done and replays in all.
    """
    evidence = Evidence()
    budgets: list[Callable[[], Budget]] = [
        lambda: AdaptiveBudget(MeasuredCost(curve), evidence=evidence if keep_state else None)
    ]
    budgets += [lambda nodes=nodes: FixedBudget(nodes) for nodes in fixed]  # type: ignore[misc]
    rates, nodes_used = [], 0.0
    for done, budget in enumerate(budgets, 1):
        tokens, steps, nodes, seconds = 0, 0, 0, 0.0
        drafter = make()
        for sequence in trace.sequences:
            drafter = drafter if keep_state else make()
            stats, outcomes = decode_sequence(sequence, drafter, budget())
            tokens += stats.tokens - 1  # the first is the prompt's
            steps += stats.steps - 1
            nodes += stats.drafted
            seconds += sum(curve(len(outcome.tree) + 1) for outcome in outcomes)
        rates.append(tokens / seconds if seconds else 0.0)
        if done == 1:
            nodes_used = nodes / max(steps, 1)
        progress(done, len(budgets))
    return Regret(rates[0], dict(zip(fixed, rates[1:], strict=True)), nodes_used)
