"""What a pass costs in this context on this machine, and how many threads a pass over one token should have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp

from aded.budget.cost import SIZES, CostCurve
from aded.engines.base.cost_files import kept_curve, processor
from aded.engines.llamacpp.engine import blank
from aded.engines.llamacpp.exactness import chains_are_exact, is_shared
from aded.engines.llamacpp.recurrent import is_recurrent, rolls_back, timed

_LESS = 0.95  # of the time, for other threads than the caller's to be taken


def cost_curve(llama: Any, start: int, *, renew: bool = False) -> CostCurve:
    """Step times behind the first `start` entries of the cache; kept on disk by all they depend on.

    Args:
        renew: measure again, whatever is known.
    """
    room = min(llama.n_ctx() - start, llama.n_batch)
    if rolls_back(llama):
        room = min(room, 1 + int(llama_cpp.llama_n_rs_seq(llama._ctx.ctx)))
    sizes = [size for size in SIZES if size <= room]
    if len(sizes) < 2:
        return CostCurve([1, 2], [1.0, 1e6])  # no room for a draft
    threads = single_threads(llama, start), llama.n_threads_batch
    measure = partial(_measure, llama, start, sizes, threads)
    if sizes[-1] < SIZES[-1] and not rolls_back(llama):
        return measure()  # near the end of the context: nothing to keep
    return kept_curve(llama, _conditions(llama, threads), measure, on_disk=True, renew=renew)


def single_threads(llama: Any, start: int) -> int:
    """Threads for passes over one token: the caller's, or as many as for a batch where that is clearly faster and
    changes no bit that is promised.

    llama-cpp-python takes half of the cores for one token unless told otherwise, which is right where two of them share
    arithmetic units, and not elsewhere. Measured once and kept on disk.
    """
    mine, batch = int(llama.n_threads), int(llama.n_threads_batch)
    if mine == batch or llama.n_ctx() - start < 2 or (chains_are_exact(llama) and is_shared(start)):
        return mine
    seconds = []
    for threads in ((mine, batch), (batch, batch)):
        conditions = _conditions(llama, threads) | {"single": True}
        measure = partial(_measure, llama, start, [1], threads)
        seconds.append(kept_curve(llama, conditions, measure, on_disk=True)(1))
    return batch if seconds[1] < _LESS * seconds[0] else mine


def threads_by_length(llama: Any, start: int) -> Callable[[int], int]:
    """Threads for a pass over one token, by the entries before it, for a sequence that begins with `start` of them."""
    first, exact = single_threads(llama, start), chains_are_exact(llama)
    return lambda entries: int(llama.n_threads) if exact and is_shared(entries) else first


def set_threads(llama: Any, single: int) -> None:
    """Let passes over one token run on so many threads."""
    llama_cpp.llama_set_n_threads(llama._ctx.ctx, single, llama.n_threads_batch)


def _measure(llama: Any, start: int, sizes: Sequence[int], threads: tuple[int, int]) -> CostCurve:
    def step(tokens: int) -> float:
        if is_recurrent(llama):
            return timed(llama, start, tokens)
        started = perf_counter()
        blank(llama, start, tokens)
        return perf_counter() - started

    set_threads(llama, threads[0])
    return CostCurve.measure(step, sizes=sizes, limit_s=2.0 if len(sizes) > 1 else 0.3, trials=False)


def _conditions(llama: Any, threads: tuple[int, int]) -> dict[str, Any]:
    """All that step times depend on. The context's size is not among them, what is in it hardly matters here."""
    params, file = llama.context_params, Path(llama.model_path)
    stamp = file.stat() if file.is_file() else None
    return {
        "model": str(file.absolute()),
        "stamp": None if stamp is None else [stamp.st_size, stamp.st_mtime_ns],
        "threads": list(threads),
        "flash": int(params.flash_attn_type),
        "cache": [int(params.type_k), int(params.type_v), bool(params.offload_kqv)],
        "states": int(llama_cpp.llama_n_rs_seq(llama._ctx.ctx)),
        "layers on devices": int(llama.model_params.n_gpu_layers),
        "system": f"{processor()} {llama_cpp.llama_print_system_info().decode()}",
        "llama-cpp-python": llama_cpp.__version__,
    }
