"""transformers on one device: ways to decode beside each other, and what a step of larger models takes.

`python -m benchmarks.device FIGURES.json --prompts FILE --device cuda` needs no network and fits ten minutes of one
large GPU; benchmarks/gpu/transformers.sh runs it there. Figures are written after each part.
On a CPU everything runs as well, slowly: `--device cpu --sizes tiny` is a trial.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

import aded
from aded.cli.options import Model, numbers_of, words_of
from aded.cli.progress import progress_bar
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.loading import Loaded, load
from aded.errors import AdedError
from aded.traces.prompts import read_prompts
from benchmarks.clock import synchronized
from benchmarks.command import new_app, run

__all__ = ["SIZES", "app", "speeds", "step_times"]

app = new_app()

# Shapes of models that people run, of random weights: by billions of parameters.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "1": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "32": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40},
}
_VOCABULARY, _KEY_VALUE_HEADS = 128_256, 8
_ENTRIES = 512  # in the cache before a timed step
_PLAIN = "generate"


def random_model(size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama of such a shape."""
    heads = min(_KEY_VALUE_HEADS, SIZES[size]["num_attention_heads"])
    known: dict[str, Any] = {"vocab_size": _VOCABULARY, "num_key_value_heads": heads, "max_position_embeddings": 4096}
    config = LlamaConfig(**SIZES[size], **known, tie_word_embeddings=False)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@torch.inference_mode()
def step_times(model: Any, widths: Sequence[int], *, repeats: int = 5) -> dict[int, float]:
    """Seconds of the model's own passes over so many tokens behind 512 cached ones; medians, in turns."""
    device, cache = model.device, DynamicCache()
    ids = torch.randint(0, int(model.config.vocab_size), (1, max(_ENTRIES, *widths)), device=device)
    model(input_ids=ids[:, :_ENTRIES], **{CACHE: cache}, logits_to_keep=1)
    times: dict[int, list[float]] = {width: [] for width in widths}
    for turn in range(repeats + 1):
        for width in widths:
            began = synchronized(device)
            model(input_ids=ids[:, :width], **{CACHE: cache})
            if turn:  # the first of a shape is a trial
                times[width].append(synchronized(device) - began)
            cache.crop(-width)
    return {width: statistics.median(taken) for width, taken in times.items()}


def ways_of(loaded: Loaded, *, compiled: bool, assistant: Any = None) -> dict[str, dict[str, Any]]:
    """Arguments of `generate` of each way to decode; plain decoding is the first.

    Args:
        compiled: with `torch.compile`: ours, and transformers' own decoding in a cache of fixed size.
    """
    ours: dict[str, Any] = {"custom_generate": aded.generate, "compile": compiled}
    ways: dict[str, dict[str, Any]] = {_PLAIN: {"cache_implementation": "static"} if compiled else {}}
    ways["our step, no drafts"] = {**ours, "drafter": aded.create_drafter("none")}
    ways["adaptive"] = {**ours, "drafter": aded.create_drafter("adaptive")}
    if not compiled:  # transformers' own speculation takes no such cache
        ways["prompt lookup"] = {"prompt_lookup_num_tokens": 10}
        if assistant is not None:
            ways["assistant"] = {"assistant_model": assistant}
    return ways


def speeds(
    loaded: Loaded, prompts: Sequence[str], *, compiled: bool, tokens: int, assistant: Any = None
) -> dict[str, dict[str, Any]]:
    """What each way took, by its name: each prompt is answered in all ways before the next, the first of all twice.

    `speedup` is the median over prompts of plain decoding's time over this way's; `same` counts answers with plain
    decoding's tokens, `ties` those of the others that a certificate shows to differ within rounding noise.
    """
    ways = ways_of(loaded, compiled=compiled, assistant=assistant)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number, prompt in enumerate([prompts[0], *prompts]):
        ids = loaded.prompt_ids([{"role": "user", "content": prompt}])
        plain: list[int] = []
        for name, given in ways.items():
            options = {**loaded.options(tokens, 0.0), "attention_mask": torch.ones_like(ids), **given}
            stats = aded.Stats()
            if "custom_generate" in given:
                options["stats"] = stats
            began = synchronized(loaded.model.device)
            said = loaded.model.generate(ids, **options)[0, ids.shape[1] :]
            seconds, emitted = synchronized(loaded.model.device) - began, said.tolist()
            plain = plain or emitted
            if not number:
                continue  # everything compiles, and costs are measured
            row = {"seconds": seconds, "tokens": len(emitted), "same": emitted == plain, "tie": False}
            if not row["same"] and "custom_generate" in given:
                row["tie"] = aded.certify(loaded.model, ids, said[None]).lossless
            if stats.steps:
                row |= {"steps": stats.steps, "draft_s": stats.draft_s, "learn_s": stats.learn_s}
            rows[name].append(row)
    return {name: _summary(found, rows[_PLAIN]) for name, found in rows.items()}


