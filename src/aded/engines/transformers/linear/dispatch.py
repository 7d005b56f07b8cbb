"""Dispatch: for a while, in one thread, bfloat16 linear layers run on another kernel where that was measured faster."""

from __future__ import annotations

import itertools
import threading
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from aded.engines.transformers.attention import RefCountedPatch
from aded.engines.transformers.linear.bindings import (
    Avx512Linear,
    Forward,
    LinearKernel,
    PortableLinear,
    PrepackedLinear,
)


@dataclass
class _Choice:
    """How a model's layers run: `kernel` for several tokens, and for a single one as well if `single`."""

    kernel: LinearKernel
    single: bool


class _Forward:
    """A linear layer's forward that takes the other way in threads that asked for it.

    A compiled pass sees it as one operation, named by a number, since the compiler cannot look into it; that pass holds
    as long as this object does, which is as long as the layer.
    """

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        _FORWARDS[self._number] = self

    def renew(self, layer: torch.nn.Linear, choice: _Choice) -> None:
        """Take the layer's weights as they are now."""
        self._plain = partial(torch.nn.functional.linear, weight=layer.weight, bias=layer.bias)
        self.other, self._single, self._features = choice.kernel.bind(layer), choice.single, layer.out_features

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        alone = not self._single and input.numel() == input.shape[-1]
        if alone or input.dtype != torch.bfloat16:
            return self._plain(input)
        if torch.compiler.is_compiling():
            result: torch.Tensor = torch.ops.aded.linear(input, self._number, self._features)
            return result
        return self.other(input) if getattr(_ACTIVE, "on", False) else self._plain(input)


_NUMBERS = itertools.count()
_FORWARDS: WeakValueDictionary[int, _Forward] = WeakValueDictionary()
_OF_LAYER: WeakKeyDictionary[torch.nn.Linear, _Forward] = WeakKeyDictionary()
_OPERATIONS = torch.library.Library("aded", "DEF")
_OPERATIONS.define("linear(Tensor input, int number, int features) -> Tensor")
_OPERATIONS.impl("linear", lambda input, number, features: _FORWARDS[number].other(input), "CPU")
torch.library.register_fake("aded::linear")(lambda x, number, features: x.new_empty(*x.shape[:-1], features))

_ACTIVE = threading.local()
_PATCH = RefCountedPatch()
_CHOSEN: WeakKeyDictionary[torch.nn.Module, dict[int, _Choice | None]] = WeakKeyDictionary()


def _layers(model: torch.nn.Module) -> list[torch.nn.Linear]:
    return [
        layer
        for layer in model.modules()
        if type(layer) is torch.nn.Linear
        and layer.weight.dtype == torch.bfloat16
        and layer.weight.device.type == "cpu"
        and layer.weight.is_contiguous()
        and type(layer.__dict__.get("forward")) in (type(None), _Forward)  # hooks set a forward of their own
    ]


@torch.no_grad()
def _choose(layers: list[torch.nn.Linear]) -> _Choice | None:
    """The fastest way here, timed on this model's commonest shape at one, eight and 32 tokens."""
    shapes = [tuple(layer.weight.shape) for layer in layers]
    common = max(set(shapes), key=shapes.count)
    # Several layers in turn, as in a pass of the model: one alone would stay in the nearest cache.
    tried = [layer for layer, shape in zip(layers, shapes, strict=True) if shape == common][:16]
    inputs = torch.zeros(41, common[1], dtype=torch.bfloat16).split([1, 8, 32])
    plain = [_fastest([layer.forward for layer in tried], x) for x in inputs]
    best, choice = plain, None
    makers: tuple[Callable[[], LinearKernel], ...]
    makers = partial(Avx512Linear, layers), partial(PrepackedLinear, layers), PortableLinear
    for make in makers:
        try:
            kernel = make()
        except LookupError:
            continue
        others = [kernel.bind(layer) for layer in tried]
        taken = [_fastest(others, x) for x in inputs]
        if sum(taken[1:]) < sum(best[1:]):
            best, choice = taken, _Choice(kernel, single=taken[0] < plain[0])
    return choice


def _fastest(calls: Sequence[Forward], x: torch.Tensor) -> float:
    def run() -> None:
        for call in calls:
            call(x)

    return min(timeit.repeat(run, number=1, repeat=6))


@contextmanager
def fast_linear(model: Any) -> Iterator[None]:
    """Within it, and in this thread, the model's bfloat16 linear layers run the way that is fastest here.

    Nothing changes on other devices and in other data types.
    """
    layers = [] if getattr(_ACTIVE, "on", False) else _layers(model)
    choice = None
    if layers:
        known, threads = _CHOSEN.setdefault(model, {}), torch.get_num_threads()
        if threads not in known:
            known[threads] = _choose(layers)
        choice = known[threads]
    if choice is None:
        yield
        return

    def put() -> None:
        for layer in layers:
            forward = _OF_LAYER.setdefault(layer, _Forward())
            forward.renew(layer, choice)
            layer.forward = forward  # type: ignore[method-assign]

    def take() -> None:
        for layer in layers:
            del layer.forward

    with _PATCH.to(model, put, take):
        _ACTIVE.on = True
        try:
            yield
        finally:
            _ACTIVE.on = False
