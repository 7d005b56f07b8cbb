"""Contexts of several sequences, which trees need, in place of the one that a `Llama` has."""

from __future__ import annotations

import ctypes
from contextlib import closing
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import _internals
from numpy.typing import NDArray

from aded.engines.llamacpp.engine import PATHS, LlamaEngine, clear, fill
from aded.errors import UnsupportedError


def widen(llama: Any) -> None:
    """Give a `Llama` a context that holds several sequences in one cache. What was in its cache is lost.

    Raises:
        UnsupportedError: there is no memory for a second context, or something was set on the first that is not known
            here and would be lost: adapters, a control vector. The `Llama` is then as it was.
    """
    params = llama.context_params
    paths = min(PATHS, llama.n_batch)  # llama.cpp wants a batch to have room for a token of each sequence
    if params.n_seq_max >= paths and params.kv_unified:
        return
    before = _scores(llama)
    kept = params.n_seq_max, params.kv_unified
    params.n_seq_max, params.kv_unified = paths, True
    old = llama._ctx
    try:
        made = _internals.LlamaContext(model=llama._model, params=params, verbose=llama.verbose)
    except ValueError as error:
        params.n_seq_max, params.kv_unified = kept
        raise UnsupportedError("there is no memory for a context of several sequences; pass trees=False") from error
    llama._ctx = made
    _set_adapter(llama)
    if not np.array_equal(before, _scores(llama)):
        llama._ctx = old
        params.n_seq_max, params.kv_unified = kept
        made.close()  # type: ignore[no-untyped-call]
        raise UnsupportedError(
            "adapters or a control vector were set on the context, which trees need anew; set them after `accelerate`, "
            "or pass trees=False"
        )
    llama._stack.enter_context(closing(made))
    old.close()


def _set_adapter(llama: Any) -> None:
    """The adapter that the `Llama` was made with."""
    if llama._lora_adapter is not None:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(llama._lora_adapter)
        scales = (ctypes.c_float * 1)(llama.lora_scale)
        if llama_cpp.llama_set_adapters_lora(llama._ctx.ctx, adapters, 1, scales):
            raise UnsupportedError(f"the adapter {llama.lora_path} does not fit a context for several sequences")


def _scores(llama: Any) -> NDArray[np.float32]:
    """float32 logits (vocabulary,) of a token by itself; nothing is left in the cache."""
    clear(llama)
    fill(llama, 0, 1)
    scores = LlamaEngine(llama, []).logits(0).copy()
    clear(llama)
    return scores
