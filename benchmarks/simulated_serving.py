"""Many requests at once without a model: a trace's answers given to what drafts in vLLM, in steps of known cost.

`python -m benchmarks.simulated_serving TRACE --requests 1,16,64` prints a table of tokens a step and drafting times.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from aded.budget import CostCurve
from aded.cli.options import CorpusFile, numbers_of, plain_table
from aded.cli.progress import progress_bar
from aded.engines.base.asked import Asked
from aded.engines.base.server_drafter import server_drafter
from aded.engines.base.settings import Settings
from aded.engines.vllm.engine import Ran, StepDrafter
from aded.errors import AdedError
from aded.representative import Corpus
from aded.traces.trace import Trace
from benchmarks.command import curve_of, new_app, run

__all__ = ["SimulatedServing", "app", "simulate"]

app = new_app()

_ROOM = 2048  # tokens of prompts a step takes in besides


@dataclass(frozen=True)
class SimulatedServing:
    """What drafting for so many requests at once gave.

    Attributes:
        tokens_per_step: that each request whose prompt was done emitted, the free one included.
        drafted_per_step: that were verified of each of them.
        rate: tokens in the curve's unit of time, over those of plain steps, prompts included in both.
        drafting_ms: median of the time `StepDrafter` took for a step in which all places were busy.
        slow_ms: a tenth of those steps took longer.
    """

    requests: int
    tokens_per_step: float
    drafted_per_step: float
    rate: float
    drafting_ms: float
    slow_ms: float


def simulate(
    trace: Trace,
    curve: CostCurve,
    *,
    requests: int,
    drafter: str = "adaptive",
    max_draft_tokens: int = 8,
    memory_mb: float = 64.0,
    sequence_mb: float = 2.0,
    sequences_mb: float = 512.0,
    corpus: Corpus | None = None,
    min_probability: float = 0.05,
    cold: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SimulatedServing:
    """Answer a trace's prompts, `requests` at a time, each step charged to `curve` by all tokens in it.

    Prompts are taken in by the steps that also decode, as vLLM does it, up to 2,048 of their tokens in each. A trace
    with fewer answers than four for each place is gone through again, each time with other names for all tokens:
    nothing learned of an answer helps to give it again.

    Args:
        curve: time of a step by its tokens; the learned step times are those of this curve, not of the replay.
        drafter: who drafts.
        max_draft_tokens: most tokens of a draft.
        sequence_mb, sequences_mb: of each request's own table, and of all of them.
        min_probability: no draft goes on where its path is less likely.
        cold: read other memory between steps: a model's pass leaves nothing of ours in the processor's caches. Changes
            drafting times only, and takes most of the time of a simulation.
        progress: is told answers begun and answers in all.
    """
    plain = _Server(trace, curve, requests)
    while plain.step(plain.nothing):
        pass
    server = _Server(trace, curve, requests)
    sizes: dict[str, Any] = {"memory_mb": memory_mb, "sequence_mb": sequence_mb, "sequences_mb": sequences_mb}
    made = server_drafter(Settings(drafter=drafter, **sizes), requests, corpus=corpus)
    limits: dict[str, Any] = {"requests": requests, "max_length": server.longest, "longest": max_draft_tokens}
    step = StepDrafter(made, **limits, min_probability=min_probability, clock=lambda: server.time)
    weights = np.ones(2**23 if cold else 1)
    drafts, times, rows, drafted = server.nothing, [], 0, 0
    while server.step(drafts):
        progress(server.begun, server.total)
        step.join()  # in a server the model's pass is time enough
        weights.sum()
        since = time.perf_counter()
        drafts = step(server.sampled, server.lengths, server.tokens, server.ran)
        if all(server.sampled):
            times.append((time.perf_counter() - since) * 1e3)
        rows += sum(map(bool, server.sampled))
        drafted += sum(map(len, drafts))
    slow = np.quantile(times, 0.9) if times else 0.0
    middle = np.median(times) if times else 0.0
    per_step = server.emitted / rows, drafted / rows
    return SimulatedServing(requests, *per_step, plain.time / server.time, float(middle), float(slow))


class _Server:
    """A trace's answers, given as far as drafts agree with them.

    Attributes:
        tokens, lengths: (places, length) and (places,), of each place's request, as vLLM hands them over.
        sampled: what each place emitted in the last step.
        ran: what is known of the last step.
        time: that all steps cost.
    """

    def __init__(self, trace: Trace, curve: CostCurve, places: int) -> None:
        self._answers = [sequence for sequence in trace.sequences if len(sequence.output) > 1]
        self._curve = curve
        self.total = max(4 * places, len(self._answers))
        self._names = _names(trace, -(-self.total // len(self._answers)))
        self.longest = max(len(a.prompt) + len(a.output) for a in self._answers) + 1
        self.tokens, self.lengths = np.zeros((places, self.longest), np.int32), np.zeros(places, np.int32)
        self._ends = np.zeros(places, np.int64)
        self._waiting = np.zeros(places, np.int64)  # tokens of the prompt that are still to be taken in
        self.nothing: list[list[int]] = [[] for _ in range(places)]
        self.sampled = self.nothing
        self.begun = self.emitted = 0
        self.time = 0.0
        self._names_of = [""] * places

    def step(self, drafts: list[list[int]]) -> bool:
        """One step; false if there was nothing left to do."""
        for row in np.flatnonzero(self.lengths == self._ends)[: self.total - self.begun].tolist():
            self._begin(row)
        busy, room = self.lengths < self._ends, _ROOM
        if not busy.any():
            return False
        self.sampled, passed, verified = [], 0, {}
        for row, draft in enumerate(drafts):
            taken = min(int(self._waiting[row]), room)
            self._waiting[row] -= taken
            room -= taken
            passed += taken
            if not busy[row] or self._waiting[row]:
                self.sampled.append([])
                continue
            draft = [] if taken else draft  # it was for who was here before
            at, end = int(self.lengths[row]), int(self._ends[row])
            true = self.tokens[row, at:end].tolist()
            n = 0
            while n < min(len(draft), len(true) - 1) and draft[n] == true[n]:
                n += 1
            self.sampled.append(true[: n + 1])
            self.lengths[row] = at + n + 1
            passed += len(draft) + (not taken)
            verified[self._names_of[row]] = len(draft)
        self.emitted += sum(map(len, self.sampled))
        self.time += self._curve(passed)
        names = list(self._names_of)
        self.ran = Ran(names, verified, passed, set(names), lambda name: Asked())
        return True

    def _begin(self, row: int) -> None:
        answer = self._answers[self.begun % len(self._answers)]
        whole = self._names[self.begun // len(self._answers)][np.concatenate([answer.prompt, answer.output])]
        self.tokens[row, : len(whole)] = whole
        self.lengths[row], self._ends[row] = len(answer.prompt), len(whole)
        self._waiting[row] = len(answer.prompt)
        self._names_of[row] = str(self.begun)
        self.begun += 1


def _names(trace: Trace, rounds: int) -> list[NDArray[np.int32]]:
    """For each round the new id of each token; the first round keeps them."""
    size = 1 + max(int(max(s.prompt.max(initial=0), s.output.max(initial=0))) for s in trace.sequences)
    random = np.random.default_rng(0)
    return [np.arange(size, dtype=np.int32), *(random.permutation(size).astype(np.int32) for _ in range(rounds - 1))]


@app.command()
def main(
    trace: Annotated[Path, typer.Argument(help="A recorded trace.")],
    requests: Annotated[str, typer.Option(help="Requests at once, comma-separated.")] = "1,4,16,64,256",
    drafter: Annotated[str, typer.Option(help="Who drafts.")] = "adaptive",
    max_draft_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a draft.")] = 8,
    sequences_mb: Annotated[float, typer.Option(min=0.1, help="MiB of all requests' own tables.")] = 512.0,
    curve: Annotated[
        str,
        typer.Option(help="Step costs: a file of `aded calibrate --json`, or tokens:time pairs."),
    ] = "1:10,256:11,512:16,2048:64",
    corpus: CorpusFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list and nothing else.")] = False,
) -> None:
    """Give a trace's answers to what drafts in vLLM, many at once, each step charged by its tokens; and time it."""
    sizes, cost, recorded = numbers_of(requests, "--requests"), curve_of(curve), Trace.load(trace)
    if min(sizes) < 1:
        raise AdedError("--requests takes numbers from 1 on")
    opened = None if corpus is None else Corpus.open(corpus)
    found = []
    with progress_bar("answers") as progress:
        for size in sizes:
            options: dict[str, Any] = {"drafter": drafter, "max_draft_tokens": max_draft_tokens, "corpus": opened}
            options["sequences_mb"] = sequences_mb
            found.append(simulate(recorded, cost, requests=size, progress=progress, **options))
    if as_json:
        print(json.dumps([asdict(result) for result in found]))
        return
    table = plain_table()
    for name in (
        "at\nonce",
        "tokens\na step",
        "drafted\na step",
        "against\nplain",
        "drafting\nms",
        "90th\npercentile",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for result in found:
        table.add_row(
            str(result.requests),
            f"{result.tokens_per_step:.2f}",
            f"{result.drafted_per_step:.2f}",
            f"{result.rate:.2f}x",
            f"{result.drafting_ms:.2f}",
            f"{result.slow_ms:.2f}",
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    run(app)
