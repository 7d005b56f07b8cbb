"""What earns its place in the `adaptive` drafter: each part taken away, replayed on a trace.

`python -m benchmarks.ablation TRACE` prints a Markdown table of tokens a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from aded.cli.options import numbers_of
from aded.drafters.adaptive import AdaptiveDrafter
from aded.representative import InterpolationWeights, Representative
from aded.traces.replay import replay
from aded.traces.trace import Trace
from benchmarks.command import new_app, run

__all__ = ["VARIANTS", "ablate", "app"]

app = new_app()


class _CountWeights(InterpolationWeights):
    """Believes by counts alone and learns next to nothing: each step toward the posterior is one in a billion."""

    steps = (np.float32(1e-9), np.float32(1e9))


def _lengths(*orders: int) -> Callable[[], AdaptiveDrafter]:
    return lambda: AdaptiveDrafter(Representative(memory_mb=60.0, orders=orders))


_ORDERS = (0, 1, 2, 3, 5, 8)

# Prior strengths as the drafter's own where they start.
VARIANTS: dict[str, Callable[[], AdaptiveDrafter]] = {
    "all of it": AdaptiveDrafter,
    "prompts and distributions shared too": lambda: AdaptiveDrafter(share="all"),
    "nothing shared": lambda: AdaptiveDrafter(share="nothing"),
    "weights by counts only, not learned": lambda: AdaptiveDrafter(
        weights=_CountWeights(_ORDERS, 2, (1, 0.6, 1, 1, 1, 0.5))
    ),
    "no table of each sequence's own": lambda: AdaptiveDrafter(sequence_mb=0.0),
    "distributions only, no weight on the choice": lambda: AdaptiveDrafter(choice_weight=0.0),
    "choices only, no distributions": lambda: AdaptiveDrafter(top_k=0),
    "top 1 instead of top 8": lambda: AdaptiveDrafter(top_k=1),
    "top 4 instead of top 8": lambda: AdaptiveDrafter(top_k=4),
    "8 successors a context instead of 24": lambda: AdaptiveDrafter(Representative(memory_mb=60.0, successors=8)),
    "contexts of 2 (the paper's tri-grams)": _lengths(2),
    "contexts of 1 and 2": _lengths(1, 2),
    "contexts of 0 to 3": _lengths(0, 1, 2, 3),
    "contexts of 0 to 5": _lengths(0, 1, 2, 3, 5),
    "Monte-Carlo tree search": lambda: AdaptiveDrafter(search="mcts"),
    "8 MB in all": lambda: AdaptiveDrafter(memory_mb=7.5, sequence_mb=0.5),
}


def _one(job: tuple[str, Path, int, bool]) -> float:
    name, path, nodes, keep_state = job
    return replay(Trace.load(path), name, VARIANTS[name], nodes, keep_state=keep_state).mat


def ablate(path: Path, nodes: Sequence[int], *, processes: int) -> Iterator[tuple[str, list[float]]]:
    """(variant, MAT) of every variant: fresh at each of `nodes`, then with state kept at each."""
    settings = [(n, keep) for keep in (False, True) for n in nodes]
    jobs = [(name, path, n, keep) for name in VARIANTS for n, keep in settings]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        found = pool.map(_one, jobs)
        for name in VARIANTS:
            yield name, [next(found) for _ in settings]


@app.command()
def main(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    max_draft_tokens: Annotated[str, typer.Option(help="Most nodes of a draft; several, comma-separated.")] = "8,24,64",
    processes: Annotated[int, typer.Option(min=1, help="Replays run at once.")] = 2,
) -> None:
    """Replay `adaptive` with each of its parts taken away; prints a Markdown table of tokens a step."""
    budgets = numbers_of(max_draft_tokens, "--max-draft-tokens")
    Trace.load(trace)  # a damaged file is known before the work begins
    heads = [f"{kind} {n}" for kind in ("fresh", "kept") for n in budgets]
    print(f"| drafter | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name, figures in ablate(trace, budgets, processes=processes):
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    run(app)
