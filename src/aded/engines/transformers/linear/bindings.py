"""bfloat16 linear layers of torch on our matrix products.

Each binds a layer: given it, it returns the layer's forward pass on its weights as they are now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch

from aded.kernels import checksum, gemm_amx_bf16, gemm_avx512_bf16, gemm_bf16
from aded.kernels.openmp import Parallel, UnavailableError
from aded.kernels.vectors import has_bf16_dot

Forward = Callable[[torch.Tensor], torch.Tensor]


class LinearKernel(Protocol):
    """A way to run linear layers."""

    def bind(self, layer: torch.nn.Linear) -> Forward:
        """The layer's forward pass on its weights as they are now."""


_SMALL = 2**20  # weights of a layer with which a trial takes a few milliseconds
_LARGE = 2**27  # weights of a layer that the library does not cut: more than any but the last, whose inputs are few
_TYPICAL = 96, 576  # features and inputs of a layer that is not small to the library
_APART = 32  # inputs that no library sums in one instruction


class _RepackedWeights:
    """Copies of a model's weights in another order, each made when first asked for; they live as long as their layers.

    Args:
        layers: all that will be asked for.
        order: weights (out, in) -> the same in the kernel's order.

    Raises:
        UnavailableError: the copies would take over half of the memory that is free.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear], order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        size = sum(layer.weight.numel() * layer.weight.itemsize for layer in layers)
        if size > psutil.virtual_memory().available / 2:
            raise UnavailableError("no memory for a second copy of the weights")
        self._order, self._sum = order, Parallel(checksum.share, 3)
        self._copies: WeakKeyDictionary[torch.nn.Linear, tuple[bytes, torch.Tensor]] = WeakKeyDictionary()

    def __call__(self, layer: torch.nn.Linear) -> torch.Tensor:
        """The layer's weights as they are now, in the kernel's order."""
        weight = layer.weight.detach()
        mark, known = self._mark(weight), self._copies.get(layer)
        if known is None or known[0] != mark:
            known = self._copies[layer] = mark, self._order(weight)
        return known[1]

    def _mark(self, weight: torch.Tensor) -> bytes:
        """What tells that a copy still is of these weights. An adapter may be merged into them, and there are ways to
        write that leave no trace: all of them are read, which takes as long as a step of one token does at most."""
        flat = weight.reshape(-1)
        whole, found = 2 * flat.numel() // checksum.BLOCK, np.zeros((checksum.PARTS, checksum.WORDS), np.uint32)
        self._sum(torch.get_num_threads(), flat.data_ptr(), whole, found.ctypes.data)
        rest = flat[whole * checksum.BLOCK // 2 :].view(torch.int16).numpy()
        return found.tobytes() + rest.tobytes() + str(tuple(weight.shape)).encode()


class TiledLinear:
    """A kernel of ours on a copy of the weights in blocks that lives as long as its layer, with the library's sums.

    Args:
        layers: all that it will be bound to.
        kernel: for AMX or for AVX-512 BF16.

    Raises:
        UnavailableError: the processor or torch's thread pool cannot run it, the library sums otherwise here, or there
            is no memory for copies.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear], kernel: ModuleType) -> None:
        if not has_bf16_dot():
            raise UnavailableError("no bfloat16 dot products")
        self._features, self._step = kernel.FEATURES, kernel.STEP
        self._weights = _RepackedWeights(layers, self._in_blocks)
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
        return partial(self._forward, self._weights(layer), bias, layer.out_features, inputs)

    def block(self, n: int, k: int) -> int | None:
        """How many inputs the library sums from zero in a layer of this shape; None where it does not sum as we do.

        Layers of little work have kernels of their own. Larger ones are left to a probe of the whole model.
        """
        key = n, k, torch.get_num_threads()
        if key not in self._blocks:
            inputs: int | None = _block(n, k) if n * k < _LARGE else k
            self._blocks[key] = inputs if n * k > _SMALL or self._agrees(n, k, cast(int, inputs)) else None
        return self._blocks[key]

    @torch.no_grad()
    def _agrees(self, n: int, k: int, inputs: int) -> bool:
        """The same of weights [u, -u] and inputs [v, v], which cancel: the last bits of the sums are left."""
        random = torch.Generator().manual_seed(0)
        u, v = (torch.randn(rows, k // 2, generator=random) for rows in (n, 8))
        weight, x = (torch.nn.functional.pad(y, (0, k % 2)).bfloat16() for y in (torch.cat([u, -u], 1), v.repeat(1, 2)))
        ours = self._forward(self._in_blocks(weight), None, n, inputs, x)
        return torch.equal(ours.view(torch.int16), _token_by_token(x, weight, None).view(torch.int16))

    def _forward(
        self, weight: torch.Tensor, bias: torch.Tensor | None, n: int, inputs: int, x: torch.Tensor
    ) -> torch.Tensor:
        if more := -x.shape[-1] % self._step:
            x = torch.nn.functional.pad(x, (0, more))
        x = x.contiguous()
        k = x.shape[-1]
        out = x.new_empty(*x.shape[:-1], n)
        place = 0 if bias is None else bias.data_ptr()
        addresses = x.data_ptr(), weight.data_ptr(), place, out.data_ptr()
        self._run(torch.get_num_threads(), x.numel() // k, k, n, inputs + -inputs % self._step, *addresses)
        return out

    def _in_blocks(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights (n, k) as the tiles read them: (blocks, k / 2, features of a block, 2), with zeros around them."""
        n, k = weight.shape
        padded = torch.nn.functional.pad(weight, (0, -k % self._step, 0, -n % self._features))
        return padded.view(-1, self._features, padded.shape[1] // 2, 2).permute(0, 2, 1, 3).contiguous()


class Avx512Linear(TiledLinear):
    """The kernel for AVX-512 BF16."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        super().__init__(layers, gemm_avx512_bf16)


class AmxLinear(TiledLinear):
    """The kernel for AMX, where matrix tiles are the library's way as well."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        if not (gemm_amx_bf16.has_amx() and getattr(torch.cpu, "_init_amx", bool)()):
            raise UnavailableError("no matrix tiles")
        super().__init__(layers, gemm_amx_bf16)
        if self.block(*_TYPICAL) is None:
            raise UnavailableError("the library does not use matrix tiles")


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


def _token_by_token(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The library's product for each token alone."""
    if not x.numel():
        return torch.nn.functional.linear(x, weight, bias)
    tokens = x.reshape(-1, 1, 1, x.shape[-1])
    return torch.cat([torch.nn.functional.linear(token, weight, bias) for token in tokens]).reshape(*x.shape[:-1], -1)


class PortableLinear:
    """Our kernel for processors without bfloat16 instructions, on the weights as they lie.

    Raises:
        UnavailableError: torch's thread pool cannot be found here.
    """

    def __init__(self) -> None:
        self._run = Parallel(gemm_bf16.share, 7)

    def bind(self, layer: torch.nn.Linear) -> Forward:
        return partial(self._forward, layer.weight, layer.bias)

    def _forward(self, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        n, k = weight.shape
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], n)
        place = 0 if bias is None else bias.data_ptr()
        addresses = x.data_ptr(), weight.data_ptr(), place, out.data_ptr()
        self._run(torch.get_num_threads(), x.numel() // k, k, n, *addresses)
        return out
