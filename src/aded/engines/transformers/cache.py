"""The key/value cache as a tree needs it: where a step's entries lie, who may see whom, and what is kept after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from aded.errors import UnsupportedError
from aded.tree import DraftTree

__all__ = ["check", "finish", "keep", "masks", "prepare", "room"]


def _layers(cache: Cache) -> list[Any]:
    return cast("list[Any]", cache.layers)


def check(cache: Cache | None) -> None:
    """Refuse a cache whose entries cannot be taken back one by one."""
    if cache is None:
        raise UnsupportedError("speculative decoding needs the key/value cache; pass use_cache=True")
    for layer in _layers(cache):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer):
            raise UnsupportedError(
                f"this model keeps its state in a {type(layer).__name__}, which cannot drop rejected drafts "
                "(recurrent, hybrid, quantized and rolling static caches cannot); decode it without ADED"
            )


def prepare(cache: Cache) -> None:
    """Make sliding layers hold on to what a rejected draft would push out."""
    for layer in _layers(cache):
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.activate_past_recording()


def finish(cache: Cache) -> None:
    """Undo `prepare`, so that the cache can be used elsewhere."""
    for layer in _layers(cache):
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.record_past = False


def room(cache: Cache) -> int | None:
    """Entries a static cache has left; None for a cache that grows."""
    free = [
        layer.max_cache_len - int(layer.get_seq_length()) for layer in _layers(cache) if isinstance(layer, StaticLayer)
    ]
    return min(free) if free else None


def keep(cache: Cache, count: int, rows: Sequence[int]) -> None:
    """Of the last `count` entries keep those at `rows` (ascending), moved together."""
    contiguous = list(rows) == list(range(len(rows)))
    layer: Any
    for layer in _layers(cache):
        if not layer.is_initialized:
            continue  # layers that share another layer's entries hold none
        if layer.is_compileable:  # a static layer: written in place
            start = int(layer.get_seq_length()) - count
            if not contiguous:
                index = torch.tensor([start + row for row in rows], device=layer.keys.device)
                layer.keys[:, :, start : start + len(rows)] = layer.keys[:, :, index]
                layer.values[:, :, start : start + len(rows)] = layer.values[:, :, index]
            _set_length(layer, start + len(rows))
            continue
        start = layer.keys.shape[-2] - count
        if contiguous:
            end = start + len(rows)
            keys, values = layer.keys[:, :, :end], layer.values[:, :, :end]
        else:
            index = torch.tensor([start + row for row in rows], device=layer.keys.device)
            keys = torch.cat([layer.keys[:, :, :start], layer.keys[:, :, index]], dim=-2)
            values = torch.cat([layer.values[:, :, :start], layer.values[:, :, index]], dim=-2)
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length -= count - len(rows)
            if layer.cumulative_length >= layer.sliding_window:
                keys, values = keys[:, :, 1 - layer.sliding_window :], values[:, :, 1 - layer.sliding_window :]
        layer.keys, layer.values = keys, values


def _set_length(layer: Any, length: int) -> None:
    if isinstance(layer.cumulative_length, torch.Tensor):
        layer.cumulative_length.fill_(length)
    else:
        layer.cumulative_length = length
    if hasattr(layer, "cumulative_length_int"):
        layer.cumulative_length_int = length


def masks(
    cache: Cache,
    tree: DraftTree,
    padding: torch.Tensor | None,
    windows: dict[str, int | None],
    dtype: torch.dtype,
    device: Any,
) -> dict[str, torch.Tensor]:
    """Additive attention masks of shape (1, 1, n + 1, entries): 0 where the root or a node may look, else the minimum.

    Args:
        cache: before the step.
        tree: the draft; its root is the step's first entry.
        padding: bool, (entries before the step,): False at padding; None when there is none.
        windows: the model's kinds of attention layer and their sliding windows; one mask is made for each.
    """
    count = len(tree) + 1
    among = torch.zeros(count, count, dtype=torch.bool)
    among[:, 0] = True
    among[1:, 1:] = torch.from_numpy(tree.ancestor_mask())
    depth = torch.cat([torch.zeros(1, dtype=torch.long), torch.from_numpy(tree.depths).long() + 1])
    layers = [layer for layer in _layers(cache) if layer.is_initialized]
    result: dict[str, torch.Tensor] = {}
    for kind, window in windows.items():
        # A cache that drops what slid out shows fewer entries in its sliding layers; others show all in every layer.
        sliding = window is not None
        layer = next((x for x in layers if isinstance(x, DynamicSlidingWindowLayer) == sliding), layers[0])
        result[kind] = _mask(layer, count, among, depth, padding, window, dtype).to(device)
    return result


def _mask(
    layer: Any,
    count: int,
    among: torch.Tensor,
    depth: torch.Tensor,
    padding: torch.Tensor | None,
    window: int | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    entries, offset = layer.get_mask_sizes(count)
    past = int(layer.get_seq_length())
    column = torch.arange(offset, offset + int(entries))  # position of each entry the layer shows
    visible = (column < past)[None].repeat(count, 1)
    if padding is not None:
        known = padding.cpu()
        visible &= torch.where(column < past, known[column.clamp(max=past - 1)], False)[None]
    if window is not None:
        visible &= column[None] > (past + depth)[:, None] - window
        among = among & (depth[:, None] - depth[None] < window)
    begin = past - offset
    visible[:, begin : begin + count] = among
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[None, None]
