"""What `Llama.generate` yields, decoded through the loop."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from aded.drafters.base import Drafter
from aded.engines.base.options import MaxDraftTokens, budget_for
from aded.engines.llamacpp.cost import cost_curve, threads_by_length
from aded.engines.llamacpp.engine import LlamaEngine, release
from aded.engines.llamacpp.exactness import exactness
from aded.engines.llamacpp.recurrent import RecurrentEngine, is_recurrent
from aded.speculation import Speculator
from aded.stats import Stats
from aded.streaming import decode_one


def stream(
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
    """The tokens after `tokens`; between two of them, and afterwards, the Llama is as its own `generate` leaves it.

    What a caller sends in is a draft to `Llama.generate`, and changes nothing in what comes out: we have our own.
    """
    llama._mirostat_mu = ctypes.c_float(2.0 * sampling["mirostat_tau"])
    llama._sampler = llama._init_sampler(**sampling)
    release(llama)
    pending = _not_in_cache(llama, list(tokens), reset)
    if stats is not None:
        stats.exact = "rounding" if trees else exactness(llama)
    threads = threads_by_length(llama, llama.n_tokens) if max_draft_tokens == "auto" else None
    while True:
        kind = RecurrentEngine if is_recurrent(llama) else LlamaEngine
        engine = kind(llama, pending, trees=trees, threads=threads)
        budget = budget_for(
            max_draft_tokens,
            drafter,
            curve=lambda: cost_curve(llama, llama.n_tokens),
            length=lambda: engine.length,  # noqa: B023
        )
        speculator = Speculator(drafter, budget, stats=stats)
        speculator.start(0, [*llama.input_ids[: llama.n_tokens].tolist(), *pending])
        try:
            with closing(decode_one(engine, speculator)) as decoded:
                for token in decoded:
                    known = llama.input_ids[: llama.n_tokens]
                    if stopping_criteria is not None and stopping_criteria(known, engine.logits(engine.output)):
                        return
                    yield token
                    engine.check_current()
        finally:
            engine.abandon()
        # Whether to go on after an end is for the caller to say. A state may be further back than the last token.
        pending = llama.input_ids[llama.n_tokens : engine.length].tolist()


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
