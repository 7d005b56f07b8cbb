"""Plain `generate`, our loop, and transformers' own ways to be faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import CompileConfig, StaticCache

from aded.bench.contenders import PLAIN, Contender
from aded.engines.base.runner import Answer
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.forward import CompiledRunner
from aded.engines.transformers.loading import Loaded
from aded.engines.transformers.runner import EngineRunner

NATIVE_LOOKUP = "hf-prompt-lookup"
COMPILED = "hf-compiled"


def _compiled_options(loaded: Loaded, tokens: int) -> dict[str, Any]:
    """A static cache for so many tokens, in steps of 512 so that few sizes are compiled, and `torch.compile`."""
    config = CompileConfig(mode="default" if loaded.model.device.type == "cpu" else "reduce-overhead")
    setattr(config, "_compile_all_devices", True)  # noqa: B010 - typed as None; plain transformers compiles on accelerators only
    cache = StaticCache(loaded.model.config, max_cache_len=-(-tokens // 512) * 512)
    return {CACHE: cache, "compile_config": config}


@dataclass
class EngineContender(Contender):
    """One way to decode with transformers."""

    natives = (PLAIN, NATIVE_LOOKUP, COMPILED)

    def __post_init__(self) -> None:
        self._sizes: set[tuple[int, int]] = set()  # that were compiled
        super().__post_init__()

    def runner(self) -> EngineRunner:
        """A runner with a new drafter."""
        return EngineRunner(self.loaded, self.drafter(), self.max_draft_tokens, self.compile)

    def answer(self, ids: torch.Tensor, **settings: Any) -> Answer:
        if not self.native:
            if self.compile:  # outside of the answer's time
                CompiledRunner(self.loaded.model).warm_up(ids.shape[1], ids.shape[1] + settings["max_new_tokens"])
            return self._runner.answer(ids, **settings)
        if self.name == COMPILED:
            return self._compiled(ids, **settings)
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1

        hook = self.loaded.model.register_forward_hook(count)
        try:
            options = {"prompt_lookup_num_tokens": 10} if self.name == NATIVE_LOOKUP else {}
            answer = self._runner.plain(ids, **settings, options=options)
        finally:
            hook.remove()
        answer.stats.steps = passes if len(ids) == 1 else len(answer.pieces)  # of a batch, each row counts its own
        return answer

    def _compiled(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """An answer that compiles nothing: the first of a size is asked for twice."""
        tokens = ids.shape[1] + settings["max_new_tokens"]
        size = -(-tokens // 512), len(ids)
        if size not in self._sizes:
            self._sizes.add(size)
            options = _compiled_options(self.loaded, tokens)
            self._runner.plain(ids, **settings | {"max_new_tokens": 8}, options=options)
        return self._runner.plain(ids, **settings, options=_compiled_options(self.loaded, tokens))
