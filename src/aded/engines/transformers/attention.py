"""Attention of a few tokens with key/value heads that several query heads share.

The library repeats keys and values for every query head and so copies the whole cache in every layer of every step, or,
for a single token, leaves the sharing to a kernel that reads the cache once for each head. A few tokens' queries can
stand one below the other instead, those of all heads that share a key/value head: then nothing is copied, and the cache
is read once.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from aded.errors import UnsupportedError

_NAME = "aded_grouped_sdpa"
_MOST = 256  # queries of a group to stack; with more, repeating the mask for each head costs more than it saves


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as the library's "sdpa" computes it: (rows, heads, tokens, size) -> (rows, tokens, heads, size)."""
    groups = getattr(module, "num_key_value_groups", 1)
    rows, heads, tokens, size = query.shape
    special = attention_mask is None and tokens > 1  # a prompt: its causal mask is left to the kernel
    special |= attention_mask is not None and (attention_mask.ndim != 4 or attention_mask.shape[1] != 1)
    special |= dropout > 0 or any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    many = groups * tokens > _MOST
    # On a GPU many queries are left to the library: there, masks and shared heads together have no fast kernel.
    special |= many and query.device.type != "cpu"
    if special or groups == 1 or heads != groups * key.shape[1]:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    attend = torch.nn.functional.scaled_dot_product_attention
    if many:
        out = attend(query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None
    stacked = query.reshape(rows, key.shape[1], groups * tokens, size)
    mask = None if attention_mask is None else attention_mask.repeat(1, 1, groups, 1)
    out = attend(stacked, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


class RefCountedPatch:
    """One kind of change to models, counted by user in any number of threads: the last one undoes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    @contextmanager
    def to(self, model: Any, make: Callable[[], None], undo: Callable[[], None]) -> Iterator[None]:
        """Within it the change is there: `make` is called if nobody made it yet, `undo` if nobody needs it any more."""
        with self._lock:
            self._users[model] = self._users.get(model, 0) + 1
            if self._users[model] == 1:
                make()
        try:
            yield
        finally:
            with self._lock:
                self._users[model] -= 1
                if not self._users[model]:
                    del self._users[model]
                    undo()


_PATCH = RefCountedPatch()


def implementation(model: Any) -> str:
    """Which attention a model was given, also within `grouped_attention`."""
    name: str = model.config.get_text_config(decoder=True)._attn_implementation
    return "sdpa" if name == _NAME else name


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """Within it the model's layers attend as above where the library's "sdpa" was set; results differ by rounding."""
    layers = (layer for layer in model.modules() if getattr(layer, "num_key_value_groups", 1) > 1)
    found = {id(config): config for layer in layers if (config := getattr(layer, "config", None)) is not None}
    configs = [config for config in found.values() if config._attn_implementation in ("sdpa", _NAME)]

    def name(chosen: str) -> None:
        for config in configs:
            config._attn_implementation_internal = chosen

    with _PATCH.to(model, partial(name, _NAME), partial(name, "sdpa")):
        yield


def attention_windows(model: Any) -> dict[str, int | None]:
    """The kinds of attention layer a model has, and the sliding window of each (None: it sees everything)."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
    if other := ", ".join(sorted(kinds - {"full_attention", "sliding_attention"})):
        raise UnsupportedError(f"layers of kind {other} cannot verify drafts; decode it without ADED")
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def verifies_trees(model: Any) -> bool:
    """Whether siblings can share a forward pass: positions and a 4D mask are inputs, not derived from the order.

    Models with ALiBi derive positions from the order of entries, and flash attention takes no 4D mask: they verify
    chains.
    """
    config = model.config.get_text_config(decoder=True)
    takes = inspect.signature(model.forward).parameters
    alibi = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
    return not alibi and {"position_ids", "attention_mask"} <= set(takes) and implementation(model) in ("eager", "sdpa")
