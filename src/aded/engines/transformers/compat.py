"""What differs between releases of transformers, found out by what they offer and not by their number.

From 5.24 on the cache is given to a model, and returned, as `cache`; before, as `past_key_values`.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from typing import Any

import transformers
from transformers import GenerationMixin
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from aded.errors import UnsupportedError

__all__ = ["CACHE", "cache_of", "check_release", "code_of", "unsupported", "with_cache"]

CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"

# What of the library's internals is called: (whose, name, parameters it must take).
_CALLED: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
    (GenerationMixin, "_prefill", ("input_ids", "generation_config", "model_kwargs")),
    (GenerationMixin, "prepare_inputs_for_generation", ("next_sequence_length", CACHE)),
    (DynamicSlidingWindowLayer, "activate_past_recording", ()),
    (DynamicSlidingWindowLayer, "get_mask_sizes", ("query_length",)),
)


def with_cache(cache: Any) -> dict[str, Any]:
    """How a model is given a cache that it is to fill."""
    return {CACHE: cache, "use_cache": True}


def cache_of(outputs: Any) -> Any:
    """The cache a model or `generate` returned; None where it returned none."""
    return getattr(outputs, CACHE, None)


def code_of(module: str) -> str | None:
    """The source of a module that is loaded; None where it cannot be read."""
    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return None


def check_release() -> None:
    """Refuse a release whose internals are not those that are called here.

    Raises:
        UnsupportedError: it names what is missing.
    """
    for owner, name, parameters in _CALLED:
        function = getattr(owner, name, None)
        if function is None or not set(parameters) <= set(inspect.signature(function).parameters):
            raise unsupported(f"{owner.__name__}.{name} is another there")


def unsupported(reason: str) -> UnsupportedError:
    """What to say of a release that cannot work."""
    return UnsupportedError(
        f"transformers {transformers.__version__} is not supported ({reason}); install 5.23 or 5.24"
    )
