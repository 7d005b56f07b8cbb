"""Activations token by token.

The library computes them in vectors, and what is left at the end of its share of the numbers another way, which rounds
otherwise: so a result depends on where it stands. A token by itself has the bits that it has in a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from transformers.activations import ACT2CLS, SiLUActivation

from aded.engines.transformers.patches import ThreadsPatch

_SILU = (torch.nn.SiLU, SiLUActivation)  # whose vectors and rest agree in bfloat16
_SAME = (torch.nn.ReLU, torch.nn.ReLU6, torch.nn.LeakyReLU, torch.nn.Identity)  # in any data type
_KINDS: tuple[Any, ...] = tuple(
    {kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()} - {*_SAME, *_SILU}
)

_PATCH = ThreadsPatch()


def _is_activation(layer: torch.nn.Module, dtype: torch.dtype) -> bool:
    if "forward" in vars(layer):  # hooks set a forward of their own
        return False
    if isinstance(layer, _SILU):
        return dtype != torch.bfloat16
    own = "gelu" in type(layer).__name__.lower() and not list(layer.parameters())
    return own or isinstance(layer, _KINDS)


def _token_by_token(forward: Any, x: torch.Tensor) -> torch.Tensor:
    if not _PATCH.on:
        result: torch.Tensor = forward(x)
        return result
    tokens = x.flatten(0, 1) if x.ndim > 2 else x
    return torch.cat([forward(token) for token in tokens.split(1)]).view_as(x)


@contextmanager
def exact_activations(model: Any) -> Iterator[None]:
    """Within it, and in this thread, the model's activations on a CPU are computed for each token apart."""
    on_cpu = model.device.type == "cpu"
    layers = [layer for layer in model.modules() if _is_activation(layer, model.dtype)] if on_cpu else []
    if not layers:
        yield
        return

    def put() -> None:
        for layer in layers:
            layer.forward = partial(_token_by_token, layer.forward)

    def take() -> None:
        for layer in layers:
            del layer.forward

    with _PATCH.to(model, put, take):
        yield


def library_activations() -> AbstractContextManager[None]:
    """Within it, and in this thread, activations are computed as the library does: so prompts are taken in."""
    return _PATCH.off()
