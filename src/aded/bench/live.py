"""The live benchmark: contenders take turns prompt by prompt, each answer checked against plain decoding's."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from aded.bench.contenders import PLAIN, Contender
from aded.engines.transformers.models import Loaded
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
        draft_s, verify_s, learn_s: parts of our loop; 0 for transformers' own decoding.
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
    def watch(self, device: torch.device) -> Iterator[None]:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            yield
            self.mb = torch.cuda.max_memory_allocated(device) / 2**20
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
    loaded: Loaded,
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    *,
    repeats: int = 3,
    max_new_tokens: int = 256,
    keep_state: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[list[Run]]:
    """Every answer of every turn of every prompt: one list a request, a run of each contender in it.

    Whoever goes first changes from request to request, so that a machine that drifts hurts all alike. Each repeat
    begins with nothing learned: no contender meets a prompt it has seen. A conversation goes on from plain decoding's
    answer for all.

    Args:
        contenders: plain decoding first.
        keep_state: whether contenders learn from prompt to prompt within a repeat.
        progress: told requests done and requests in all.
    """
    if not contenders or contenders[0].name != PLAIN:
        raise ValueError("the first contender must be plain decoding")
    total, done = repeats * sum(len(prompt.turns) for prompt in prompts), itertools.count(1)
    ids = loaded.prompt_ids([{"role": "user", "content": prompts[0].turns[0]}])
    for contender in contenders:
        contender.answer(ids, 24)  # compiles, measures the step times, fills caches
    verdicts: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for repeat in range(repeats):
        for contender in contenders:
            contender.forget()
        for number, prompt in enumerate(prompts):
            messages: list[dict[str, str]] = []
            for turn, text in enumerate(prompt.turns):
                messages.append({"role": "user", "content": text})
                ids = loaded.prompt_ids(messages)
                name = prompt.name if turn == 0 else f"{prompt.name}.{turn + 1}"
                shift = (number + repeat) % len(contenders)
                answers, peaks = {}, {}
                for contender in [*contenders[shift:], *contenders[:shift]]:
                    if not keep_state and turn == 0:
                        contender.forget()
                    peak = _Peak()
                    with peak.watch(loaded.model.device):
                        answers[contender.name] = contender.answer(ids, max_new_tokens)
                    peaks[contender.name] = peak.mb
                plain = answers[PLAIN]
                runs = []
                for contender in contenders:
                    answer = answers[contender.name]
                    key = (name, tuple(answer.ids[0].tolist()))
                    if key not in verdicts:
                        checked = contender.check(ids, plain, answer)
                        keys = ("identical", "tie", "first_difference", "margin", "noise")
                        verdicts[key] = {key: checked[key] for key in keys}
                    stats = answer.stats
                    runs.append(
                        Run(
                            contender=contender.name,
                            prompt=name,
                            category=prompt.category,
                            repeat=repeat,
                            tokens=answer.tokens,
                            steps=stats.steps,
                            seconds=answer.seconds,
                            first_s=answer.first_s,
                            draft_s=stats.draft_s,
                            verify_s=stats.verify_s,
                            learn_s=stats.learn_s,
                            drafted=stats.drafted,
                            accepted=_accepted(stats.from_draft),
                            peak_mb=peaks[contender.name],
                            **verdicts[key],
                        )
                    )
                yield runs
                progress(next(done), total)
                messages.append({"role": "assistant", "content": plain.text})


def _accepted(from_draft: Sequence[bool]) -> list[int]:
    """Drafted tokens accepted by each step after the prompt's: each step ends with one that was not drafted."""
    counts, run = [], 0
    for drafted in from_draft[1:]:
        if drafted:
            run += 1
        else:
            counts.append(run)
            run = 0
    return counts if run == 0 else [*counts, run]
