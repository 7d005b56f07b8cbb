"""bfloat16 linear layers of torch on our matrix products.

Each binds a layer: given it, it returns the layer's forward pass on its weights as they are now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch

from aded.kernels import checksum, gemm_avx512_bf16, gemm_bf16
from aded.kernels.openmp import Parallel, UnavailableError

Forward = Callable[[torch.Tensor], torch.Tensor]


class LinearKernel(Protocol):
    """A way to run linear layers."""

    def bind(self, layer: torch.nn.Linear) -> Forward:
        """The layer's forward pass on its weights as they are now."""


_SMALL = 2**20  # weights of a layer with which a trial takes no time to speak of


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


class Avx512Linear:
    """Our kernel for AVX-512 BF16, on a copy of the weights in blocks that lives as long as its layer.

    Raises:
        UnavailableError: the processor or torch's thread pool cannot run it, or there is no memory for copies.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        if not gemm_avx512_bf16.has_bf16_dot():
            raise UnavailableError("no bfloat16 dot products")
        self._weights = _RepackedWeights(layers, _in_blocks)
        self._run = Parallel(gemm_avx512_bf16.share, 7)
        self._agreed: dict[tuple[int, int, int], bool] = {}  # by shape and threads

    def bind(self, layer: torch.nn.Linear) -> Forward:
        if not self._agrees(layer.out_features, layer.in_features):
            return partial(_token_by_token, weight=layer.weight, bias=layer.bias)
        bias = None
        if layer.bias is not None:
            bias = torch.zeros(layer.out_features + -layer.out_features % gemm_avx512_bf16.FEATURES)
            bias[: layer.out_features] = layer.bias.detach()
        return partial(self._forward, self._weights(layer), bias, layer.out_features)

    def _agrees(self, n: int, k: int) -> bool:
        """Whether the kernel's sums are the library's for one token: layers of little work have kernels of their own,
        and few features with many inputs are split over threads. Larger ones are left to a probe of the whole model."""
        key = n, k, torch.get_num_threads()
        if key not in self._agreed:
            self._agreed[key] = not k % 2 and (n * k > _SMALL or self._try(n, k))
        return self._agreed[key]

    @torch.no_grad()
    def _try(self, n: int, k: int) -> bool:
        """The same of weights [u, -u] and inputs [v, v], which cancel: the last bits of the sums are left."""
        random = torch.Generator().manual_seed(0)
        u, v = (torch.randn(rows, k // 2, generator=random) for rows in (n, 8))
        weight, x = torch.cat([u, -u], 1).bfloat16(), torch.cat([v, v], 1).bfloat16()
        ours = self._forward(_in_blocks(weight), None, n, x)
        return torch.equal(ours.view(torch.int16), _token_by_token(x, weight, None).view(torch.int16))

    def _forward(self, weight: torch.Tensor, bias: torch.Tensor | None, n: int, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        k = x.shape[-1]
        out = x.new_empty(*x.shape[:-1], n)
        place = 0 if bias is None else bias.data_ptr()
        addresses = x.data_ptr(), weight.data_ptr(), place, out.data_ptr()
        self._run(torch.get_num_threads(), x.numel() // k, k, n, *addresses)
        return out


def _token_by_token(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The library's product for each token alone."""
    if not x.numel():
        return torch.nn.functional.linear(x, weight, bias)
    tokens = x.reshape(-1, 1, 1, x.shape[-1])
    return torch.cat([torch.nn.functional.linear(token, weight, bias) for token in tokens]).reshape(*x.shape[:-1], -1)


def _in_blocks(weight: torch.Tensor) -> torch.Tensor:
    """Weights (n, k) as the tiles read them: (blocks, k / 2, features of a block, 2), features past n being 0."""
    n, k = weight.shape
    features = gemm_avx512_bf16.FEATURES
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -n % features))
    return padded.view(-1, features, k // 2, 2).permute(0, 2, 1, 3).contiguous()


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
