"""bfloat16 linear layers whose weights were put into the matrix library's own order once, not anew in each call.

A verification step is a handful of tokens: too few to pay for reordering every weight, as a plain product of several
tokens does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from aded.engines.transformers.linear.copies import WeightCopies

__all__ = ["PackedLinear"]


class PackedLinear:
    """The library's product on packed weights, a copy that lives as long as its layer.

    Raises:
        LookupError: the library has no bfloat16 instructions to use here, or there is no memory for copies.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise LookupError("no bfloat16 matrix instructions")
        self._weights = WeightCopies(layers, lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, 1))

    def bind(self, layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
        """The layer's forward on its weights as they are now."""
        weight, bias, multiply = self._weights(layer), layer.bias, torch.ops.mkldnn._linear_pointwise.default
        return lambda x: multiply(x, weight, bias, "none", [], "")
