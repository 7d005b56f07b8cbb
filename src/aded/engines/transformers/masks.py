"""Masks: which entries of the cache, and which others of its tree, the root and each node may look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicSlidingWindowLayer

from aded.engines.transformers.attention import CHUNKED
from aded.engines.transformers.cache import entry_layers
from aded.tree import DraftTree


def device_of(model: Any) -> torch.device:
    """Where a model's inputs go; of an offloaded one, whose own weights are nowhere, where it is run."""
    if model.device.type != "meta":
        device: torch.device = model.device
        return device
    return torch.device(getattr(getattr(model, "_hf_hook", None), "execution_device", None) or "cpu")


def masks(
    model: Any,
    windows: dict[str, int | None],
    cache: Cache,
    trees: Sequence[DraftTree],
    count: int,
    lengths: Sequence[int] | None = None,
    padding: torch.Tensor | None = None,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Additive attention masks (rows, 1, count, entries): 0 where the root or a node may look, else the minimum.

    Args:
        model: whose data type and device they get.
        windows: the model's kinds of attention layer and how much they see; with several, one mask for each.
        cache: before the step.
        trees: each row's draft; its root is the step's first entry.
        count: entries of the step, at least one more than nodes in the largest tree; those past a row's tree are looked
            at by nobody.
        lengths: each row's entries before the step; None where all have as many.
        padding: bool, (rows, at most the entries before the step): False at padding; None when there is none.
    """
    among = torch.eye(count, dtype=torch.bool).repeat(len(trees), 1, 1)
    among[:, :, 0] = True
    depth = torch.zeros(len(trees), count, dtype=torch.long)
    for row, tree in enumerate(trees):
        among[row, 1 : len(tree) + 1, 1 : len(tree) + 1] = torch.from_numpy(tree.ancestor_mask())
        depth[row, 1 : len(tree) + 1] = torch.from_numpy(tree.depths) + 1
    layers = [layer for layer in entry_layers(cache) if layer.is_initialized]
    result: dict[str, torch.Tensor] = {}
    for kind, window in windows.items():
        # A cache that drops what slid out shows fewer entries in its sliding layers; others show all in every layer.
        sliding = window is not None
        layer = next((x for x in layers if isinstance(x, DynamicSlidingWindowLayer) == sliding), layers[0])
        entries, offset = layer.get_mask_sizes(count)
        past = int(layer.get_seq_length())
        column = torch.arange(offset, offset + int(entries))  # position of each entry the layer shows
        length = torch.tensor([past] * len(trees) if lengths is None else lengths)[:, None]
        known = column < length  # (rows, entries)
        if padding is not None:
            real = torch.nn.functional.pad(padding.cpu(), (0, max(past - padding.shape[1], 0)), value=True)
            known &= real[:, column.clamp(max=past - 1)]
        visible = known[:, None].repeat(1, count, 1)
        before = torch.zeros(len(trees), 1, dtype=torch.long)  # padding, which no chunk counts
        if padding is not None:
            before = (~padding.cpu()).sum(-1, keepdim=True)
        step = visible[:, :, past - offset : past - offset + count]
        position = length + depth - before  # (rows, count)
        if window is None:
            step[:] = among
        elif kind == CHUNKED:
            visible &= ((column - before) // window)[:, None] == (position // window)[:, :, None]
            step[:] = among & (position[:, :, None] // window == position[:, None] // window)
        else:
            visible &= column > (length + depth)[:, :, None] - window
            step[:] = among & (depth[:, :, None] - depth[:, None] < window)
        mask = torch.zeros(visible.shape, dtype=model.dtype).masked_fill_(~visible, torch.finfo(model.dtype).min)
        result[kind] = mask[:, None].to(device_of(model))
    return result if len(result) > 1 else next(iter(result.values()))
