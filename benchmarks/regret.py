"""What choosing each step's draft is worth: tokens a second on a cost curve, against fixed budgets in hindsight.

`python -m benchmarks.regret TRACE --curve CURVE` replays a recorded trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from aded.budget import MAX_DRAFT_TOKENS, AdaptiveBudget, Budget, CostCurve, Evidence, FixedBudget, MeasuredCost, Pass
from aded.cli.options import Limit, plain_table, table_console
from aded.cli.progress import progress_bar
from aded.drafters import create
from aded.drafters.base import Drafter
from aded.traces.replay import decode_sequence
from aded.traces.trace import Trace
from benchmarks.command import curve_of, new_app, run

__all__ = ["FIXED", "OnCurve", "Regret", "app", "regret"]

app = new_app()

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


class OnCurve(AdaptiveBudget):
    """Steps cost what the curve says, and not what a replay takes; drafting and learning cost nothing."""

    def timed(self, step: Pass | None, drafting_s: float, learning_s: float) -> None:
        """Nothing."""


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
        lambda: OnCurve(MeasuredCost(curve), evidence=evidence if keep_state else None)
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


@app.command()
def main(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    curve: Annotated[
        list[str], typer.Option(help="A file of `aded calibrate --json`, or 1:11,2:14.8,8:36; may be repeated.")
    ],
    drafter: Annotated[str, typer.Option(help="Who drafts.")] = "adaptive",
    keep_state: Annotated[
        bool, typer.Option("--keep-state/--fresh", help="Go on learning over the trace, or begin each answer anew.")
    ] = False,
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list and nothing else.")] = False,
) -> None:
    """Compare choosing each step's draft with every fixed budget, on given step costs."""
    create(drafter)
    recorded, curves = Trace.load(trace), [curve_of(text) for text in curve]
    recorded = Trace(recorded.sequences[:limit], recorded.about)
    found = []
    with progress_bar("replay") as progress:
        for index, cost in enumerate(curves):
            found.append(
                regret(
                    recorded,
                    lambda: create(drafter),
                    cost,
                    keep_state=keep_state,
                    progress=lambda done, total, index=index: progress(  # type: ignore[misc]
                        index * total + done, len(curves) * total
                    ),
                )
            )
    if as_json:
        rows = zip(curve, found, strict=True)
        print(json.dumps([{"curve": text, **asdict(r), "best": r.best, "ratio": r.ratio} for text, r in rows]))
        return
    table = plain_table()
    for column in ("curve", "nodes used", "best fixed", "against it", "against plain"):
        table.add_column(column, justify="left" if column == "curve" else "right")
    for text, result in zip(curve, found, strict=True):
        plain = result.chosen / result.fixed[0]
        used, best = f"{result.nodes_used:.1f}", f"{result.best} nodes"
        table.add_row(text, used, best, f"[bold]{result.ratio:.3f}x[/bold]", f"{plain:.2f}x")
    table_console().print(table)


if __name__ == "__main__":
    run(app)
