"""Edits of real files with the file as prediction: tokens a step, and seconds.

`python -m benchmarks.predicted` edits files of installed packages, about one line in twenty, and replays the edited
files as if the model had said them, with and without the prediction, at the step costs measured here. With `--live 10`
the model really answers that many requests to make an edit, against plain `generate`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer

import aded
from aded.budget import MeasuredCost
from aded.cli.options import Dtype, Model, Threads
from aded.drafters.base import Drafter
from aded.drafters.predicted import PredictedDrafter
from aded.engines.transformers.loading import Loaded, load
from aded.traces.replay import decode_sequence
from aded.traces.trace import TracedSequence
from benchmarks.command import new_app, run
from benchmarks.edits import Edit, edits
from benchmarks.regret import OnCurve

__all__ = ["app"]

app = new_app()


def replayed(loaded: Loaded, prompt: list[int], answer: list[int], drafter: Drafter) -> tuple[float, float]:
    """Tokens a step after the first, and seconds: passes by the measured curve, drafting and learning by the clock.

    The answer is what the model is taken to say.
    """
    curve = loaded.step_cost()
    budget = OnCurve(MeasuredCost(curve))
    sequence = TracedSequence("", "", np.array(prompt, np.int32), np.array(answer, np.int32))
    stats, outcomes = decode_sequence(sequence, drafter, budget)
    widths = [len(outcome.tree) + 1 for outcome in outcomes]
    seconds = sum(curve(width) for width in widths) + stats.draft_s + stats.learn_s
    return (len(answer) - 1) / max(len(outcomes), 1), seconds


@app.command()
def main(
    model: Model = None,
    dtype: Dtype = None,
    threads: Threads = None,
    count: Annotated[int, typer.Option(min=0, help="Edits that are replayed.")] = 50,
    live: Annotated[int, typer.Option(min=0, help="Edits that the model is really asked for.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of a live answer.")] = 512,
) -> None:
    """Measure predicted outputs; prints JSON."""
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(model, dtype=dtype or "bfloat16")
    chosen = edits(max(count, live))
    report: dict[str, Any] = {"model": loaded.name, "threads": torch.get_num_threads(), "edits": count}
    rows: list[dict[str, float]] = []
    for number, edit in enumerate(chosen[:count]):
        prompt = loaded.prompt_tokens([{"role": "user", "content": edit.asked}])
        answer, file = loaded.encode(edit.after), loaded.encode(edit.before)
        unrelated = loaded.encode(chosen[number - 1].before)
        curve = loaded.step_cost()
        plain = (len(answer) - 1) * curve(1)
        row = {"tokens": float(len(answer))}
        ways = {"without": None, "prediction": file, "unrelated": unrelated}
        for name, prediction in ways.items():
            drafter: Drafter = aded.create_drafter("adaptive", memory_mb=8)
            if prediction is not None:
                drafter = PredictedDrafter(drafter, [prediction])
            row[f"{name}_tokens_a_step"], seconds = replayed(loaded, prompt, answer, drafter)
            row[f"{name}_speedup"] = plain / seconds
        row["unrelated_cost"] = row["without_speedup"] / row["unrelated_speedup"]
        rows.append(row)
    report["replayed"] = {name: statistics.median(row[name] for row in rows) for name in rows[0]} if rows else {}
    if live:
        report["live"] = _live(loaded, chosen[:live], max_new_tokens)
    print(json.dumps(report, indent=1))


def _live(loaded: Loaded, chosen: Sequence[Edit], most: int) -> dict[str, Any]:
    """Answers of the model, plainly and with the file as prediction; seconds are those after the first token."""
    rows = []
    for edit in chosen:
        ids = loaded.prompt_ids([{"role": "user", "content": edit.asked}])
        options: dict[str, Any] = {**loaded.options(most, 0.0), "attention_mask": torch.ones_like(ids)}
        answers, seconds = {}, {}
        stats = aded.Stats()
        for name in ("generate", "prediction"):
            ours: dict[str, Any] = {}
            if name == "prediction":
                drafter = aded.create_drafter("adaptive", memory_mb=8)
                ours = {"custom_generate": aded.generate, "drafter": drafter, "stats": stats}
                ours |= {"prediction": loaded.encode(edit.before)}
            watch = _First()
            answers[name] = loaded.model.generate(ids, **options, **ours, streamer=watch)
            seconds[name] = time.perf_counter() - watch.first
        tokens = answers["generate"].shape[1] - ids.shape[1]
        rows.append(
            {
                "tokens": tokens,
                "same": bool(torch.equal(answers["generate"], answers["prediction"])),
                "tokens_a_step": (tokens - 1) / max(stats.steps - 1, 1),
                "speedup": seconds["generate"] / seconds["prediction"],
            }
        )
    medians = {name: statistics.median(row[name] for row in rows) for name in ("tokens_a_step", "speedup")}
    return {"answers": rows, **medians}


class _First:
    """A streamer that notes when the first token comes."""

    def __init__(self) -> None:
        self.first, self._seen = 0.0, 0

    def put(self, value: torch.Tensor) -> None:
        self._seen += 1
        if self._seen == 2:  # the prompt came before
            self.first = time.perf_counter()

    def end(self) -> None: ...


if __name__ == "__main__":
    run(app)
