"""Linear layers of torch on our matrix products.

Each binds a layer: given it, it returns the layer's forward pass on its weights as they are now.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Protocol

import torch

from aded.kernels import gemm_amx_bf16, gemm_avx512_bf16, gemm_bf16, gemm_dot_bf16, gemm_f32
from aded.kernels.openmp import Parallel, UnavailableError
from aded.kernels.vectors import has_bf16_dot, has_fma

Forward = Callable[[torch.Tensor], torch.Tensor]


class LinearKernel(Protocol):
    """A way to run linear layers."""

    def bind(self, layer: torch.nn.Linear) -> Forward:
        """The layer's forward pass on its weights as they are now."""


_SMALL = 2**20  # weights of a layer with which a trial takes a few milliseconds
_LARGE = 2**27  # weights of a layer that the library does not cut: more than any but the last, whose inputs are few
_TYPICAL = 96, 576  # features and inputs of a layer that is not small to the library
_UNEVEN = 33, 64 + 16 + 9  # and of one whose inputs fill no vectors
_APART = 32  # inputs that no library sums in one instruction


class TiledLinear:
    """A kernel of ours that sums as the library does, on the weights as they lie.

    Args:
        kernel: for AMX or for AVX-512 BF16.
        least: features that it needs.

    Raises:
        UnavailableError: the processor or torch's thread pool cannot run it.
    """

    def __init__(self, kernel: ModuleType, least: int) -> None:
        if not has_bf16_dot():
            raise UnavailableError("no bfloat16 dot products")
        self._features, self._step, self._least = kernel.FEATURES, kernel.STEP, least
        self._run = Parallel(kernel.share, 8)
        self._blocks: dict[tuple[int, int, int], int | None] = {}  # by shape and threads

    def bind(self, layer: torch.nn.Linear) -> Forward:
        inputs = self.block(layer.out_features, layer.in_features)
        if inputs is None:
            return partial(_token_by_token, weight=layer.weight, bias=layer.bias)
        bias = None
        if layer.bias is not None:
            bias = torch.zeros(layer.out_features + -layer.out_features % self._features)
            bias[: layer.out_features] = layer.bias.detach()
        return partial(self._forward, layer.weight, bias, inputs)

    def block(self, n: int, k: int) -> int | None:
        """How many inputs the library sums from zero in a layer of this shape; None where it does not sum as we do.

        Layers of little work have kernels of their own. Larger ones are left to a probe of the whole model.
        """
        key = n, k, torch.get_num_threads()
        if key not in self._blocks:
            inputs = None if k % self._step or n < self._least else _block(n, k) if n * k < _LARGE else k
            if inputs is not None and n * k <= _SMALL and not self._agrees(n, k, inputs):
                inputs = None
            self._blocks[key] = inputs
        return self._blocks[key]

    @torch.no_grad()
    def _agrees(self, n: int, k: int, inputs: int) -> bool:
        x, weight, _ = _cancelling(n, k)
        return _is_the_librarys(self._forward(weight, None, inputs, x), x, weight, None)

    def _forward(self, weight: torch.Tensor, bias: torch.Tensor | None, inputs: int, x: torch.Tensor) -> torch.Tensor:
        return _product(self._run, x, weight, bias, inputs)


class Avx512Linear(TiledLinear):
    """The kernel for AVX-512 BF16."""

    def __init__(self) -> None:
        super().__init__(gemm_avx512_bf16, 1)


class AmxLinear(TiledLinear):
    """The kernel for AMX, where matrix tiles are the library's way as well."""

    def __init__(self) -> None:
        if not (gemm_amx_bf16.has_amx() and getattr(torch.cpu, "_init_amx", bool)()):
            raise UnavailableError("no matrix tiles")
        super().__init__(gemm_amx_bf16, gemm_amx_bf16.FEATURES)
        if self.block(*_TYPICAL) is None:
            raise UnavailableError("the library does not use matrix tiles")


