"""Whether a drafter's path probabilities are true: predicted against measured acceptance of draft nodes.

`python -m benchmarks.calibration TRACE` prints a table, `--plot FILE` draws it with matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer
from numpy.typing import NDArray

matplotlib.use("agg")

import matplotlib.pyplot as plt

from aded.budget import FixedBudget
from aded.cli.options import plain_table, table_console
from aded.drafters import create
from aded.drafters.base import Drafter
from aded.errors import AdedError
from aded.traces.replay import decode_sequence
from aded.traces.trace import Trace
from aded.tree import Outcome
from benchmarks.command import new_app, run

__all__ = ["Calibration", "app", "calibrate", "draw"]

app = new_app()


@dataclass(frozen=True, eq=False)
class Calibration:
    """Draft nodes in bins of predicted path probability.

    Attributes:
        predicted: float64, (bins,): mean predicted probability of the nodes in a bin; nan in an empty one.
        measured: float64, (bins,): share of them that were accepted.
        nodes: int64, (bins,): how many there were.
        error: expected calibration error: mean distance of predicted and measured, weighted by nodes.
        total: accepted nodes over their predicted number.
    """

    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    nodes: NDArray[np.int64]

    @property
    def error(self) -> float:
        filled = self.nodes > 0
        gap = np.abs(self.predicted[filled] - self.measured[filled])
        return float((gap * self.nodes[filled]).sum() / max(self.nodes.sum(), 1))

    @property
    def total(self) -> float:
        filled = self.nodes > 0
        accepted = (self.measured[filled] * self.nodes[filled]).sum()
        return float(accepted / (self.predicted[filled] * self.nodes[filled]).sum())


def calibrate(
    trace: Trace, make: Callable[[], Drafter], max_draft_tokens: int, *, keep_state: bool = False, bins: int = 20
) -> Calibration:
    """Replay a trace and compare, over all draft nodes, predicted path probability with acceptance."""
    drafter, outcomes = make(), list[Outcome]()
    for sequence in trace.sequences:
        drafter = drafter if keep_state else make()
        outcomes += decode_sequence(sequence, drafter, FixedBudget(max_draft_tokens))[1]
    probs = np.exp(np.concatenate([outcome.tree.log_probs for outcome in outcomes])).astype(np.float64)
    accepted = np.concatenate([outcome.accepted_nodes() for outcome in outcomes])
    place = np.minimum((probs * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probs, bins) / count
        measured = np.bincount(place, accepted, bins) / count
    return Calibration(predicted, measured, count)


_GREY = "#808890"  # reads on white and on black


def draw(calibration: Calibration, path: Path) -> None:
    """Accepted against predicted, each bin a point whose area grows with its nodes; no background of its own.

    Raises:
        AdedError: the file cannot be written.
    """
    filled = calibration.nodes > 0
    share = calibration.nodes[filled] / calibration.nodes.sum()
    figure, axes = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    axes.plot([0, 1], [0, 1], linestyle="--", color=_GREY, linewidth=1, label="perfect")
    points = calibration.predicted[filled], calibration.measured[filled]
    axes.plot(*points, color="#2683C6", linewidth=1)
    axes.scatter(*points, s=12 + 600 * share, color="#2683C6", label="bins of nodes, by area")
    axes.set(xlabel="predicted path probability", ylabel="share accepted", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.tick_params(colors=_GREY)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_GREY)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    axes.legend(frameon=False, labelcolor=_GREY, loc="upper left")
    try:
        figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise AdedError(f"cannot write the plot {path}: {error}; choose a name ending in .svg, .png or .pdf") from error
    finally:
        plt.close(figure)


@app.command()
def main(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    drafter: Annotated[str, typer.Option(help="Whose path probabilities to check.")] = "adaptive",
    max_draft_tokens: Annotated[int, typer.Option(min=1, help="Most nodes of a draft.")] = 64,
    keep_state: Annotated[
        bool, typer.Option("--keep-state/--fresh", help="Go on learning over the trace, or begin each answer anew.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a plot here (.svg, .png or .pdf).")] = None,
) -> None:
    """Compare a drafter's path probabilities with how often its nodes are accepted."""
    create(drafter)
    found = calibrate(Trace.load(trace), lambda: create(drafter), max_draft_tokens, keep_state=keep_state)
    table = plain_table()
    for column in ("predicted", "accepted", "nodes"):
        table.add_column(column, justify="right")
    for predicted, measured, count in zip(found.predicted, found.measured, found.nodes, strict=True):
        if count:
            table.add_row(f"{predicted:.3f}", f"{measured:.3f}", str(count))
    summary = f"{drafter}, {max_draft_tokens} nodes: error {found.error:.4f}, accepted / predicted {found.total:.3f}\n"
    table_console().print(summary, table, sep="\n")
    if plot is not None:
        draw(found, plot)


if __name__ == "__main__":
    run(app)
