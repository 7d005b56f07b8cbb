"""bfloat16 linear layers whose weights were put into the matrix library's own order once, not anew in each call.

A verification step is a handful of tokens: too few to pay for reordering every weight, as a plain product of several
tokens does. Packed, four tokens take less time than one does through the plain layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import psutil
import torch

__all__ = ["PackedLinear"]

_SAMPLE = 64  # weights looked at to notice a change that left no other mark


def _sample(weight: torch.Tensor) -> torch.Tensor:
    return weight.reshape(-1)[:: max(1, weight.numel() // _SAMPLE)]


class _Packed:
    """One layer's packed weights, and what tells that they still are the layer's."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
        self._mark = weight.data_ptr(), weight._version
        self._seen = _sample(weight.detach()).clone()

    def of(self, weight: torch.Tensor) -> bool:
        """Whether `weight` is what was packed: an adapter may have been merged into it since."""
        return (weight.data_ptr(), weight._version) == self._mark and torch.equal(_sample(weight.detach()), self._seen)


class PackedLinear:
    """The product on packed weights, a copy that lives as long as its layer.

    Raises:
        LookupError: the library has no bfloat16 instructions to use here, or the copies would take over half of the
            memory that is free.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise LookupError("no bfloat16 matrix instructions")
        size = sum(layer.weight.numel() * layer.weight.itemsize for layer in layers)
        if size > psutil.virtual_memory().available / 2:
            raise LookupError("no memory for packed weights")
        self._packed: WeakKeyDictionary[torch.nn.Linear, _Packed] = WeakKeyDictionary()

    def bind(self, layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
        """The layer's forward on its weights as they are now."""
        packed = self._packed.get(layer)
        if packed is None or not packed.of(layer.weight):
            packed = self._packed[layer] = _Packed(layer.weight)
        weight, bias, multiply = packed.weight, layer.bias, torch.ops.mkldnn._linear_pointwise.default
        return lambda x: multiply(x, weight, bias, "none", [], "")
