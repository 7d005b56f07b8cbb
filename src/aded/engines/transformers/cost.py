"""What a verification step costs on this machine: measured once for a model, kept on disk, measured anew on request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import torch
import transformers

from aded.budget.cost import MAX_DRAFT_TOKENS, SIZES, CostCurve
from aded.engines.base.cost_files import kept_curve, processor
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import implementation
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.forward import SIZES as COMPILED_SIZES
from aded.engines.transformers.forward import ForwardRunner
from aded.engines.transformers.masks import device_of
from aded.engines.transformers.positions import longest
from aded.errors import UnsupportedError
from aded.files import digest
from aded.kernels import compiled_sources

_FAR = 1024  # entries by which a cache is lengthened to see what its length costs


def cost_curve(
    model: Any,
    length: int = 128,
    *,
    runner: ForwardRunner | None = None,
    renew: bool = False,
    encoded: Any = None,
) -> CostCurve:
    """Step times of this model on this machine after `length` tokens (at most 128 count).

    A model loaded from somewhere keeps its curve in the cache folder, by all that step times depend on: model, data
    type, device, threads, attention and library versions; unless measurements disagreed because the machine was busy. A
    model made in memory is measured once a process.

    Args:
        runner: how passes are run; None: as the model runs them.
        renew: measure again, whatever is known.
        encoded: an encoder's outputs, where there is one; an encoder-decoder is measured once a process.
    """
    runner = ForwardRunner(model) if runner is None else runner
    on_disk = bool(getattr(model, "name_or_path", ""))
    on_disk &= encoded is None
    runner.given = {} if encoded is None else {"encoder_outputs": encoded}
    measure = partial(_measure, model, length, runner)
    return kept_curve(model, _conditions(model, runner), measure, on_disk=on_disk, renew=renew)


def _conditions(model: Any, runner: ForwardRunner) -> dict[str, Any]:
    """All that step times depend on. Virtual machines of one processor differ in the instructions they show torch."""
    device = model.device
    on_cpu = f"{processor()} {torch.backends.cpu.get_cpu_capability()} {torch.ops.mkldnn._is_mkldnn_bf16_supported()}"
    return {
        "model": getattr(model, "name_or_path", ""),
        "config": digest(model.config.to_json_string().encode()),
        "dtype": str(model.dtype),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {on_cpu}",
        "threads": torch.get_num_threads(),
        "attention": implementation(model),
        "compiled": runner.settings,
        "kernels": compiled_sources(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@torch.no_grad()
def _measure(model: Any, length: int, runner: ForwardRunner) -> CostCurve:
    length = max(1, min(length, 128))
    most = longest(model) or _FAR
    length = max(1, min(length, most - SIZES[-1]))
    sizes = [size for size in SIZES if size < most - length]
    if len(sizes) < 2:
        return CostCurve([1, 2], [1.0, 1e6])  # no room for a draft
    prompt = torch.ones(1, length, dtype=torch.long, device=device_of(model))
    past = kv.new(model)
    wait: Callable[[], None] = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None

    def step(tokens: int) -> float:
        wait()
        started = perf_counter()
        runner.blank(past, tokens).logits.float().topk(8)
        wait()
        seconds = perf_counter() - started
        kv.keep(past, tokens, range(0))
        return seconds

    with our_kernels(model, compiled=runner.fixed):
        if runner.fixed:
            kv.widen(past)
        try:
            model(**runner.inputs(prompt), **with_cache(past))
        except Exception as error:
            raise UnsupportedError(
                "what its steps cost cannot be measured with text alone; pass max_draft_tokens=8, or another number, "
                'decode without ADED, or pass on_unsupported="fallback"'
            ) from error
        kv.check(past)
        kv.check_filled(past, length)
        runner.begin(past)
        per_entry = (0.0, 0.0)
        if runner.fixed:
            curve = CostCurve.measure(step, sizes=COMPILED_SIZES).in_steps()
            runner.end(past)
        else:
            curve = CostCurve.measure(step, sizes=sizes)
            entries = min(_FAR, most - length - MAX_DRAFT_TOKENS - 1)
            per_entry = _per_entry(step, curve, past, entries) if entries >= 64 else per_entry
    return CostCurve(curve.sizes, curve.seconds, length=length, per_entry=per_entry, steady=curve.steady)


def _per_entry(step: Callable[[int], float], curve: CostCurve, past: Any, entries: int) -> tuple[float, float]:
    """What `entries` more in the cache add to a step, for each of them: once, and for each token of a row."""
    kv.extend(past, entries)
    added = []
    for tokens in (1, 32):
        step(tokens)
        seconds = min(step(tokens) for _ in range(3))
        added.append(max(seconds - curve(tokens), 0.0) / entries)
    each = max(added[1] - added[0], 0.0) / 31
    return max(added[0] - each, 0.0), each
