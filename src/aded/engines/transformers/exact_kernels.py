"""Whose kernels a thread's passes run on: ours, which give a token the same bits always, or the library's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from aded.engines.transformers.activations import exact_activations, library_activations
from aded.engines.transformers.attention import grouped_attention, library_attention
from aded.engines.transformers.linear import fast_linear, library_linear
from aded.engines.transformers.recurrent import library_limits, steps_without_limit


@contextmanager
def our_kernels(model: Any, *, compiled: bool = False) -> Iterator[None]:
    """Within it, and in this thread, a model's linear layers, attention and activations are ours where there are any.

    Args:
        compiled: for passes that are compiled, which compute most of it in ways of their own.
    """
    activations = nullcontext() if compiled else exact_activations(model)
    with fast_linear(model, compiled=compiled), grouped_attention(model), activations, steps_without_limit(model):
        yield


@contextmanager
def library_kernels() -> Iterator[None]:
    """Within it, and in this thread, all are the library's: so prompts are taken in."""
    with library_linear(), library_attention(), library_activations(), library_limits():
        yield
