"""What a user calls: `accelerate(llama)` makes an ordinary `llama_cpp.Llama` decode through ADED."""

from __future__ import annotations

import ctypes
import inspect
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import _internals

from aded import drafters
from aded.batch import Outcomes
from aded.budget.cost import CostCurve
from aded.decoding import decode
from aded.deprecation import renamed_option
from aded.drafters.base import Drafter
from aded.engines.base.options import MaxDraftTokens, budget_for
from aded.engines.llamacpp.cost import cost_curve, set_threads, single_threads
from aded.engines.llamacpp.engine import PATHS, LlamaEngine, clear
from aded.errors import UnsupportedError
from aded.speculation import Speculator
from aded.stats import Stats

__all__ = ["accelerate", "prepare", "restore", "widen"]


def prepare(llama: Any, *, renew: bool = False) -> CostCurve:
    """Measure what a pass costs in this context on this machine; `accelerate`d calls do so at first use.

    What was in the cache is lost.

    Args:
        renew: measure again, whatever is known.
    """
    widen(llama)
    clear(llama)
    llama.eval([0] * min(128, llama.n_ctx() // 2))
    return cost_curve(llama, llama.n_tokens, renew=renew)


def accelerate(
    llama: Any,
    *,
    drafter: str | Drafter = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    trees: bool = True,
    stats: Stats | None = None,
    nodes: MaxDraftTokens | None = None,
) -> Callable[[], None]:
    """Make `llama.generate`, and with it completions, chat and streaming, decode through ADED; returns what undoes it.

    Its samplers, grammars, processors and stopping criteria choose every token, each asked once and in order, so that
    greedy output and samples with a seed are what they were. The context is made anew for several sequences: what was
    in its cache is evaluated again by the next call.

    Args:
        llama: a `llama_cpp.Llama`.
        drafter: a drafter or the name of one; it goes on learning from call to call.
        max_draft_tokens: most draft tokens verified in a step, or "auto": as many as pay on this machine (measured at
            first use, see `prepare`).
        trees: draft trees; False: chains only. An accepted branch that was not the first lies elsewhere in the cache,
            and sums over it round otherwise; with chains and flash attention, on a processor, no bit of any score
            differs from decoding one token at a time.
        stats: what decoding took is added to it.
        nodes: the old name of `max_draft_tokens`.

    Raises:
        UnsupportedError: the model is recurrent, makes embeddings, or has a draft model of its own.
    """
    most = renamed_option("nodes", nodes, "max_draft_tokens", max_draft_tokens, "auto")
    if not isinstance(llama, llama_cpp.Llama):
        raise UnsupportedError(f"llama_cpp.Llama objects are accelerated here, not a {type(llama).__name__}")
    reasons = {
        "a recurrent state cannot drop rejected drafts": llama._is_recurrent or llama._is_hybrid,
        "a context for embeddings decodes no text": llama.context_params.embeddings,
        "it has a draft model of its own; make it without draft_model": llama.draft_model is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(reason)
    restore(llama)
    shared = drafters.create(drafter) if isinstance(drafter, str) else drafter
    widen(llama)
    plain = inspect.signature(llama.generate)

    def generate(*args: Any, **kwargs: Any) -> Iterator[int]:
        given = plain.bind(*args, **kwargs)
        given.apply_defaults()
        return _generate(llama, shared, most, trees, stats, **given.arguments)

    vars(llama)["generate"] = generate
    reference = weakref.ref(llama)

    def undo() -> None:
        if (target := reference()) is not None:
            restore(target)

    return undo


def restore(llama: Any) -> None:
    """Make `llama.generate` what it was before `accelerate`; nothing happens to one never accelerated."""
    if vars(llama).pop("generate", None) is not None and llama._ctx.ctx is not None:  # it was not closed meanwhile
        set_threads(llama, llama.n_threads)


def widen(llama: Any) -> None:
    """Give it a context that holds several sequences in one cache."""
    params = llama.context_params
    if params.n_seq_max >= PATHS and params.kv_unified:
        return
    params.n_seq_max, params.kv_unified = PATHS, True
    llama._ctx.close()
    llama._ctx = llama._stack.enter_context(
        closing(_internals.LlamaContext(model=llama._model, params=params, verbose=llama.verbose))
    )
    if llama._lora_adapter is not None:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(llama._lora_adapter)
        scales = (ctypes.c_float * 1)(llama.lora_scale)
        if llama_cpp.llama_set_adapters_lora(llama._ctx.ctx, adapters, 1, scales):
            raise UnsupportedError(f"the adapter {llama.lora_path} does not fit a context for several sequences")
    llama.reset()


def _generate(
    llama: Any,
    drafter: Drafter,
    max_draft_tokens: MaxDraftTokens,
    trees: bool,
    stats: Stats | None,
    tokens: Sequence[int],
    reset: bool,
    stopping_criteria: Any,
    **sampling: Any,
) -> Iterator[int]:
    """What `Llama.generate` yields; between two tokens, and afterwards, the Llama is as that leaves it."""
    llama._mirostat_mu = ctypes.c_float(2.0 * sampling["mirostat_tau"])
    llama._sampler = llama._init_sampler(**sampling)
    pending = _not_in_cache(llama, list(tokens), reset)
    if max_draft_tokens == "auto":
        set_threads(llama, single_threads(llama, llama.n_tokens))
    try:
        while True:
            engine = LlamaEngine(llama, pending, trees=trees)
            budget = budget_for(
                max_draft_tokens,
                drafter,
                curve=lambda: cost_curve(llama, llama.n_tokens),
                length=lambda: engine.length,  # noqa: B023
            )
            speculator = Speculator(drafter, budget, stats=stats)
            speculator.start(0, [*llama.input_ids[: llama.n_tokens].tolist(), *pending])
            if (yield from _hand_over(llama, engine, decode(engine, speculator), stopping_criteria)):
                return
            pending = [engine.last]
    finally:
        LlamaEngine.trim_to(llama, llama.n_tokens)
        llama._requires_eval = True  # the last pass was over more than the last token


def _hand_over(
    llama: Any, engine: LlamaEngine, steps: Iterator[Outcomes], stopping_criteria: Any
) -> Generator[int, Any, bool]:
    """Yield the tokens of all steps one by one; returns whether a criterion ended them.

    What a caller sends in is a draft to `Llama.generate`, and changes nothing in what comes out: we have our own.
    """
    for (outcome,) in steps:
        before = engine.length - len(outcome.emitted)
        for number, (token, output) in enumerate(zip(outcome.emitted, engine.chosen, strict=True), start=before):
            llama.n_tokens = number
            if stopping_criteria is not None and stopping_criteria(llama.input_ids[:number], engine.logits(output)):
                return True
            yield token
    return False


def _not_in_cache(llama: Any, tokens: list[int], reset: bool) -> list[int]:
    """The tokens of a prompt still to be evaluated: its beginning may be in the cache, from a turn before."""
    if not reset:
        return tokens
    known = llama.input_ids[: llama.n_tokens]
    both = min(len(known), len(tokens) - 1)  # the last is evaluated in any case, for its logits
    differs = np.flatnonzero(known[:both] != np.array(tokens[:both], dtype=known.dtype))
    reused = int(differs[0]) if len(differs) else max(both, 0)
    if reused and llama._ctx.kv_cache_seq_rm(-1, reused, -1):
        llama.n_tokens = reused
        return tokens[reused:]
    llama.reset()
    return tokens
