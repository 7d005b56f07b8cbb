"""Plain llama.cpp, our loop, and llama-cpp-python's own prompt lookup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from aded import drafters
from aded.bench.contenders import PLAIN, Contender
from aded.engines.base.runner import Answer
from aded.engines.llamacpp.loading import LoadedLlama
from aded.engines.llamacpp.runner import EngineRunner

# Its documentation recommends ten tokens in general and two where there is no GPU.
_LOOKUPS = {"llama-prompt-lookup-2": 2, "llama-prompt-lookup-10": 10}


@dataclass
class EngineContender(Contender):
    """One way to decode with llama.cpp."""

    natives = (PLAIN, *_LOOKUPS)

    def runner(self) -> EngineRunner:
        """A runner with a new drafter; a draft model of llama-cpp-python's is in a context of its own."""
        if self.name not in _LOOKUPS:
            return EngineRunner(self.loaded, self.drafter(), self.max_draft_tokens)
        if not hasattr(self, "_stock"):
            like, lookup = self.loaded.llama, LlamaPromptLookupDecoding(num_pred_tokens=_LOOKUPS[self.name])
            stock = llama_cpp.Llama(
                like.model_path,
                n_ctx=like.n_ctx(),
                n_threads=like.n_threads,
                n_threads_batch=like.n_threads_batch,
                flash_attn=True,
                draft_model=lookup,
                logits_all=True,  # implied by a draft model, and yet without it there is room for one batch of scores
                verbose=False,
            )
            self._stock = LoadedLlama(self.loaded.name, stock)
        return EngineRunner(self._stock, drafters.create("none"), 0)

    def answer(self, ids: list[int], **settings: Any) -> Answer:
        settings = {key: value for key, value in settings.items() if key != "mask"}
        if not self.native:
            return self._runner.answer(ids, **settings)
        if self.name == PLAIN:
            return self._runner.plain(ids, **settings)
        llama, passes = self._runner.loaded.llama, 0
        evaluate = llama.eval

        def count(tokens: Any) -> None:
            nonlocal passes
            passes += 1
            evaluate(tokens)

        llama.eval = count
        try:
            answer: Answer = self._runner.plain(ids, **settings)
        finally:
            del llama.eval
        answer.stats.steps = passes
        return answer
