"""What a user calls: `accelerate(llama)` makes a `llama_cpp.Llama` decode through ADED, `patch()` all that follow."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import Any

import llama_cpp

from aded import drafters
from aded.budget import CostCurve
from aded.deprecation import renamed_option
from aded.drafters.base import Drafter
from aded.drafters.predicted import predicted
from aded.drafters.sharing import Share, for_call
from aded.engines.base.options import MaxDraftTokens
from aded.engines.llamacpp.contexts import keep_states, widen
from aded.engines.llamacpp.cost import cost_curve, set_threads
from aded.engines.llamacpp.engine import clear, release
from aded.engines.llamacpp.exactness import on_processor
from aded.engines.llamacpp.recurrent import is_recurrent
from aded.engines.llamacpp.stream import stream
from aded.errors import UnsupportedError
from aded.stats import Stats


def prepare(llama: Any, *, renew: bool = False) -> CostCurve:
    """Measure what a pass costs in this context on this machine; `accelerate`d calls do so at first use.

    What was in the cache is lost.

    Args:
        renew: measure again, whatever is known.
    """
    if _takes_trees(llama, None):
        widen(llama)
    clear(llama)
    llama.eval([0] * min(128, llama.n_ctx() // 2))
    return cost_curve(llama, llama.n_tokens, renew=renew)


@dataclass(frozen=True)
class _Settings:
    """Those of `accelerate`."""

    drafter: str | Drafter
    max_draft_tokens: MaxDraftTokens
    trees: bool | None
    rollback: bool
    stats: Stats | None
    share: Share | None
    tenant: str | None


def accelerate(
    llama: Any,
    *,
    drafter: str | Drafter = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    trees: bool | None = None,
    rollback: bool = False,
    stats: Stats | None = None,
    share: Share | None = None,
    tenant: str | None = None,
    nodes: MaxDraftTokens | None = None,
) -> Callable[[], None]:
    """Make `llama.generate`, and with it completions, chat and streaming, decode through ADED; returns what undoes it.

    Its samplers, grammars, processors and stopping criteria choose every token, each asked once, in order, and when the
    token is asked for, so that greedy output and samples with a seed are what they were. Copies and pickles of the
    `Llama` are accelerated as well. Programs that call `llama_decode` themselves (guidance) are not reached.

    Args:
        llama: a `llama_cpp.Llama`.
        drafter: a drafter or the name of one; it goes on learning from call to call.
        max_draft_tokens: most draft tokens verified in a step, or "auto": as many as pay on this machine (measured at
            first use, see `prepare`).
        trees: whether to draft trees, or chains only. Trees need a context of several sequences: it is made anew, so
            that what was in its cache is evaluated again, and pointers to the one before are no longer valid. An
            accepted branch that was not the first lies elsewhere in the cache, and sums over it round otherwise. None:
            chains on a processor, where a second token costs almost a second pass, and trees elsewhere.
        rollback: let llama.cpp keep the recurrent states of the last 8 tokens, in architectures where it can, in a
            context made anew. Else the state from before a draft is copied, and put back where some of it is rejected.
        stats: what decoding took is added to it.
        share, tenant: what others get of its calls, and on whose behalf they are; `aded.sharing` says it of some.
            `aded.predicting` says of some what their answers are expected to look like.
        nodes: the old name of `max_draft_tokens`.

    Raises:
        UnsupportedError: the model makes embeddings, has a draft model of its own or a `generate` of its own, or is
            recurrent and trees are asked for; or what was set on its context would be lost.
    """
    most = renamed_option("nodes", nodes, "max_draft_tokens", max_draft_tokens, "auto")
    _refuse(llama, trees=bool(trees))
    restore(llama)
    asked = _Settings(drafter, most, trees, rollback, stats, share, tenant)
    made = replace(asked, drafter=drafters.create(drafter) if isinstance(drafter, str) else drafter)
    for_call(made.drafter, share, tenant)  # type: ignore[arg-type]  # what cannot be is refused at once
    if _takes_trees(llama, trees):
        widen(llama)
    if rollback and is_recurrent(llama):
        keep_states(llama)
    plain: Any = type(llama)
    llama.__class__ = _subclass(plain)
    llama._aded, llama._aded_asked = made, asked
    reference = weakref.ref(llama)

    def undo() -> None:
        if (target := reference()) is not None:
            restore(target)

    return undo


def _refuse(llama: Any, *, trees: bool) -> None:
    if not isinstance(llama, llama_cpp.Llama):
        raise UnsupportedError(f"llama_cpp.Llama objects are accelerated here, not a {type(llama).__name__}")
    reasons = {
        "a recurrent state has one past, which takes chains; leave out trees=True": trees and is_recurrent(llama),
        "a context for embeddings decodes no text": llama.context_params.embeddings,
        "it has a draft model of its own; make it without draft_model": llama.draft_model is not None,
        "its class generates in a way of its own": _plain_class(llama).generate is not llama_cpp.Llama.generate,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(reason)


def _takes_trees(llama: Any, trees: bool | None) -> bool:
    return not (on_processor(llama) or is_recurrent(llama)) if trees is None else trees


def _plain_class(llama: Any) -> Any:
    """A Llama's class as it was before `accelerate`."""
    return getattr(type(llama), "_aded_plain_class", type(llama))


