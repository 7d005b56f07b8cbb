"""What a step of drafting and learning takes on a device: `python -m benchmarks.device_drafts --requests 1,16,64,256`.

No model runs: requests say texts that repeat themselves, and what was drafted is accepted as far as it agrees. Beside
it stands what the same drafter takes on the host.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from aded.cli.options import numbers_of
from aded.engines.base.asked import Asked
from aded.engines.base.server_drafter import server_drafter
from aded.engines.base.settings import Settings
from aded.engines.vllm.engine import Emitted, StepDrafter
from benchmarks.clock import synchronized
from benchmarks.command import new_app, run

__all__ = ["app", "measure"]

app = new_app()

_PROMPT, _LONGEST, _VOCABULARY = 200, 8, 50_000
_FIRST = 3  # steps that are not timed: tables are cold, and memory is taken


def texts(requests: int, length: int) -> NDArray[np.int32]:
    """Texts that repeat phrases of 40 tokens, one token in ten another one: int32 (requests, length)."""
    random = np.random.default_rng(0)
    phrases = random.integers(0, _VOCABULARY, (requests, 40))
    whole = np.tile(phrases, length // 40 + 1)[:, :length]
    changed = random.integers(0, _VOCABULARY, whole.shape)
    return np.where(random.random(whole.shape) < 0.1, changed, whole).astype(np.int32)


def measure(requests: int, device: torch.device, steps: int) -> dict[str, float]:
    """Milliseconds of a step, medians: to hand it over, until the device has done it, and on the host; and the tokens
    that a step emits."""
    from aded.engines.device.drafter import DeviceDrafter

    length = _PROMPT + (steps + 1) * (_LONGEST + 1) + 2
    tokens = texts(requests, length)
    there = torch.from_numpy(tokens).to(device)
    sizes: dict[str, Any] = {"requests": requests, "max_length": length, "longest": _LONGEST, "min_probability": 0.05}
    made: Any = server_drafter(Settings(), requests)
    moved = DeviceDrafter(made, vocabulary=_VOCABULARY, most=_LONGEST, device=device, **sizes)
    host = StepDrafter(server_drafter(Settings(), requests), ranked=True, **sizes)
    for slot in range(requests):
        moved.start(slot, there, _PROMPT, Asked())
    slots, ends = np.arange(requests), np.full(requests, _PROMPT)
    emitted, refused, new = np.ones(requests, np.int64), np.zeros(requests, np.int64), np.ones(requests, np.bool_)
    handed, done, here, total = [], [], [], 0
    for step in range(steps):
        ends, total = ends + emitted, total + int(emitted.sum())
        rows, counts, missed, lengths = (torch.from_numpy(one).to(device) for one in (slots, emitted, refused, ends))
        began = synchronized(device)
        drafts, likely = moved.step(rows, counts, missed, lengths, there)
        between = time.perf_counter()
        ended = synchronized(device)
        recent = np.stack([tokens[row, end - host.width : end] for row, end in enumerate(ends)])
        host.advance(
            Emitted(slots, new, ends, emitted, recent),
            lambda i: tokens[i, : _PROMPT + 1],
            lambda i: Asked(),
            verified=emitted + refused - 1,
        )
        host.join()
        if step >= _FIRST:
            here.append(1000 * (time.perf_counter() - ended))
            handed.append(1000 * (between - began))
            done.append(1000 * (ended - began))
        ids, drafted = drafts.cpu().numpy(), (likely > 0).sum(1).cpu().numpy()
        same = np.stack([ids[:, j] == tokens[slots, ends + j] for j in range(_LONGEST)], axis=1)
        kept = np.minimum(np.cumprod(same, axis=1).sum(1), drafted)
        emitted, refused, new = kept + 1, drafted - kept, np.zeros(requests, np.bool_)
    names = {"handed over": handed, "done": done, "on the host": here}
    found = {name: statistics.median(taken) for name, taken in names.items()}
    return found | {"tokens a step": total / requests / steps}


@app.command()
def main(
    requests: Annotated[str, typer.Option(help="Requests at once, comma-separated.")] = "1,16,64,256",
    device: Annotated[str, typer.Option(help="cuda, or cpu where Triton's interpreter is asked for.")] = "cuda",
    steps: Annotated[int, typer.Option(min=_FIRST + 1, help="To go through.")] = 60,
) -> None:
    """Time drafting and learning on a device; one line of JSON."""
    counts = numbers_of(requests, "--requests")
    print(json.dumps({str(count): measure(count, torch.device(device), steps) for count in counts}))


if __name__ == "__main__":
    run(app)
