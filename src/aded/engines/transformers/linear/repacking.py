"""Layers' weights in another order: how much memory these copies may take, and when they are out of date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import psutil
import torch

__all__ = ["RepackedWeights"]

_SAMPLE = 64  # weights looked at to notice a change that left no other mark


def _sample(weight: torch.Tensor) -> torch.Tensor:
    return weight.reshape(-1)[:: max(1, weight.numel() // _SAMPLE)]


class _Repacked:
    """One layer's weights in another order, and what tells that they still are the layer's."""

    def __init__(self, weight: torch.Tensor, order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.ordered = order(weight)
        self._mark = weight.data_ptr(), weight._version
        self._seen = _sample(weight).clone()

    def of(self, weight: torch.Tensor) -> bool:
        """Whether `weight` is what was copied: an adapter may have been merged into it since."""
        return (weight.data_ptr(), weight._version) == self._mark and torch.equal(_sample(weight), self._seen)


class RepackedWeights:
    """The copies of a model's layers, each made when first asked for; they live as long as their layers.

    Args:
        layers: all that will be asked for.
        order: weights (out, in) -> the same in the kernel's order.

    Raises:
        LookupError: the copies would take over half of the memory that is free.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear], order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        size = sum(layer.weight.numel() * layer.weight.itemsize for layer in layers)
        if size > psutil.virtual_memory().available / 2:
            raise LookupError("no memory for a second copy of the weights")
        self._order = order
        self._copies: WeakKeyDictionary[torch.nn.Linear, _Repacked] = WeakKeyDictionary()

    def __call__(self, layer: torch.nn.Linear) -> torch.Tensor:
        """The layer's weights as they are now, in the kernel's order."""
        weight = layer.weight.detach()
        copy = self._copies.get(layer)
        if copy is None or not copy.of(weight):
            copy = self._copies[layer] = _Repacked(weight, self._order)
        return copy.ordered
