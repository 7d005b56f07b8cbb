"""The calibration of a drafter as a picture; `aded trace calibration` prints the same as a table.

`python -m benchmarks.calibration_plot TRACE --plot FILE` draws it with matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib
import typer

matplotlib.use("agg")

import matplotlib.pyplot as plt

from aded.drafters import create
from aded.errors import AdedError
from aded.traces.calibration import Calibration, calibrate
from aded.traces.trace import Trace
from benchmarks.command import new_app, run

__all__ = ["app", "draw"]

app = new_app()

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
    plot: Annotated[Path, typer.Option(help="Write the plot here (.svg, .png or .pdf).")],
    drafter: Annotated[str, typer.Option(help="Whose path probabilities to check.")] = "adaptive",
    max_draft_tokens: Annotated[int, typer.Option(min=1, help="Most nodes of a draft.")] = 64,
    keep_state: Annotated[
        bool, typer.Option("--keep-state/--fresh", help="Go on learning over the trace, or begin each answer anew.")
    ] = False,
) -> None:
    """Draw a drafter's path probabilities against how often its nodes are accepted."""
    create(drafter)  # an unknown name is known before the work begins
    found = calibrate(Trace.load(trace), lambda: create(drafter), max_draft_tokens, keep_state=keep_state)
    draw(found, plot)
    print(f"{drafter}, {max_draft_tokens} nodes: error {found.error:.4f}, accepted / predicted {found.total:.3f}")


if __name__ == "__main__":
    run(app)
