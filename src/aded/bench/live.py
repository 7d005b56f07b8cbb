"""The live benchmark: contenders take turns prompt by prompt, each answer checked against plain decoding's."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from aded.bench.contenders import PLAIN, Contender
from aded.bench.requests import requests
from aded.engines.base.loaded import LoadedModel
from aded.traces.prompts import Prompt

__all__ = ["Run", "measure"]


@dataclass(frozen=True)
class Run:
    """One answer of one contender. Times are in seconds.

    Attributes:
        prompt: its name; turns after the first add a dot and their number.
        tokens, steps: emitted tokens and forward passes of the target, the prompt's included.
        seconds: from the call to the whole answer.
        first_s: from the call to the first token.
        draft_s, verify_s, learn_s: parts of our loop; 0 for the engine's own decoding.
        drafted: nodes verified.
        accepted: drafted tokens accepted by each verification step that had a draft or could have had one.
        peak_mb: most memory in use by the process (on a GPU: by tensors), all contenders' state included, in MiB.
        identical: whether the output is plain decoding's.
        tie: whether it differs only where two scores tie within rounding.
        first_difference, margin, noise: where it first differs, how far that token's score lies below the best, and
            the rounding noise; None without a difference.
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
    identical: bool = True
    tie: bool = False
    first_difference: int | None = None
    margin: float | None = None
    noise: float | None = None


@dataclass
class _Peak:
    """Most memory in use while it watches, in MiB."""

    mb: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watch(self, gpu: Any) -> Iterator[None]:
        if gpu is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(gpu)
            yield
            self.mb = torch.cuda.max_memory_allocated(gpu) / 2**20
            return
        process = psutil.Process()

        def look() -> None:
            while not self._stop.wait(0.05):
                self.mb = max(self.mb, process.memory_info().rss / 2**20)

        self.mb = process.memory_info().rss / 2**20
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
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
                peak = _Peak()
                with peak.watch(loaded.gpu):
                    answers[contender.name] = contender.answer(request.ids, **settings)
                peaks[contender.name] = peak.mb
            plain = answers[PLAIN]
            runs = []
            for contender in contenders:
                answer = answers[contender.name]
                key = (request.name, settings["seed"], str(answer.rows))
                if key not in verdicts:
                    checked = contender.check(request.ids, plain, answer, **settings)
                    keys = ("identical", "tie", "first_difference", "margin", "noise")
                    verdicts[key] = {key: checked[key] for key in keys}
                stats = answer.stats
                runs.append(
                    Run(
                        contender=contender.name,
                        prompt=request.name,
                        category=request.category,
                        repeat=repeat,
                        tokens=answer.tokens,
                        steps=stats.steps,
                        seconds=answer.seconds,
                        first_s=answer.first_s,
                        draft_s=stats.draft_s,
                        verify_s=stats.verify_s,
                        learn_s=stats.learn_s,
                        drafted=stats.drafted,
                        accepted=_accepted(stats.from_draft[len(answer.rows) :]),
                        peak_mb=peaks[contender.name],
                        **verdicts[key],
                    )
                )
            yield runs
            progress(next(done), total)
            request.reply(plain.text)


def _accepted(from_draft: Sequence[bool]) -> list[int]:
    """Drafted tokens accepted by each step: each ends with one that was not drafted."""
    counts, run = [], 0
    for drafted in from_draft:
        if drafted:
            run += 1
        else:
            counts.append(run)
            run = 0
    return counts if run == 0 else [*counts, run]
