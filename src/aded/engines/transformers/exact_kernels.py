"""Whose kernels a thread's passes run on: ours, which give a token the same bits always, or the library's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from aded.engines.transformers.activations import exact_activations, library_activations
from aded.engines.transformers.attention import grouped_attention, library_attention
from aded.engines.transformers.depths import tree_positions
from aded.engines.transformers.linear import fast_linear, library_linear
from aded.engines.transformers.recurrent import library_states, steps_without_limit, token_by_token


@contextmanager
def our_kernels(model: Any, *, compiled: bool = False) -> Iterator[None]:
    """Within it, and in this thread, a model's linear layers, attention and activations are ours where there are any.

    Args:
        compiled: for passes that are compiled, which compute most of it in ways of their own.
    """
    with ExitStack() as stack:
        stack.enter_context(fast_linear(model, compiled=compiled))
        for change in (grouped_attention, steps_without_limit, token_by_token, tree_positions):
            stack.enter_context(change(model))
        if not compiled:
            stack.enter_context(exact_activations(model))
        yield


@contextmanager
def library_kernels() -> Iterator[None]:
    """Within it, and in this thread, all are the library's: so prompts are taken in."""
    with library_linear(), library_attention(), library_activations(), library_states():
        yield
