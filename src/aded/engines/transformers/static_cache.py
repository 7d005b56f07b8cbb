"""A pool of static caches, kept from call to call: a compiled pass knows their place in memory."""

from __future__ import annotations

from typing import Any, cast
from weakref import WeakKeyDictionary

from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

__all__ = ["StaticCachePool"]

_LEAST = 512  # entries; each further size is twice the one before, so that few are compiled
_SPARE: WeakKeyDictionary[Any, list[list[StaticLayer]]] = WeakKeyDictionary()


class StaticCachePool:
    """Puts a growing cache's entries into layers of fixed size and, in the end, back.

    Layers that a call no longer uses are kept with the model for the next; calls at the same time have their own. A
    cache that came with a fixed size is left as it is.
    """

    def __init__(self, model: Any) -> None:
        self._spare = _SPARE.setdefault(model, [])
        self._taken: list[StaticLayer] = []

    @staticmethod
    def sizes(first: int, last: int) -> list[int]:
        """The sizes a cache has, one after the other, as it grows from `first` entries to `last`."""
        sizes = [_LEAST]
        while sizes[-1] < last:
            sizes.append(2 * sizes[-1])
        return [size for size in sizes if size >= first]

    def take(self, cache: Cache, more: int) -> None:
        """See to it that `more` entries fit."""
        layers = cast("list[Any]", cache.layers)
        growing = [i for i, layer in enumerate(layers) if layer.is_initialized and type(layer) is DynamicLayer]
        ours = [i for i, layer in enumerate(layers) if any(layer is x for x in self._taken)]
        places = growing or ours
        if not places:
            return
        need = int(layers[places[0]].get_seq_length()) + more
        if not growing and need <= self._taken[0].max_cache_len:
            return
        size = self.sizes(need, need)[0]
        fixed: list[Any] = self._find(size, [layers[i] for i in places])
        for i, layer in zip(places, fixed, strict=True):
            used = int(layers[i].get_seq_length())
            layer.keys[:, :, :used] = layers[i].keys[:, :, :used]
            layer.values[:, :, :used] = layers[i].values[:, :, :used]
            layer.cumulative_length.fill_(used)
            layers[i] = layer
        self._drop()
        self._taken = fixed

    def give_back(self, cache: Cache) -> None:
        """Copy the entries into growing layers, and keep the fixed ones for the next call."""
        for i, layer in enumerate(cast("list[Any]", cache.layers)):
            if any(layer is x for x in self._taken):
                used, plain = int(layer.get_seq_length()), DynamicLayer()
                plain.lazy_initialization(layer.keys, layer.values)
                plain.keys, plain.values = layer.keys[:, :, :used].clone(), layer.values[:, :, :used].clone()
                cache.layers[i] = plain
        self._drop()

    def _drop(self) -> None:
        if self._taken:
            self._spare[:] = [*self._spare[-3:], self._taken]
        self._taken = []

    def _find(self, size: int, like: list[Any]) -> list[StaticLayer]:
        shapes = [(size, layer.dtype, layer.device) for layer in like]
        for kept in list(self._spare):
            if [(x.max_cache_len, x.dtype, x.device) for x in kept] == shapes:
                try:
                    self._spare.remove(kept)
                except ValueError:  # another thread was faster
                    continue
                return kept
        made = [StaticLayer(max_cache_len=size) for _ in like]
        for fixed, layer in zip(made, like, strict=True):
            fixed.lazy_initialization(layer.keys, layer.values)
        return made
