"""Contexts that hold more than the one a `Llama` was made with: several sequences, or states of the last tokens."""

from __future__ import annotations

import ctypes
from contextlib import closing
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import _internals
from numpy.typing import NDArray

from aded.engines.llamacpp.engine import PATHS, LlamaEngine, clear, fill
from aded.engines.llamacpp.recurrent import ROLLBACK
from aded.errors import UnsupportedError


def widen(llama: Any) -> None:
    """Give a `Llama` a context that holds several sequences in one cache, see `_renew`."""
    paths = min(PATHS, llama.n_batch)  # llama.cpp wants a batch to have room for a token of each sequence
    if llama.context_params.n_seq_max < paths or not llama.context_params.kv_unified:
        _renew(llama, {"n_seq_max": paths, "kv_unified": True}, "trees")


def keep_states(llama: Any) -> None:
    """Give it one that keeps recurrent states of the last tokens, if the model's architecture can; see `_renew`."""
    if llama.context_params.n_rs_seq < ROLLBACK:
        _renew(llama, {"n_rs_seq": ROLLBACK}, "rollback")


def _renew(llama: Any, changes: dict[str, Any], option: str) -> None:
    """Make the context anew with these parameters. What was in its cache is lost.

    Args:
        option: of `accelerate`, which asks for it.

    Raises:
        UnsupportedError: there is no memory for a second context, or something was set on the first that is not known
            here and would be lost: adapters, a control vector. The `Llama` is then as it was.
    """
    params, old, before = llama.context_params, llama._ctx, _scores(llama)
    kept = {name: getattr(params, name) for name in changes}

    def change(values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(params, name, value)

    change(changes)
    try:
        made = _internals.LlamaContext(model=llama._model, params=params, verbose=llama.verbose)
    except ValueError as error:
        change(kept)
        raise UnsupportedError(f"there is no memory for a second context; pass {option}=False") from error
    llama._ctx = made
    _set_adapter(llama)
    if not np.array_equal(before, _scores(llama)):
        llama._ctx = old
        change(kept)
        made.close()  # type: ignore[no-untyped-call]
        raise UnsupportedError(
            f"adapters or a control vector were set on the context, which has to be made anew for {option}; set them "
            f"after `accelerate`, or pass {option}=False"
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