@cache
def _subclass(plain: Any) -> type:
    """A subclass of a Llama's class, with its name, that generates through ADED."""
    same = {name: getattr(plain, name) for name in ("__module__", "__doc__", "__qualname__")}
    return type(plain.__name__, (_Accelerated, plain), {"_aded_plain_class": plain, **same})


class _Accelerated:
    """What an accelerated `Llama` does otherwise."""

    _aded: _Settings
    _aded_asked: _Settings  # its drafter by name, where it was: a copy in another process makes its own

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[int]:
        settings, llama = self._aded, self
        given = inspect.signature(llama_cpp.Llama.generate).bind(llama, *args, **kwargs)
        given.apply_defaults()
        arguments = {name: value for name, value in given.arguments.items() if name != "self"}
        assert not isinstance(settings.drafter, str)
        drafting = predicted(
            for_call(settings.drafter, settings.share, settings.tenant), None, 1, lambda text: _ids(llama, text)
        )
        trees = _takes_trees(llama, settings.trees)
        return stream(llama, drafting, settings.max_draft_tokens, trees, settings.stats, **arguments)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled with what it was asked for; a drafter by name is another's own."""
        return _made_again, (_plain_class(self), self.__getstate__(), replace(self._aded_asked, stats=None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy learns with the same drafter."""
        copied = _made_again(_plain_class(self), deepcopy(self.__getstate__(), memo), self._aded)
        memo[id(self)] = copied
        return copied


def _ids(llama: Any, text: str) -> list[int]:
    ids: list[int] = llama.tokenize(text.encode(), False, False)
    return ids


def _made_again(plain: Any, state: Any, settings: _Settings) -> Any:
    """A Llama from what its class keeps of it, accelerated."""
    llama = plain.__new__(plain)
    llama.__setstate__(state)
    accelerate(llama, **vars(settings))
    return llama


def restore(llama: Any) -> None:
    """Make `llama.generate` what it was before `accelerate`; nothing happens to one never accelerated."""
    if vars(llama).pop("_aded", None) is not None:
        del llama._aded_asked
        llama.__class__ = _plain_class(llama)
        if llama._ctx.ctx is not None:  # it was not closed meanwhile
            release(llama)
            set_threads(llama, llama.n_threads)


def patch(**options: Any) -> Callable[[], None]:
    """Accelerate every `llama_cpp.Llama` made from now on, by whatever program; returns what undoes it.

    Those that cannot be accelerated (for embeddings, with a draft model) are made as before, with a warning.

    Args:
        options: as for `accelerate`; a drafter by name is made for each `Llama`.
    """
    unpatch()
    plain = llama_cpp.Llama.__init__
    inspect.signature(accelerate).bind(None, **options)  # a wrong option is an error now

    @wraps(plain)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        try:
            accelerate(self, **options)
        except UnsupportedError as error:
            warnings.warn(f"this Llama decodes without ADED: {error}", stacklevel=2)

    init._aded_plain = plain  # type: ignore[attr-defined]
    llama_cpp.Llama.__init__ = init  # type: ignore[method-assign]
    return unpatch


def unpatch() -> None:
    """Undo `patch`; a `Llama` that was accelerated stays so."""
    made = llama_cpp.Llama.__init__
    llama_cpp.Llama.__init__ = getattr(made, "_aded_plain", made)  # type: ignore[method-assign]
