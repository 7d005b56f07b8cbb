"""Figures of the aded that is imported, as JSON: `python benchmarks/probe.py TRACE ANSWERS WIDTHS MODEL`.

`python -m benchmarks.commits` runs this very file over several commits, so it uses of aded what seldom changes. WIDTHS
are tokens of steps of MODEL to time, comma-separated; with none the model is not loaded.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import aded
from aded.traces.replay import learn, replay
from aded.traces.trace import Trace

BUDGETS = (8, 64)  # nodes of a draft


def counts(trace: Trace, answers: int) -> dict[str, float]:
    """What does not depend on the machine: tokens and nodes a step, and memory."""
    return _replayed(trace, answers)[0]


def step_times(model: str | None, widths: list[int]) -> dict[str, float]:
    """Milliseconds of a model's step over so many tokens."""
    from aded.engines.transformers.loading import load

    curve = load(model, dtype="bfloat16").step_cost(renew=True)
    return {f"step of {width} tokens, ms": 1000 * curve(width) for width in widths}


def _replayed(trace: Trace, answers: int) -> tuple[dict[str, float], dict[str, float]]:
    """What does not depend on the machine, and milliseconds of drafting and of learning a step."""
    part, found, spent = Trace(trace.sequences[:answers], trace.about), {}, {}
    for nodes in BUDGETS:
        result = replay(part, "adaptive", partial(aded.create_drafter, "adaptive"), nodes, keep_state=True)
        found[f"tokens a step, {nodes} nodes"] = result.mat
        found[f"nodes of a draft, {nodes} at most"] = result.nodes_used
        spent[f"drafting a step, {nodes} nodes, ms"] = result.draft_ms
        spent[f"learning a step, {nodes} nodes, ms"] = result.learn_ms
    found["learned state, MiB"] = float(result.state_mb or 0.0)
    drafter: Any = aded.create_drafter("adaptive")
    learn(drafter, part)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        drafter.save(file)
        found["state file, MiB"] = file.stat().st_size / 2**20
    return found, spent


def main() -> None:
    """Print one JSON object."""
    path, answers, widths, model = sys.argv[1:5]
    trace = Trace.load(path)
    counts(trace, 2)  # everything is compiled
    found, spent = _replayed(trace, int(answers))
    sizes = [int(width) for width in widths.split(",") if width]
    found |= spent | (step_times(model or None, sizes) if sizes else {})
    found["memory of the process, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("FIGURES " + json.dumps(found))


if __name__ == "__main__":
    main()
