"""What a user calls: `accelerate(llama)` makes an ordinary `llama_cpp.Llama` decode through ADED.

`DraftModel` is for a stock `Llama(draft_model=...)`, which verifies drafts itself.
"""

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
from llama_cpp.llama_speculative import LlamaDraftModel
from numpy.typing import NDArray

from aded import drafters
from aded.batch import Limits, Outcomes
from aded.budget import CostCurve, FixedBudget
from aded.decoding import decode
from aded.deprecation import renamed_option
from aded.drafters.base import Drafter
from aded.drafters.predicted import predicted
from aded.drafters.sharing import Share, for_call
from aded.engines.base.options import MaxDraftTokens, budget_for
from aded.engines.llamacpp.cost import cost_curve, set_threads, threads_by_length
from aded.engines.llamacpp.engine import PATHS, LlamaEngine, clear
from aded.engines.llamacpp.exactness import chains_are_exact, exactness
from aded.errors import UnsupportedError
from aded.speculation import Speculator
from aded.stats import Stats
from aded.tree import DraftTree, Outcome

_MIN_PROBABILITY = 0.4  # of a chain: about where a token verified in vain costs as much as one accepted gains


def prepare(llama: Any, *, renew: bool = False) -> CostCurve:
    """Measure what a pass costs in this context on this machine; `accelerate`d calls do so at first use.

    What was in the cache is lost.

    Args:
        renew: measure again, whatever is known.
    """
    if not chains_are_exact(llama):
        widen(llama)
    clear(llama)
    llama.eval([0] * min(128, llama.n_ctx() // 2))
    return cost_curve(llama, llama.n_tokens, renew=renew)


def accelerate(
    llama: Any,
    *,
    drafter: str | Drafter = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    trees: bool | None = None,
    stats: Stats | None = None,
    share: Share | None = None,
    tenant: str | None = None,
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
        trees: whether to draft trees, or chains only. An accepted branch that was not the first lies elsewhere in the
            cache, and sums over it round otherwise. None: chains where no bit of any score then differs from decoding
            one token at a time (flash attention on a processor, see `Stats.exact`), else trees.
        stats: what decoding took is added to it.
        share, tenant: what others get of its calls, and on whose behalf they are; `aded.sharing` says it of some.
            `aded.predicting` says of some what their answers are expected to look like.
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
    for_call(shared, share, tenant)  # what cannot be is refused at once
    trees = not chains_are_exact(llama) if trees is None else trees
    if trees:
        widen(llama)
    plain = inspect.signature(llama.generate)

    def generate(*args: Any, **kwargs: Any) -> Iterator[int]:
        given = plain.bind(*args, **kwargs)
        given.apply_defaults()
        drafting = predicted(
            for_call(shared, share, tenant), None, 1, lambda text: llama.tokenize(text.encode(), False, False)
        )
        return _generate(llama, drafting, most, trees, stats, **given.arguments)

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
    if stats is not None:
        stats.exact = "rounding" if trees else exactness(llama)
    threads = threads_by_length(llama, llama.n_tokens) if max_draft_tokens == "auto" else None
    try:
        while True:
            engine = LlamaEngine(llama, pending, trees=trees, threads=threads)
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


class DraftModel(LlamaDraftModel):
    """Drafts the likeliest chain of a drafter, as far as it is likelier than not to pay.

    llama-cpp-python tells a draft model the tokens so far and nothing else: it learns from kept tokens only, and a
    draft is not a tree. `aded.llamacpp.accelerate` gives more.

    Args:
        drafter: a drafter or the name of one.
        max_draft_tokens: longest draft.
        min_probability: a token is drafted while the whole chain up to it has at least this probability.
        max_tokens, least: the old names of both.
    """

    def __init__(
        self,
        drafter: str | Drafter = "adaptive",
        *,
        max_draft_tokens: int = 10,
        min_probability: float = _MIN_PROBABILITY,
        max_tokens: int | None = None,
        least: float | None = None,
    ) -> None:
        most = renamed_option("max_tokens", max_tokens, "max_draft_tokens", max_draft_tokens, 10)
        likely = renamed_option("least", least, "min_probability", min_probability, _MIN_PROBABILITY)
        if most < 1 or not 0 <= likely <= 1:
            raise ValueError(
                f"max_draft_tokens must be at least 1 and min_probability from 0 to 1, not {most} and {likely}"
            )
        made = drafters.create(drafter) if isinstance(drafter, str) else drafter
        self._speculator = Speculator(made, FixedBudget(most, min_probability=likely))
        self._most = most
        self._known: NDArray[np.intc] = np.empty(0, np.intc)
        self._draft = DraftTree.empty()

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """The draft after these tokens, possibly empty."""
        known = len(self._known)
        if 0 < known < len(input_ids) and np.array_equal(input_ids[:known], self._known):
            self._speculator.observe([0], Outcomes([Outcome(input_ids[known:].tolist(), self._draft)]))
        else:
            self._speculator.start(0, input_ids.tolist())
        self._known = input_ids.copy()
        (self._draft,) = self._speculator.propose([0], Limits([self._most], nodes=self._most, trees=False))
        return self._draft.tokens.astype(np.intc)
