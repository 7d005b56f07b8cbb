"""Recurrent states, which cannot drop rejected drafts: kept from before a pass, and put back.

What was accepted is taken in again by the next pass, in front of its draft: so no pass is spent on repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicCache

from aded.engines.transformers.patches import ThreadsPatch

# Layers that hold such states, in releases that have them.
LINEAR = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())
# Layers that choose, by keys of their own, what is attended to: these are dropped with the entries, from the end.
INDEXED: tuple[Any, ...] = tuple(
    getattr(cache_utils, name) for name in ("DynamicIndexedLayer",) if hasattr(cache_utils, name)
)
KNOWN = tuple(
    getattr(cache_utils, name)
    for name in (
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
        "LinearAttentionAndSlidingWindowAttentionLayer",
    )
    if hasattr(cache_utils, name)
)

MOST_AGAIN = 8  # tokens taken in again; with more, a pass takes them in without a draft, which ends it


_FOUND: WeakKeyDictionary[Any, set[type]] = WeakKeyDictionary()


def is_recurrent(model: Any) -> bool:
    """Whether some layers keep a state, or the last inputs of a convolution, in place of entries."""
    return bool(getattr(model, "_is_stateful", False)) or any(issubclass(kind, LINEAR) for kind in _kinds(model))


def takes_chains_only(model: Any) -> bool:
    """Whether what some layers keep has one past: a state, or keys that choose what is attended to."""
    return is_recurrent(model) or any(issubclass(kind, INDEXED) for kind in _kinds(model))


def _kinds(model: Any) -> set[type]:
    """The kinds of layer that a cache for this model has."""
    if model not in _FOUND:
        made = (
            None if model.config.is_encoder_decoder else DynamicCache(config=model.config.get_text_config(decoder=True))
        )
        _FOUND[model] = {type(layer) for layer in cast("list[Any]", made.layers)} if made is not None else set()
    return _FOUND[model]


class Snapshot:
    """The states of a cache as they are now."""

    def __init__(self, cache: Cache) -> None:
        self._kept: list[tuple[dict[int, Any], int, Any]] = []  # where a state lies, and a copy
        for layer in cast("list[Any]", cache.layers):
            if isinstance(layer, LINEAR):
                for states in (layer.conv_states, layer.recurrent_states):
                    self._kept += [(states, i, state.clone()) for i, state in states.items() if state is not None]

    def restore(self) -> None:
        """Put them back. It can be done once."""
        for states, i, state in self._kept:
            states[i] = state


_NO_LIMIT = (0.0, float("inf"))
_LIMITS, _MIXERS = ThreadsPatch(), ThreadsPatch()


def _limit(layer: Any) -> Any:
    return _NO_LIMIT if _LIMITS.on else vars(layer)["time_step_limit"]


@contextmanager
def steps_without_limit(model: Any) -> Iterator[None]:
    """Within it, and in this thread, Mamba 2 layers do not limit the steps of their states.

    The library limits them in passes over several tokens, and not in those over one, which decode.
    """
    layers = [x for x in model.modules() if vars(x).get("time_step_limit", _NO_LIMIT) != _NO_LIMIT]
    if not layers:
        yield
        return
    kinds = [type(layer) for layer in layers]

    def put() -> None:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = type(kind.__name__, (kind,), {"time_step_limit": property(_limit)})

    def take() -> None:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind

    with _LIMITS.to(model, put, take):
        yield


# Models whose layers with a state begin it anew in a pass over several tokens (Mamba, Jamba, Zamba).
_FORGETFUL: WeakSet[Any] = WeakSet()


def begins_anew(model: Any, agrees: Callable[[], bool]) -> bool:
    """Whether a trial agrees if layers with a state are called `token_by_token`, as they are from then on."""
    if model in _FORGETFUL or not _mixers(model):
        return False
    _FORGETFUL.add(model)
    if not (found := agrees()):
        _FORGETFUL.discard(model)
    return found


def token_by_token(model: Any) -> AbstractContextManager[None]:
    """Within it, and in this thread, layers that would begin their state anew are called once for each token of a pass.

    The rest of the model takes all tokens at once.
    """
    mixers = _mixers(model) if model in _FORGETFUL else []
    return _MIXERS.wrap(model, [(mixer, "forward", _each) for mixer in mixers])


def _mixers(model: Any) -> list[Any]:
    """Layers with a convolution over tokens, and a place in the cache."""
    return [
        x
        for x in model.modules()
        if hasattr(x, "layer_idx") and isinstance(vars(x)["_modules"].get("conv1d"), torch.nn.Conv1d)
    ]


def _each(forward: Callable[..., torch.Tensor], hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """What `forward` makes of (rows, n, width), a token after the other. Masks are for prompts, which have padding."""
    cached = any(isinstance(given, Cache) for given in kwargs.values())  # releases call it by several names
    if not (_MIXERS.on and cached) or hidden_states.shape[1] == 1:
        return forward(hidden_states, **kwargs)
    kwargs["attention_mask"] = None
    return torch.cat([forward(token, **kwargs) for token in hidden_states.split(1, dim=1)], dim=1)


@contextmanager
def library_states() -> Iterator[None]:
    """Within it, and in this thread, states are kept as the library does: so prompts are taken in."""
    with _LIMITS.off(), _MIXERS.off():
        yield
