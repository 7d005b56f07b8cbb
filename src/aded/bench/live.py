"""The benchmark's runs: contenders take turns prompt by prompt, each answer checked against plain decoding's.

What these cannot show in the time comes from the same prompts replayed at many budgets.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from aded.bench.contenders import PLAIN, Contender
from aded.bench.requests import requests
from aded.engines.base.loaded import LoadedModel
from aded.traces.prompts import Prompt
from aded.traces.record import record
from aded.traces.replay import replay

NODES = (1, 2, 4, 8, 16, 32, 64)
_COUNTED = ("steps", "draft_s", "verify_s", "learn_s", "drafted")
_VERDICT = ("identical", "tie", "first_difference", "margin", "noise")


@dataclass(frozen=True)
class Run:
    """One answer of one contender. Times are in seconds.

    Attributes:
        prompt: its name, see `Prompt.turn_name`.
        tokens, steps: emitted tokens and forward passes of the target, the prompt's included.
        seconds: from the call to the whole answer.
        first_s: from the call to the first token.
        draft_s, verify_s, learn_s: parts of our loop; 0 for the engine's own decoding.
        drafted: nodes verified.
        accepted: drafted tokens accepted by each verification step that had a draft or could have had one.
        exact: what is promised of the bits of its scores, see `Stats.exact`; None for the engine's own decoding.
        peak_mb: most memory in use by the process (on a GPU: by tensors), all contenders' state included, in MiB.
        identical: whether the output is plain decoding's.
        tie: whether it differs only where two scores tie within rounding.
        first_difference, margin, noise: where it differs, how far below the best score, the rounding noise; or None.
    """

    contender: str
    prompt: str
    category: str
    repeat: int
    tokens: int
    steps: int
    seconds: float
    first_s: float
    draft_s: float
    verify_s: float
    learn_s: float
    drafted: int
    accepted: list[int]
    peak_mb: float
    exact: str | None = None
    identical: bool = True
    tie: bool = False
    first_difference: int | None = None
    margin: float | None = None
    noise: float | None = None


@contextmanager
def _memory(gpu: Any) -> Iterator[Callable[[], float]]:
    """Watches memory; what it yields tells, afterwards, the most that was in use meanwhile, in MiB."""
    if gpu is not None:
        import torch

        torch.cuda.reset_peak_memory_stats(gpu)
        yield lambda: torch.cuda.max_memory_allocated(gpu) / 2**20
        return
    process, stop = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not stop.wait(0.05):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: max(seen) / 2**20
    finally:
        stop.set()
        thread.join()


def measure(
    loaded: LoadedModel,
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    *,
    repeats: int = 3,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    batch_size: int = 1,
    keep_state: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[list[Run]]:
    """Every answer to every request: one list a request, a run of each contender in it.

    Whoever goes first changes from request to request, so that a machine that drifts hurts all alike. Each repeat
    begins with nothing learned: no contender meets a prompt it has seen. A conversation goes on from plain decoding's
    answer for all.

    Args:
        contenders: plain decoding first.
        temperature: 0 is greedy; each request of each repeat has a seed of its own, the same for all contenders.
        batch_size: prompts answered at once; with more than one, first turns only.
        keep_state: whether contenders learn from prompt to prompt within a repeat.
        progress: told requests done and requests in all.
    """
    if not contenders or contenders[0].name != PLAIN:
        raise ValueError("the first contender must be plain decoding")
    turns = sum(len(prompt.turns) for prompt in prompts) if batch_size == 1 else -(-len(prompts) // batch_size)
    total, done = repeats * turns, itertools.count(1)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": 1.0, "seed": 0}
    first = next(requests(loaded, prompts, batch_size))
    for contender in contenders:  # compiles, measures the step times, fills caches
        contender.answer(first.ids, **settings | {"max_new_tokens": 24, "mask": first.mask})
    verdicts: dict[Any, dict[str, Any]] = {}
    for repeat in range(repeats):
        for contender in contenders:
            contender.forget()
        for number, request in enumerate(requests(loaded, prompts, batch_size)):
            # One seed for all requests would give them all the same noise, and a drafter would learn it.
            settings |= {"seed": 10_000 * repeat + number if temperature > 0 else 0, "mask": request.mask}
            shift = (number + repeat) % len(contenders)
            answers, peaks = {}, {}
            for contender in [*contenders[shift:], *contenders[:shift]]:
                if not keep_state and request.first:
                    contender.forget()
                with _memory(loaded.gpu) as peak:
                    answers[contender.name] = contender.answer(request.ids, **settings)
                peaks[contender.name] = peak()
            plain = answers[PLAIN]
            runs = []
            for contender in contenders:
                answer = answers[contender.name]
                key = (request.name, settings["seed"], str(answer.rows))
                if key not in verdicts:
                    checked = contender.check(request.ids, plain, answer, **settings)
                    verdicts[key] = {name: checked[name] for name in _VERDICT}
                runs.append(
                    Run(
                        contender=contender.name,
                        prompt=request.name,
                        category=request.category,
                        repeat=repeat,
                        **{name: getattr(answer, name) for name in ("tokens", "seconds", "first_s")},
                        **{name: getattr(answer.stats, name) for name in _COUNTED},
                        accepted=_accepted(answer.stats.from_draft[len(answer.rows) :]),
                        peak_mb=peaks[contender.name],
                        exact=None if contender.native else answer.stats.exact,
                        **verdicts[key],
                    )
                )
            yield runs
            progress(next(done), total)
            request.reply(plain.text)


def _accepted(from_draft: Sequence[bool]) -> list[int]:
    """Drafted tokens accepted by each step: each ends with one that was not drafted."""
    ends = [-1, *(i for i, drafted in enumerate(from_draft) if not drafted), len(from_draft)]
    counts: list[int] = (np.diff(ends) - 1).tolist()
    return counts if counts[-1] else counts[:-1]


def mat_by_nodes(
    loaded: LoadedModel,
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    keep_state: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """MAT of each drafter among the contenders at each of `NODES`, on recorded answers to the prompts."""
    drafting = [contender for contender in contenders if not contender.native and contender.name != "none"]
    if not drafting:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        trace = record(loaded, list(prompts), Path(folder) / "trace.safetensors", max_new_tokens=max_new_tokens)
    found: dict[str, list[float]] = {contender.name: [] for contender in drafting}
    for contender, nodes in itertools.product(drafting, NODES):
        result = replay(trace, contender.name, contender.drafter, nodes, keep_state=keep_state)
        found[contender.name].append(result.mat)
        progress(sum(map(len, found.values())), len(drafting) * len(NODES))
    return found
