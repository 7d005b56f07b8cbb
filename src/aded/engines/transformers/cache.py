"""The key/value cache as drafts need it: where a step's entries lie, and what is kept after.

A batch's rows accept different numbers of tokens. Each row's entries lie together from the left; those of a step begin
where the longest row ends, and are moved to where their own row ends when they are kept. What lies between is masked.
Rows that are kept in step, where a model takes no such mask, have their entries in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    StaticLayer,
)

from aded.engines.transformers.recurrent import INDEXED, KNOWN, LINEAR
from aded.errors import UnsupportedError

# Of layers that read what others hold, in releases that have it.
_DUMMIES: tuple[Any, ...] = (cache_utils.DummyLayer,) if hasattr(cache_utils, "DummyLayer") else ()


def entry_layers(cache: Cache) -> list[Any]:
    """The layers that can hold entries."""
    return [layer for layer in cast("list[Any]", decoders_own(cache).layers) if not _is_without_entries(layer)]


def decoders_own(cache: Any) -> Any:
    """The part that grows: of an encoder-decoder's cache, that of the decoder's attention to itself."""
    return getattr(cache, "self_attention_cache", cache)


def new(model: Any) -> Cache:
    """An empty growing cache."""
    config = model.config.get_text_config(decoder=True)
    if not model.config.is_encoder_decoder:
        return DynamicCache(config=config)
    return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))


def _is_without_entries(layer: Any) -> bool:
    return isinstance(layer, _DUMMIES) or (isinstance(layer, LINEAR) and not isinstance(layer, DynamicLayer))


def length(cache: Cache) -> int | None:
    """Tokens whose entries are held; None where no layer holds any, but states alone."""
    layers = entry_layers(cache)
    return int(cache.get_seq_length()) if layers or not decoders_own(cache).layers else None


class _PreallocatedLayer(DynamicLayer):
    """A growing layer with spare room: a step's entries are written beside those before, not copied with them.

    `keys` and `values` are views of what is in use.

    Attributes:
        added: entries that came since the last `trim`: those of a pass. A layer that attends to something else, to
            images beside a text, gets none.
        grows: whether any ever came.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.is_initialized = layer.keys.device, True
        self.grows = False
        self._hold(layer.keys, layer.values)

    def _hold(self, *entries: torch.Tensor) -> None:
        """Hold these entries, with room for more."""
        used = entries[0].shape[-2]
        spare = max(256, used // 4)
        self._buffers = [x.new_empty(*x.shape[:-2], used + spare, x.shape[-1]) for x in entries]
        for place, x in zip(self._buffers, entries, strict=True):
            place[:, :, :used] = x
        self.trim(used)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._hold(torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2))
        else:
            for place, x in zip(self._buffers, (key_states, value_states), strict=True):
                place[:, :, start:end] = x
            self.trim(end)
        self.added, self.grows = end - start, True
        return self.keys, self.values

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Move each row's entries from `source` to `target`, both (rows, n)."""
        row = torch.arange(len(source), device=self.device)[:, None]
        for x in self._buffers:
            x[row, :, target] = x[row, :, source]

    def trim(self, used: int) -> None:
        """Forget all but the first `used` entries."""
        self.keys, self.values = (x[:, :, :used] for x in self._buffers)
        self.added = 0

    def select(self, rows: torch.Tensor, used: int) -> None:
        """Keep these rows only, and the first `used` entries."""
        self._buffers = [x[rows] for x in self._buffers]
        self.trim(used if self.grows else self.keys.shape[-2])


def plain(keys: torch.Tensor, values: torch.Tensor) -> DynamicLayer:
    """A growing layer of these entries, as the library knows it."""
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def check(cache: Cache | None) -> None:
    """Refuse a cache whose entries cannot be taken back one by one."""
    if cache is None:
        raise UnsupportedError("speculative decoding needs the key/value cache; pass use_cache=True")
    for layer in cast("list[Any]", decoders_own(cache).layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, *KNOWN, *INDEXED, *_DUMMIES):
            raise UnsupportedError(
                f"this model keeps its state in a {type(layer).__name__}, which cannot drop rejected drafts "
                "(quantized and rolling static caches cannot); decode it without ADED"
            )


def check_filled(cache: Cache, tokens: int) -> None:
    """After a prompt of so many tokens: refuse a model that keeps no entry for each, or others besides."""
    entries = length(cache)
    if entries is not None and entries != tokens:
        raise UnsupportedError(
            f"after a prompt of {tokens} tokens this model's cache holds {entries} entries, so no draft can be placed "
            "behind it; decode it without ADED"
        )


def rewound(cache: Cache, entries: int, model: Any) -> Cache:
    """A cache as it was when it held so many entries."""
    if room(cache) is not None:
        for layer in entry_layers(cache):
            layer.cumulative_length.fill_(entries)
    elif entries:
        cache.crop(entries - int(cache.get_seq_length()))
    else:
        return new(model)
    return cache


def slides(cache: Cache | None) -> bool:
    """Whether some layers drop what slid out of their window."""
    return cache is not None and any(isinstance(layer, DynamicSlidingWindowLayer) for layer in entry_layers(cache))


def widen(cache: Cache) -> None:
    """Before a batch's prompts: let sliding layers keep everything, since rows slide at different paces."""
    cache.layers = [DynamicLayer() if isinstance(x, DynamicSlidingWindowLayer) else x for x in cache.layers]