def _summary(rows: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> dict[str, Any]:
    ratios = [
        (base["seconds"] / base["tokens"]) / (row["seconds"] / row["tokens"])
        for row, base in zip(rows, plain, strict=True)
    ]
    steps = sum(row.get("steps", 0) for row in rows)
    found: dict[str, Any] = {
        "tokens_per_second": sum(row["tokens"] for row in rows) / sum(row["seconds"] for row in rows),
        "speedup": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "answers": len(rows),
        "same": sum(bool(row["same"]) for row in rows),
        "ties": sum(bool(row["tie"]) for row in rows),
    }
    if steps:
        found["tokens_a_step"] = sum(row["tokens"] for row in rows) / steps
        found["drafting_ms"] = 1000 * sum(row["draft_s"] for row in rows) / steps
        found["learning_ms"] = 1000 * sum(row["learn_s"] for row in rows) / steps
    return found


def _add(file: Path, report: dict[str, Any], until: float, name: str, measure: Callable[[], Any]) -> None:
    """Measure a part of a report and write it down; one that no time is left for is named instead."""
    if time.monotonic() > until:
        report.setdefault("left out for want of time", []).append(name)
    else:
        try:
            report[name] = measure()
        except torch.OutOfMemoryError as error:
            report[name] = {"out of memory": str(error).splitlines()[0]}
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@app.command()
def main(
    figures: Annotated[Path, typer.Argument(help="File to write the figures to, as JSON.")],
    prompts: Annotated[Path, typer.Option(help="JSON lines or text lines; first turns are answered.")],
    model: Model = None,
    assistant: Annotated[str | None, typer.Option(help="A smaller model of its vocabulary, for transformers.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtypes: Annotated[str, typer.Option(help="Of the model, comma-separated.")] = "bfloat16,float16",
    compiled: Annotated[bool, typer.Option("--compile/--eager-only", help="With torch.compile as well.")] = True,
    sizes: Annotated[str, typer.Option(help="Random models to time steps of, or none.")] = "1,8,32",
    widths: Annotated[str, typer.Option(help="Tokens of a step, comma-separated.")] = "1,2,4,8,16,32,64,128",
    limit: Annotated[int, typer.Option(min=1, help="Prompts, evenly from the whole file.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer at most.")] = 128,
    minutes: Annotated[float, typer.Option(min=0.1, help="No part begins later than this.")] = 8.0,
) -> None:
    """Measure ways to decode on a device, and the step times of larger models."""
    asked = [prompt.turns[0] for prompt in read_prompts(prompts)]
    chosen = [asked[i * len(asked) // min(limit, len(asked))] for i in range(min(limit, len(asked)))]
    kinds, counts = words_of(dtypes, "--dtypes"), numbers_of(widths, "--widths")
    shapes = [] if sizes == "none" else words_of(sizes, "--sizes")
    if unknown := [size for size in shapes if size not in SIZES]:
        raise AdedError(f"there is no size {unknown[0]}; choose some of {', '.join(SIZES)}, or none")
    report: dict[str, Any] = {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    report |= {"torch": torch.__version__, "transformers": transformers.__version__, "aded": aded.__version__}
    parts = [(kind, mode) for kind in kinds for mode in ((False, True) if compiled else (False,))]
    part = partial(_add, figures, report, time.monotonic() + 60 * minutes)
    with progress_bar("parts", lines=True) as progress:
        done, total, place = 0, len(parts) + len(shapes), torch.device("cpu")
        for kind in kinds:
            loaded = load(model, dtype=kind, device=device)
            place = loaded.model.device
            report["device"] = torch.cuda.get_device_name(place) if place.type == "cuda" else str(place)
            helper = load(assistant, dtype=kind, device=device).model if assistant else None
            for mode in [mode for own, mode in parts if own == kind]:
                given: dict[str, Any] = {"compiled": mode, "tokens": max_new_tokens, "assistant": helper}
                part(f"{kind}, {'compiled' if mode else 'eager'}", partial(speeds, loaded, chosen, **given))
                progress(done := done + 1, total)
        for size in shapes:
            part(f"steps of {size} billion, seconds", partial(_steps, size, place, counts))
            progress(done := done + 1, total)
    print(json.dumps(report))


def _steps(size: str, device: torch.device, widths: Sequence[int]) -> dict[str, float]:
    model = random_model(size, device, torch.bfloat16)
    return {str(width): seconds for width, seconds in step_times(model, widths).items()}


if __name__ == "__main__":
    run(app)