def _cancelling(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eight inputs, weights of a layer and a bias, bfloat16, whose products cancel: the last bits of sums are left.

    Weights are [u, -u] and inputs [v, v], and small ones where k is odd; so is the bias.
    """
    random = torch.Generator().manual_seed(0)
    u, v = (torch.randn(rows, k // 2, generator=random) for rows in (n, 8))
    rest, bias = (torch.randn(size, generator=random) * 2**-20 for size in ((n, k % 2), (n,)))
    weight, x = torch.cat([u, -u, rest], 1), torch.cat([v, v, torch.ones(8, k % 2)], 1)
    return x.bfloat16(), weight.bfloat16(), bias.bfloat16()


@torch.no_grad()
def _block(n: int, k: int) -> int:
    """How many inputs the library sums from zero for one token, in a layer of this shape; a multiple of 32, or k.

    Weights of 2^60 and -2^60 at inputs 32 apart swallow a 1 that comes before them in the same sum; what was summed
    before their block's zero is left.
    """
    candidates = torch.arange(_APART, max(k - _APART, _APART), _APART)
    for some in candidates.split(n) if len(candidates) else ():
        weight, rows = torch.zeros(n, k), torch.arange(len(some))
        weight[rows, 0], weight[rows, some], weight[rows, some + _APART] = 1.0, 2.0**60, -(2.0**60)
        left = torch.nn.functional.linear(torch.ones(1, k).bfloat16(), weight.bfloat16())[0, : len(some)]
        if left.any():
            return int(some[left != 0][0])
    return k


def _product(
    run: Parallel, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: int
) -> torch.Tensor:
    """What a kernel of ours makes of x (..., k) and weights (n, k); `settings` are its own arguments."""
    n, k = weight.shape
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], n)
    place = 0 if bias is None else bias.data_ptr()
    addresses = x.data_ptr(), weight.data_ptr(), place, out.data_ptr()
    run(torch.get_num_threads(), x.numel() // k, k, n, *settings, *addresses)
    return out


def _token_by_token(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The library's product for each token alone."""
    if not x.numel():
        return torch.nn.functional.linear(x, weight, bias)
    tokens = x.reshape(-1, 1, 1, x.shape[-1])
    return torch.cat([torch.nn.functional.linear(token, weight, bias) for token in tokens]).reshape(*x.shape[:-1], -1)


def _is_the_librarys(ours: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether a product has the bits of the library's for each token alone."""
    return torch.equal(ours.view(torch.int16), _token_by_token(x, weight, bias).view(torch.int16))


class PortableLinear:
    """Our kernel for any processor, on the weights as they lie: bfloat16 where that has no instructions, or float32.

    Raises:
        UnavailableError: torch's thread pool cannot be found here.
    """

    def __init__(self, kernel: ModuleType = gemm_bf16) -> None:
        self._run = Parallel(kernel.share, 7)

    def bind(self, layer: torch.nn.Linear) -> Forward:
        return partial(self._forward, layer.weight, layer.bias)

    def _forward(self, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        return _product(self._run, x, weight, bias)


class DotLinear(PortableLinear):
    """The kernel for AVX2, where it sums as the library does.

    Raises:
        UnavailableError: the processor or torch's thread pool cannot run it, or the library sums otherwise.
    """

    def __init__(self) -> None:
        if not has_fma():
            raise UnavailableError("no fused multiply-adds")
        super().__init__(gemm_dot_bf16)
        if not all(self._agrees(*shape) for shape in (_TYPICAL, _UNEVEN)):
            raise UnavailableError("the library sums in another order")

    @torch.no_grad()
    def _agrees(self, n: int, k: int) -> bool:
        x, weight, bias = _cancelling(n, k)
        return _is_the_librarys(self._forward(weight, bias, x), x, weight, bias)


class FloatLinear(PortableLinear):
    """The kernel for float32."""

    def __init__(self) -> None:
        super().__init__(gemm_f32)