def prepare(cache: Cache) -> None:
    """After the prompt: make room to grow; let sliding layers hold on to what a rejected draft would push out."""
    cache = decoders_own(cache)
    for index, layer in enumerate(cast("list[Any]", cache.layers)):
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.activate_past_recording()
        elif type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[index] = _PreallocatedLayer(layer)


def finish(cache: Cache) -> None:
    """Undo `prepare`, so that the cache can be used elsewhere."""
    cache = decoders_own(cache)
    for index, layer in enumerate(cast("list[Any]", cache.layers)):
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.record_past = False
        elif isinstance(layer, _PreallocatedLayer):
            cache.layers[index] = plain(layer.keys, layer.values)


def extend(cache: Cache, entries: int) -> None:
    """Add entries of zeros to the growing layers, as a longer prompt would have left there."""
    for layer in entry_layers(cache):
        if isinstance(layer, _PreallocatedLayer):
            layer.update(*(x.new_zeros(*x.shape[:-2], entries, x.shape[-1]) for x in (layer.keys, layer.values)))


def room(cache: Cache) -> int | None:
    """Entries a static cache has left; None for a cache that grows."""
    static = [layer for layer in entry_layers(cache) if isinstance(layer, StaticLayer)]
    return min((layer.max_cache_len - int(layer.get_seq_length()) for layer in static), default=None)


def is_callers(cache: Cache | None) -> bool:
    """Whether a cache is one that the caller made or may go on with: of fixed size, or with entries."""
    return cache is not None and (room(cache) is not None or bool(length(cache)))


def keep(cache: Cache, count: int, rows: Sequence[int]) -> None:
    """One sequence: of the last `count` entries keep those at `rows` (ascending), moved together."""
    for layer in entry_layers(cache):
        if layer.is_initialized and getattr(layer, "added", count):
            _keep_of(layer, count, rows)


def cut(cache: Cache, entries: int) -> None:
    """One sequence: keep the first so many entries, also where a pass was interrupted between layers."""
    for layer in entry_layers(cache):
        more = getattr(layer, "added", int(layer.get_seq_length()) - entries) if layer.is_initialized else 0
        if more > 0:
            _keep_of(layer, more, ())


def _keep_of(layer: Any, count: int, rows: Sequence[int]) -> None:
    if isinstance(layer, INDEXED):  # of a chain, whose first entries stay
        layer.crop(-(count - len(rows)))
        return
    static = isinstance(layer, StaticLayer)
    start = (int(layer.get_seq_length()) if static else layer.keys.shape[-2]) - count
    end = start + len(rows)
    if list(rows) != list(range(len(rows))):
        source = torch.tensor(rows, device=layer.keys.device) + start
        for x in (layer.keys, layer.values):
            x[:, :, start:end] = x[:, :, source]
    if static:
        layer.cumulative_length.fill_(end)
    elif isinstance(layer, _PreallocatedLayer):
        layer.trim(end)
    elif not isinstance(layer, DynamicSlidingWindowLayer):  # beside a state
        layer.keys, layer.values = layer.keys[:, :, :end], layer.values[:, :, :end]
    else:
        layer.cumulative_length -= count - len(rows)
        keys, values = cast("tuple[torch.Tensor, torch.Tensor]", (layer.keys, layer.values))
        layer.keys, layer.values = keys[:, :, :end], values[:, :, :end]
        if layer.cumulative_length >= (window := layer.sliding_window):
            layer.keys, layer.values = layer.keys[:, :, 1 - window :], layer.values[:, :, 1 - window :]


def keep_rows(cache: Cache, lengths: Sequence[int], kept: Sequence[Sequence[int]]) -> None:
    """A batch: of the entries of a step keep each row's own, moved to where the row ends.

    Args:
        cache: after the step, made by `widen` and `prepare`.
        lengths: each row's entries before the step, which began at the longest.
        kept: each row's entries to keep, ascending, counted from the step's first; at least one.
    """
    start, most = max(lengths), max(map(len, kept))
    # Rows that keep fewer move their last one again: every row then moves as many.
    padded = [[*rows, *[rows[-1]] * (most - len(rows))] for rows in kept]
    source = torch.tensor(padded) + start
    steps = torch.arange(most)[None].clamp(max=torch.tensor([[len(rows) - 1] for rows in kept]))
    target = torch.tensor(lengths)[:, None] + steps
    used = max(length + len(rows) for length, rows in zip(lengths, kept, strict=True))
    for layer in entry_layers(cache):
        if layer.is_initialized and layer.added:
            layer.move(source.to(layer.device), target.to(layer.device))
            layer.trim(used)


def select_rows(cache: Cache, rows: Sequence[int], used: int) -> None:
    """Keep these rows of a batch only, and the first `used` entries."""
    crossed = getattr(cache, "cross_attention_cache", None)
    for layer in [*decoders_own(cache).layers, *(crossed.layers if crossed is not None else ())]:
        if isinstance(layer, LINEAR):
            for states in (layer.conv_states, layer.recurrent_states):
                states.update({i: state[list(rows)] for i, state in states.items() if state is not None})
        if _is_without_entries(layer) or not layer.is_initialized:
            continue
        if isinstance(layer, _PreallocatedLayer):
            layer.select(torch.tensor(rows, device=layer.device), used)
        else:
            layer.batch_select_indices(torch.tensor(rows, device=layer.keys.device))
