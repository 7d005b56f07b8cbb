"""Dispatch: for a while, in one thread, linear layers run on a kernel that gives a token the same bits always."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from aded.engines.transformers.linear.bindings import (
    AmxLinear,
    Avx512Linear,
    DotLinear,
    FloatLinear,
    LinearKernel,
    PortableLinear,
)
from aded.engines.transformers.patches import ThreadsPatch
from aded.kernels.openmp import UnavailableError


class _Forward:
    """A linear layer's forward that takes the other way in threads that asked for it.

    A compiled pass sees it as one operation, named by a number, since the compiler cannot look into it; that pass holds
    as long as this object does, which is as long as the layer.
    """

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        _FORWARDS[self._number] = self

    def renew(self, layer: torch.nn.Linear, kernel: LinearKernel) -> None:
        """Take the layer's weights as they are now."""
        self._plain = partial(torch.nn.functional.linear, weight=layer.weight, bias=layer.bias)
        self.other, self._features, self._dtype = kernel.bind(layer), layer.out_features, layer.weight.dtype

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype != self._dtype:
            return self._plain(input)
        if torch.compiler.is_compiling():
            result: torch.Tensor = torch.ops.aded.linear(input, self._number, self._features)
            return result
        return self.other(input) if _PATCH.on else self._plain(input)


_NUMBERS = itertools.count()
_FORWARDS: WeakValueDictionary[int, _Forward] = WeakValueDictionary()
_OF_LAYER: WeakKeyDictionary[torch.nn.Linear, _Forward] = WeakKeyDictionary()
_OPERATIONS = torch.library.Library("aded", "DEF")
_OPERATIONS.define("linear(Tensor input, int number, int features) -> Tensor")
_OPERATIONS.impl("linear", lambda input, number, features: _FORWARDS[number].other(input), "CPU")
torch.library.register_fake("aded::linear")(lambda x, number, features: x.new_empty(*x.shape[:-1], features))

# By data type, the best first.
_KERNELS: dict[torch.dtype, tuple[Callable[[], LinearKernel], ...]] = {
    torch.bfloat16: (AmxLinear, Avx512Linear, DotLinear, PortableLinear),
    torch.float32: (FloatLinear,),
}

_PATCH = ThreadsPatch()


def _layers(model: torch.nn.Module) -> list[torch.nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and is_ours(layer)]


def is_ours(layer: torch.nn.Module) -> bool:
    """Whether a layer runs on our kernels within `fast_linear`."""
    return (
        type(layer) is torch.nn.Linear
        and type(layer.weight) in (torch.Tensor, torch.nn.Parameter)
        and layer.weight.dtype in _KERNELS
        and layer.weight.device.type == "cpu"
        and layer.weight.is_contiguous()
        and type(layer.__dict__.get("forward")) in (type(None), _Forward)  # hooks set a forward of their own
        and _kernel(layer.weight.dtype) is not None
    )


@cache
def _kernel(dtype: torch.dtype) -> LinearKernel | None:
    """The kernel for this processor. What it and the library do decides, and no timing: another would be other bits."""
    for make in _KERNELS[dtype]:
        with suppress(UnavailableError):
            return make()
    return None


@contextmanager
def fast_linear(model: Any, *, compiled: bool = False) -> Iterator[None]:
    """Within it, and in this thread, what the model's linear layers give for a token depends on it alone.

    That holds for bfloat16 and float32 on a CPU. Nothing changes elsewhere.

    Args:
        compiled: for passes that are compiled, where float32 is left to the compiler.
    """
    layers = _layers(model)
    if compiled:
        layers = [layer for layer in layers if layer.weight.dtype == torch.bfloat16]
    if not layers:
        yield
        return

    def put() -> None:
        for layer in layers:
            if (kernel := _kernel(layer.weight.dtype)) is None:  # there would be no such layer
                continue
            forward = _OF_LAYER.setdefault(layer, _Forward())
            forward.renew(layer, kernel)
            layer.forward = forward  # type: ignore[method-assign]

    def take() -> None:
        for layer in layers:
            del layer.forward

    with _PATCH.to(model, put, take):
        yield


def library_linear() -> AbstractContextManager[None]:
    """Within it, and in this thread, layers run as the library runs them: so prompts are taken in."""
    return _PATCH.off()
