"""Positions of a tree's nodes in decoders that derive them from the order of tokens: T5, BART, Marian and their kin.

Such a decoder computes an embedding, or a bias of its attention, for the 1st, 2nd, 3rd token of a pass. That is what a
chain takes. A node takes what the chain's token at its depth does: so rows of the chain's are chosen, and no number is
computed in another way. Some count only tokens that are no padding (M2M100): there each token's is asked for alone, as
in plain decoding, since a draft may hold the token that pads.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from aded.engines.transformers.patches import ThreadsPatch

_PATCH = ThreadsPatch()
_TAKEN = "decoder_position_ids"  # what some encoder-decoders take positions by, and derive them where it is not given


class _Pass(threading.local):
    """This thread's pass over a tree.

    Attributes:
        depths: of each of its tokens, the root's 0; None outside such a pass.
        start: entries in the cache before it.
    """

    depths: torch.Tensor | None = None
    start: int = 0


_pass = _Pass()


def derives_positions(model: Any) -> bool:
    """Whether a model takes no positions and derives them in a way that `tree_positions` knows.

    It does so for all rows of a batch together, so this is for one sequence.
    """
    return bool(_sources(model)) or _TAKEN in inspect.signature(model.forward).parameters


def taken_positions(model: Any) -> str | None:
    """By which name a model takes positions that it derives where they are not given; None where they are derived in a
    way that `tree_positions` knows, or not at all."""
    return _TAKEN if derives_positions(model) and not _sources(model) else None


def tree_positions(model: Any) -> AbstractContextManager[None]:
    """Within it, and in this thread, a model's passes have the positions that `at_depths` says."""
    return _PATCH.wrap(model, _sources(model))


@contextmanager
def at_depths(depths: Sequence[int], start: int) -> Iterator[None]:
    """Within it a pass of this thread is over tokens at these depths, behind `start` entries of the cache."""
    _pass.depths, _pass.start = torch.tensor(depths), start
    try:
        yield
    finally:
        _pass.depths = None


def _sources(model: Any) -> list[tuple[Any, str, Callable[..., torch.Tensor]]]:
    """Where a decoder's positions come from: modules, the name of a method of theirs, and what is to be called."""
    found: list[tuple[Any, str, Callable[..., torch.Tensor]]] = []
    if "position_ids" in inspect.signature(model.forward).parameters:
        return found
    for name, module in model.get_decoder().named_modules():
        if name.rpartition(".")[2] == "embed_positions":
            counts = hasattr(module, "create_position_ids_from_input_ids")
            found.append((module, "forward", _embedding_of_each if counts else _embedding))
        elif hasattr(module, "compute_bias") and getattr(module, "has_relative_attention_bias", False):
            found.append((module, "compute_bias", _bias))
    return found


def _embedding(embed: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """Embeddings of positions (..., n, width), of each token's own."""
    made = embed(*args, **kwargs)
    return made if _pass.depths is None else made.index_select(-2, _pass.depths.to(made.device))


def _embedding_of_each(embed: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """The same, one after the other, each as the only token behind those before it."""
    if _pass.depths is None:
        return embed(*args, **kwargs)
    given = inspect.signature(embed).bind(*args, **kwargs).arguments
    (length,) = (name for name, value in given.items() if isinstance(value, int))
    made = []
    for i, depth in enumerate(_pass.depths.tolist()):
        own = {name: x[:, i : i + 1] if isinstance(x, torch.Tensor) else x for name, x in given.items()}
        made.append(embed(**{**own, length: _pass.start + depth}))
    return torch.cat(made, dim=1)


def _bias(bias: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """What is added to the scores of n tokens and all entries, (1, heads, n, entries), by their own positions."""
    made = bias(*args, **kwargs)
    if _pass.depths is None:
        return made
    depths = _pass.depths.to(made.device)
    places = torch.arange(made.shape[-1], device=made.device)
    places[_pass.start : _pass.start + len(depths)] = _pass.start + depths
    return made.index_select(-2, depths).index_select(-1, places)
