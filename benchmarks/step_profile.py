"""A profile of a step: its time in linear layers, in attention, and in everything between them, plain and ours.

`python -m benchmarks.step_profile` prints it for steps of 1, 8 and 32 tokens of the embedded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from aded.cli.options import Dtype, Model, plain_table, table_console
from aded.engines.transformers import cache as kv
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.loading import load
from aded.errors import UnsupportedError
from benchmarks.command import new_app, run

__all__ = ["PARTS", "app", "profile_step"]

app = new_app()

PARTS = ("linear layers", "attention", "the rest")


class _Clock:
    """Sums the time spent in linear layers and in attention."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._began = 0.0

    @contextmanager
    def timing(self, model: Any) -> Iterator[None]:
        name = model.config.get_text_config(decoder=True)._attn_implementation
        if name not in ALL_ATTENTION_FUNCTIONS:
            raise UnsupportedError(f"the parts of a step are not told apart with {name} attention; load it with sdpa")
        attend = ALL_ATTENTION_FUNCTIONS[name]

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            result = attend(*args, **kwargs)
            self.seconds["attention"] += perf_counter() - began
            return result

        def before(module: Any, args: Any) -> None:
            self._began = perf_counter()

        def after(module: Any, args: Any, output: Any) -> None:
            self.seconds["linear layers"] += perf_counter() - self._began

        layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
        hooks = [layer.register_forward_pre_hook(before) for layer in layers]
        hooks += [layer.register_forward_hook(after) for layer in layers]
        ALL_ATTENTION_FUNCTIONS[name] = timed
        try:
            yield
        finally:
            ALL_ATTENTION_FUNCTIONS[name] = attend
            for hook in hooks:
                hook.remove()


@torch.no_grad()
def profile_step(model: Any, tokens: int, *, ours: bool, length: int = 128, steps: int = 15) -> dict[str, float]:
    """Median seconds of a step of `tokens` tokens after `length`, by part, as `generate` runs it or as we do.

    Raises:
        UnsupportedError: the model is not on a CPU, where alone a call's time is that of its work, or its attention
            cannot be watched.
    """
    if model.device.type != "cpu":
        raise UnsupportedError("the parts of a step are told apart on a CPU only; use the device's own profiler")
    ids = torch.ones(1, length, dtype=torch.long)
    past = DynamicCache(config=model.config.get_text_config(decoder=True))
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    with ExitStack() as stack:
        if ours:
            stack.enter_context(our_kernels(model))
        model(input_ids=ids, **with_cache(past))
        kv.check(past)
        if ours:
            kv.prepare(past)
        for step in range(steps + 2):
            clock, began = _Clock(), perf_counter()
            with clock.timing(model):
                began = perf_counter()
                model(input_ids=ids[:, :1].expand(1, tokens), **with_cache(past))
                whole = perf_counter() - began
            kv.keep(past, tokens, range(0)) if ours else past.crop(-tokens)
            clock.seconds["the rest"] = whole - sum(clock.seconds.values())
            for part in PARTS if step > 1 else ():
                parts[part].append(clock.seconds[part])
    return {part: median(seconds) for part, seconds in parts.items()}


@app.command()
def main(
    model: Model = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show where a step's time goes, as `generate` runs it and as we do."""
    loaded = load(model, dtype=dtype or "bfloat16")
    spent = {n: [profile_step(loaded.model, n, ours=ours) for ours in (False, True)] for n in (1, 8, 32)}
    if as_json:
        print(json.dumps({str(n): {"plain": plain, "ours": ours} for n, (plain, ours) in spent.items()}))
        return
    table = plain_table()
    for column in ("ms in", *(f"{who}, {n}" for n in spent for who in ("plain", "ours"))):
        table.add_column(column, justify="left" if column == "ms in" else "right")
    for part in PARTS:
        table.add_row(part, *(f"{1e3 * taken[part]:.1f}" for pair in spent.values() for taken in pair))
    table_console().print(f"{loaded.name}, milliseconds of steps of so many tokens\n", table, sep="\n")


if __name__ == "__main__":
    run(app)
