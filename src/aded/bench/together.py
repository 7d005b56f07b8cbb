"""Many requests at once without a model: a trace's answers given to what drafts in vLLM, in steps of known cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aded.budget import CostCurve
from aded.drafters.many import SUCCESSORS, ManyDrafter
from aded.engines.vllm.step import StepDrafter
from aded.representative import Corpus, Representative
from aded.traces.trace import Trace

__all__ = ["Together", "together"]


@dataclass(frozen=True)
class Together:
    """What drafting for so many requests at once gave.

    Attributes:
        tokens_per_step: that each request emitted, the free one included.
        drafted_per_step: that were verified of each request.
        rate: tokens in the curve's unit of time, over that of plain steps with as many requests.
        drafting_ms: median of the time `StepDrafter` took for a step in which all places were busy.
        slow_ms: a tenth of those steps took longer.
    """

    requests: int
    tokens_per_step: float
    drafted_per_step: float
    rate: float
    drafting_ms: float
    slow_ms: float


def together(
    trace: Trace,
    curve: CostCurve,
    *,
    requests: int,
    longest: int = 8,
    memory_mb: float = 64.0,
    sequence_mb: float = 2.0,
    corpus: Corpus | None = None,
    least: float = 0.05,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Together:
    """Answer a trace's prompts, `requests` at a time, each step charged to `curve` by all tokens in it.

    A trace with fewer answers than four for each place is gone through again, each time with other names for all
    tokens: nothing learned of an answer helps to give it again.

    Args:
        curve: time of a step by its tokens; the learned step times are those of this curve, not of the replay.
        longest: most tokens of a draft.
        progress: is told answers begun and answers in all.
    """
    answers = [sequence for sequence in trace.sequences if len(sequence.output) > 1]
    length = max(len(a.prompt) + len(a.output) for a in answers)
    total = max(4 * requests, len(answers))
    names = _names(trace, -(-total // len(answers)))
    now = [0.0]
    table = Representative(memory_mb=memory_mb, successors=SUCCESSORS)
    drafter = ManyDrafter(table, sequences=requests, sequence_mb=sequence_mb, corpus=corpus, longest=longest)
    step = StepDrafter(drafter, max_length=length + longest + 1, least=least, clock=lambda: now[0])

    tokens, ends = np.zeros((requests, length), np.int32), np.zeros(requests, np.int64)
    lengths = np.zeros(requests, np.int32)
    drafts: list[list[int]] = [[] for _ in range(requests)]
    weights = np.ones(2**23)  # read between steps: a model's pass leaves nothing of ours in the processor's caches
    begun = emitted = row_steps = drafted = 0
    spent = plain = 0.0
    times = []
    while True:
        fresh = np.flatnonzero(lengths == ends)
        for row in fresh[: total - begun].tolist():
            answer = answers[begun % len(answers)]
            whole = names[begun // len(answers)][np.concatenate([answer.prompt, answer.output])]
            tokens[row, : len(whole)], lengths[row], ends[row] = whole, len(answer.prompt), len(whole)
            drafts[row] = []
            begun += 1
            progress(begun, total)
        busy = lengths < ends
        if not busy.any():
            break
        sampled = []
        for row in range(requests):
            at, true = int(lengths[row]), tokens[row, lengths[row] : ends[row]]
            n = 0
            while n < min(len(drafts[row]), len(true) - 1) and drafts[row][n] == true[n]:
                n += 1
            sampled.append(true[: n + 1].tolist())
            lengths[row] = at + len(sampled[row])
        verified = sum(len(drafts[row]) for row in np.flatnonzero(busy))
        passed = int(busy.sum()) + verified
        cost = curve(passed)
        now[0] += cost
        emitted += sum(map(len, sampled))
        row_steps += int(busy.sum())
        drafted += verified
        spent += cost
        plain += curve(int(busy.sum())) / int(busy.sum()) * sum(map(len, sampled))
        step.settle()  # in a server the model's pass is time enough
        weights.sum()
        since = time.perf_counter()
        drafts = step(sampled, lengths, tokens, passed)
        if busy.all() and not fresh.size:
            times.append((time.perf_counter() - since) * 1e3)
    return Together(
        requests,
        emitted / row_steps,
        drafted / row_steps,
        plain / spent,
        float(np.median(times)) if times else 0.0,
        float(np.quantile(times, 0.9)) if times else 0.0,
    )


def _names(trace: Trace, rounds: int) -> list[NDArray[np.int32]]:
    """For each round the new id of each token; the first round keeps them."""
    size = 1 + max(int(max(s.prompt.max(initial=0), s.output.max(initial=0))) for s in trace.sequences)
    random = np.random.default_rng(0)
    return [np.arange(size, dtype=np.int32), *(random.permutation(size).astype(np.int32) for _ in range(rounds - 1))]
