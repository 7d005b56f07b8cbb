"""Memory over thousands of requests to a tiny random model: it is flat once everything is compiled and warm.

`python -m benchmarks.soak --requests 2000` prints a line every so often, and ends with 1 where memory went on growing.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

import aded
from benchmarks.command import new_app, run

__all__ = ["Sample", "app", "soak"]

app = new_app()

_WARM = 0.25  # of the requests, after which memory counts
_GROWTH = 0.02  # of memory after them, that it may grow by from there on: allocators keep pages


@dataclass(frozen=True)
class Sample:
    """After so many requests.

    Attributes:
        mb: MiB of memory in use by the process.
        objects: Python objects that the collector knows.
        same: answers equal to plain decoding's, of those compared.
    """

    requests: int
    mb: float
    objects: int
    same: int
    compared: int


def soak(requests: int, every: int, *, seed: int = 0) -> Any:
    """Answer requests of all kinds: greedy and sampled, single and in batches, of tenants, some cut off by an error.

    Every tenth is compared with plain decoding. Yields a `Sample` every so often.
    """
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 200}
    model = LlamaForCausalLM(
        LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, eos_token_id=None)
    ).eval()
    drafter = aded.create_drafter("adaptive", memory_mb=8, tenant_mb=2, tenants_mb=16)
    rng, process, same, compared = np.random.default_rng(seed), psutil.Process(), 0, 0
    for number in range(1, requests + 1):
        rows, length = int(rng.choice([1, 1, 1, 2, 4])), int(rng.integers(3, 40))
        ids = torch.tensor(rng.integers(1, 60, (rows, length)))
        options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": int(rng.integers(4, 40))}
        options |= {"do_sample": bool(rng.integers(2)), "pad_token_id": 0}
        ours: dict[str, Any] = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": 8}
        ours |= {"tenant": [None, f"tenant {rng.integers(12)}"][int(rng.integers(2))]}
        if number % 50 == 0:
            options["stopping_criteria"] = [_Fails()]
        torch.manual_seed(number)
        with suppress(_Broken):
            answer = model.generate(ids, **options, **ours)
        if number % 10 == 1:
            torch.manual_seed(number)
            same += bool(torch.equal(answer, model.generate(ids, **options)))
            compared += 1
        if number % every == 0 or number == requests:
            gc.collect()
            yield Sample(number, process.memory_info().rss / 2**20, len(gc.get_objects()), same, compared)


class _Broken(Exception): ...


class _Fails:
    """A stopping criterion that breaks in the middle of an answer."""

    def __init__(self) -> None:
        self.left = 5

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            raise _Broken
        return torch.zeros(len(input_ids), dtype=torch.bool)


@app.command()
def main(
    requests: Annotated[int, typer.Option(min=8, help="Requests in all.")] = 2000,
    every: Annotated[int, typer.Option(min=1, help="Requests between two lines.")] = 100,
) -> None:
    """Answer requests and watch memory."""
    torch.set_num_threads(1)  # so small a model only waits for others
    samples: list[Sample] = []
    print("| requests | MiB | objects | same as plain |\n|---:|---:|---:|---:|")
    for sample in soak(requests, every):
        samples.append(sample)
        figures = (sample.requests, f"{sample.mb:.1f}", sample.objects, f"{sample.same} of {sample.compared}")
        print(f"| {' | '.join(map(str, figures))} |", flush=True)
    warm = next(sample for sample in samples if sample.requests >= _WARM * requests)
    grown = samples[-1].mb / warm.mb - 1
    objects = samples[-1].objects - warm.objects
    print(f"\nFrom request {warm.requests} on, memory grew by {grown:.1%}, objects by {objects}.")
    if grown > _GROWTH or samples[-1].same < samples[-1].compared:
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
