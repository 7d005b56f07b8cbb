"""What is promised of the bits of an output: what llama.cpp's kernels do, checked by a probe of three passes."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from aded.engines.llamacpp.engine import LlamaEngine, fill
from aded.engines.llamacpp.recurrent import is_recurrent
from aded.stats import Exactness

# Entries up to which threads change no bit of flash attention on a processor: for one token llama.cpp shares longer
# caches (512 entries, counted in steps of 256) among its threads and adds up their parts.
_SHARED = 256

_FOUND: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def chains_are_exact(llama: Any) -> bool:
    """Whether chains can have the bits that llama.cpp computes token by token: with flash attention, on a processor,
    and where one thread takes all entries of a cache for one token."""
    flash = llama.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return flash and on_processor(llama) and (llama.n_threads == 1 or llama.n_ctx() <= _SHARED)


def on_processor(llama: Any) -> bool:
    """Whether all of it runs on the processor."""
    offloads = bool(llama.model_params.n_gpu_layers or llama.context_params.offload_kqv)
    return not (llama_cpp.llama_supports_gpu_offload() and offloads)


def is_shared(entries: int) -> bool:
    """Whether threads share the attention of one token that has so many entries before it."""
    return entries >= _SHARED


def exactness(llama: Any) -> Exactness:
    """What holds for chains in this context, with the threads it was made with.

    The probe takes two tokens at once and one by one, behind what is in the cache; it runs once for a `Llama`.
    """
    if is_recurrent(llama) or not chains_are_exact(llama) or llama.n_ctx() - llama.n_tokens < 2 or llama.n_batch < 2:
        return "rounding"
    if llama not in _FOUND:
        _FOUND[llama] = _probe(llama)
    return "generate" if _FOUND[llama] else "rounding"


def _probe(llama: Any) -> bool:
    start = llama.n_tokens

    def scores(first: int, tokens: int) -> NDArray[np.float32]:
        fill(llama, first, tokens)
        return LlamaEngine(llama, []).logits(tokens - 1).copy()

    together = scores(start, 2)
    scores(start, 1)
    alone = scores(start + 1, 1)
    LlamaEngine.trim_to(llama, start)
    return bool(np.array_equal(together.view(np.int32), alone.view(np.int32)))
