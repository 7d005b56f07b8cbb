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
KNOWN = tuple(
    getattr(cache_utils, name)
    for name in ("LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer")
    if hasattr(cache_utils, name)
)

MOST_AGAIN = 8  # tokens taken in again; with more, a pass takes them in without a draft, which ends it


_FOUND: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def is_recurrent(model: Any) -> bool:
    """Whether some layers keep a state, or the last inputs of a convolution, in place of entries."""
    if model not in _FOUND:
        found = bool(getattr(model, "_is_stateful", False))
        if not found and not model.config.is_encoder_decoder:
            layers = cast("list[Any]", DynamicCache(config=model.config.get_text_config(decoder=True)).layers)
            found = any(isinstance(layer, LINEAR) for layer in layers)
        _FOUND[model] = found
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
