"""Forward runners: how a step's pass is run, as the model runs it, or compiled for a few numbers of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import CompileConfig
from transformers.cache_utils import Cache, DynamicCache

from aded.budget.cost import MAX_DRAFT_TOKENS
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import attention_windows, grouped_attention
from aded.engines.transformers.linear import fast_linear
from aded.engines.transformers.static_cache import StaticCachePool
from aded.tree import DraftTree

__all__ = ["SIZES", "CompiledRunner", "ForwardRunner"]

_WARM: WeakKeyDictionary[Any, set[tuple[str | None, int]]] = WeakKeyDictionary()
SIZES = (1, 8, 24, MAX_DRAFT_TOKENS + 1)  # tokens of a compiled step: each is compiled once for each size of the cache


class ForwardRunner:
    """The forward passes of one call of `generate` after its prompt: as the model makes them, in a cache that grows.

    Attributes:
        fixed: whether every pass has one of few shapes, and therefore an explicit mask.
        settings: how passes are compiled, as JSON; None if they are not.
    """

    fixed: bool = False
    settings: str | None = None

    def __init__(self, model: Any) -> None:
        self._model = model

    def begin(self, cache: Cache) -> None:
        """After the prompt."""
        kv.prepare(cache)

    def tokens(self, cache: Cache, count: int) -> int:
        """How many tokens a step of `count` is run with; room for them is made."""
        return count

    def run(self, inputs: dict[str, Any]) -> Any:
        """One pass."""
        return self._model(**inputs, return_dict=True)

    def blank(self, cache: Cache, count: int) -> Any:
        """A pass over `count` tokens that mean nothing, one after the other."""
        return self.run(
            {"input_ids": _blank(self._model, count), "past_key_values": cache, "use_cache": True},
        )

    def end(self, cache: Cache) -> None:
        """Leave the cache as the library knows it."""
        kv.finish(cache)


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
        self._pool = StaticCachePool(model)
        options = _options(model, config)
        self.settings = json.dumps(options, sort_keys=True, default=repr)
        self._call = _compiled(self.settings, options)

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
        windows, chain = attention_windows(model), DraftTree.chain(range(count - 1))
        masks = kv.masks(cache, [chain], tokens, None, None, windows, model.dtype, model.device)
        return self.run(
            {
                "input_ids": _blank(model, tokens),
                "attention_mask": masks if len(masks) > 1 else next(iter(masks.values())),
                "position_ids": torch.arange(start, start + tokens, device=model.device)[None],
                "past_key_values": cache,
                "use_cache": True,
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
        with fast_linear(model), grouped_attention(model):
            model(input_ids=_blank(model, 1), past_key_values=cache, use_cache=True)
            for size in sizes:
                self._pool.take(cache, size - 1)
                for tokens in SIZES:
                    self.blank(cache, tokens)
                    kv.keep(cache, tokens, range(0))
        self.end(cache)
        known |= new

    def end(self, cache: Cache) -> None:
        self._pool.give_back(cache)


def _blank(model: Any, tokens: int) -> torch.Tensor:
    return torch.ones(1, tokens, dtype=torch.long, device=model.device)


def _options(model: Any, config: CompileConfig | None) -> dict[str, Any]:
    """Arguments of `torch.compile`."""
    if config is None:
        config = CompileConfig(mode="default" if model.device.type == "cpu" else "reduce-overhead")
    # Not `to_dict`, which copies a backend: each call would have one of its own, and compile anew.
    given = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    return {**given, "dynamic": False}


def _compiled(settings: str, options: dict[str, Any]) -> Callable[[Any, dict[str, Any]], Any]:
    """A pass, compiled; `settings` tells one from another. It is given the model, and so keeps none alive."""
    if settings not in _CALLS:

        def run(model: Any, inputs: dict[str, Any]) -> Any:
            return model(**inputs, return_dict=True)

        _CALLS[settings] = torch.compile(run, **options)
    return _CALLS[settings]


_CALLS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {}
