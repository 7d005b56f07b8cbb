"""Recurrent states, which cannot drop rejected drafts: kept from before a pass, and put back.

What was accepted is taken in again by the next pass, in front of its draft: so no pass is spent on repair.
"""

from __future__ import annotations

from typing import Any, cast
from weakref import WeakKeyDictionary

from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicCache

# Layers that hold such states, in releases that have them.
LINEAR = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())
# Layers that choose, by keys of their own, what is attended to: these are dropped with the entries, from the end.
INDEXED: tuple[Any, ...] = tuple(
    getattr(cache_utils, name) for name in ("DynamicIndexedLayer",) if hasattr(cache_utils, name)
)
KNOWN = tuple(
    getattr(cache_utils, name)
    for name in ("LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer")
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
