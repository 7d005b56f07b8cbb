"""Forward runners: how a step's pass is run, as the model runs it, or compiled for a few numbers of tokens.

A compiled pass knows the cache's place in memory: so static caches are kept in a pool from call to call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from transformers import CompileConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer

from aded.budget.cost import MAX_DRAFT_TOKENS
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import attention_windows, new_pass
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.masks import device_of, masks
from aded.tree import DraftTree

SIZES = (1, 8, 24, MAX_DRAFT_TOKENS + 1)  # tokens of a compiled step: each is compiled once for each size of the cache
_LEAST = 512  # entries of a static cache; each further size is twice the one before, so that few are compiled

_CALLS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {}  # compiled passes, by how they are compiled
_WARM: WeakKeyDictionary[Any, set[tuple[str | None, int]]] = WeakKeyDictionary()
_SPARE: WeakKeyDictionary[Any, list[list[StaticLayer]]] = WeakKeyDictionary()


class ForwardRunner:
    """The forward passes of one call of `generate` after its prompt: as the model makes them, in a cache that grows.

    Attributes:
        fixed: whether every pass has one of few shapes, and therefore an explicit mask.
        settings: how passes are compiled, as JSON; None if they are not.
        given: what every pass over tokens that mean nothing takes besides.
    """

    fixed: bool = False
    settings: str | None = None

    def __init__(self, model: Any) -> None:
        self._model = model
        self.given: dict[str, Any] = {}

    def begin(self, cache: Cache) -> None:
        """After the prompt."""
        kv.prepare(cache)

    def tokens(self, cache: Cache, count: int) -> int:
        """How many tokens a step of `count` is run with; room for them is made."""
        return count

    def run(self, inputs: dict[str, Any]) -> Any:
        """One pass."""
        new_pass()
        return self._model(**inputs, return_dict=True)

    def inputs(self, ids: torch.Tensor) -> dict[str, Any]:
        """Tokens as the model, or its decoder, takes them."""
        return {"decoder_input_ids" if self._model.config.is_encoder_decoder else "input_ids": ids, **self.given}

    def blank(self, cache: Cache, count: int) -> Any:
        """A pass over `count` tokens that mean nothing, one after the other."""
        ids = torch.ones(1, count, dtype=torch.long, device=device_of(self._model))
        return self.run({**self.inputs(ids), **with_cache(cache)})

    def end(self, cache: Cache) -> None:
        """Leave the cache as the library knows it."""
        kv.finish(cache)


class _StaticCachePool:
    """Puts a growing cache's entries into layers of fixed size and, in the end, back.

    Layers that a call no longer uses are kept with the model for the next; calls at the same time have their own. A
    cache that came with a fixed size is left as it is.
    """

    def __init__(self, model: Any) -> None:
        self._spare = _SPARE.setdefault(model, [])
        self._taken: list[StaticLayer] = []

    @staticmethod
    def sizes(first: int, last: int) -> list[int]:
        """The sizes a cache has, one after the other, as it grows from `first` entries to `last`."""
        sizes = [_LEAST]
        while sizes[-1] < last:
            sizes.append(2 * sizes[-1])
        return [size for size in sizes if size >= first]

    def take(self, cache: Cache, more: int) -> None:
        """See to it that `more` entries fit."""
        layers = cast("list[Any]", cache.layers)
        growing = [i for i, layer in enumerate(layers) if layer.is_initialized and type(layer) is DynamicLayer]
        ours = [i for i, layer in enumerate(layers) if any(layer is x for x in self._taken)]
        places = growing or ours
        if not places:
            return
        need = int(layers[places[0]].get_seq_length()) + more
        if not growing and need <= self._taken[0].max_cache_len:
            return
        size = self.sizes(need, need)[0]
        fixed: list[Any] = self._find(size, [layers[i] for i in places])
        for i, layer in zip(places, fixed, strict=True):
            used = int(layers[i].get_seq_length())
            layer.keys[:, :, :used] = layers[i].keys[:, :, :used]
            layer.values[:, :, :used] = layers[i].values[:, :, :used]
            layer.cumulative_length.fill_(used)
            layers[i] = layer
        self._drop()
        self._taken = fixed

    def give_back(self, cache: Cache) -> None:
        """Copy the entries into growing layers, and keep the fixed ones for the next call."""
        for i, layer in enumerate(cast("list[Any]", cache.layers)):
            if any(layer is x for x in self._taken):
                used = int(layer.get_seq_length())
                cache.layers[i] = kv.plain(layer.keys[:, :, :used].clone(), layer.values[:, :, :used].clone())
        self._drop()

    def _drop(self) -> None:
        if self._taken:
            self._spare[:] = [*self._spare[-3:], self._taken]
        self._taken = []

    def _find(self, size: int, like: list[Any]) -> list[StaticLayer]:
        shapes = [(size, layer.keys.dtype, layer.device) for layer in like]
        for kept in list(self._spare):
            if [(x.max_cache_len, cast("torch.Tensor", x.keys).dtype, x.device) for x in kept] == shapes:
                try:
                    self._spare.remove(kept)
                except ValueError:  # another thread was faster
                    continue
                return kept
        made = [StaticLayer(max_cache_len=size) for _ in like]
        for fixed, layer in zip(made, like, strict=True):
            fixed.lazy_initialization(layer.keys, layer.values)
        return made


class CompiledRunner(ForwardRunner):
    """Passes padded to one of `SIZES` tokens and compiled, in a cache of fixed size.

    A compiled pass holds for one shape. So the cache has room to spare, steps have few sizes, and the mask says what of
    either is real. On a GPU the default mode records CUDA graphs, which start a pass at once and not kernel by kernel.

    Args:
        config: how to compile; None: the compiler's default mode on a CPU, with CUDA graphs on a GPU.
    """

    fixed = True

    def __init__(self, model: Any, config: CompileConfig | None = None) -> None:
        super().__init__(model)
        self._pool = _StaticCachePool(model)
        if config is None:
            config = CompileConfig(mode="default" if model.device.type == "cpu" else "reduce-overhead")
        # Not `to_dict`, which copies a backend: each call would have one of its own, and compile anew.
        options = {name: value for name, value in vars(config).items() if not name.startswith("_")} | {"dynamic": False}
        self.settings = settings = json.dumps(options, sort_keys=True, default=repr)
        if settings not in _CALLS:
            _CALLS[settings] = torch.compile(_pass, **options)
        self._call = _CALLS[settings]

    def begin(self, cache: Cache) -> None:
        self._pool.take(cache, SIZES[-1])

    def tokens(self, cache: Cache, count: int) -> int:
        size = next((size for size in SIZES if size >= count), count)
        self._pool.take(cache, size)
        left = kv.room(cache)
        return size if left is None or size <= left else count  # a cache of the caller's own may be nearly full

    def run(self, inputs: dict[str, Any]) -> Any:
        if inputs["input_ids"].shape[1] not in SIZES:
            return super().run(inputs)
        # Strides are part of a shape: a view of something larger would be compiled anew.
        inputs = {
            name: value.clone(memory_format=torch.contiguous_format) if isinstance(value, torch.Tensor) else value
            for name, value in sorted(inputs.items())
            if value is not None and name != "logits_to_keep"
        }
        if self._model.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=4096):
            return self._call(self._model, inputs)

    def blank(self, cache: Cache, count: int) -> Any:
        model, start, tokens = self._model, int(cache.get_seq_length()), self.tokens(cache, count)
        return self.run(
            {
                "input_ids": torch.ones(1, tokens, dtype=torch.long, device=model.device),
                "attention_mask": masks(
                    model, attention_windows(model), cache, [DraftTree.chain(range(count - 1))], tokens
                ),
                "position_ids": torch.arange(start, start + tokens, device=model.device)[None],
                **with_cache(cache),
            }
        )

    @torch.no_grad()
    def warm_up(self, first: int, last: int) -> None:
        """Compile what is not yet compiled of all that a sequence needs as it grows from `first` tokens to `last`."""
        model, known = self._model, _WARM.setdefault(self._model, set())
        sizes = self._pool.sizes(first + SIZES[-1], last + SIZES[-1])
        if known.issuperset(new := {(self.settings, size) for size in sizes}):
            return
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        kv.widen(cache)
        with our_kernels(model, compiled=True):
            ForwardRunner(model).blank(cache, 1)
            for size in sizes:
                self._pool.take(cache, size - 1)
                for tokens in SIZES:
                    self.blank(cache, tokens)
                    kv.keep(cache, tokens, range(0))
        self.end(cache)
        known |= new

    def end(self, cache: Cache) -> None:
        self._pool.give_back(cache)


def _pass(model: Any, inputs: dict[str, Any]) -> Any:
    """What is compiled. It is given the model, and so keeps none alive."""
    return model(**inputs, return_dict=True)
