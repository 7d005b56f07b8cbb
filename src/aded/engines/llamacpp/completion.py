"""One answer of llama.cpp, token by token."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from aded.drafters.base import Drafter
from aded.engines.base.completion import Processor, Sampling, Steps
from aded.engines.base.options import MaxDraftTokens
from aded.engines.llamacpp.api import accelerate
from aded.engines.llamacpp.loading import LoadedLlama


class EngineCompleter:
    """See `Completer`. The context holds one answer: the next one waits for its end."""

    at_once = False

    def __init__(self, loaded: LoadedLlama) -> None:
        self._loaded, self._llama = loaded, loaded.llama

    @cached_property
    def context(self) -> int:
        return int(self._llama.n_ctx())

    def grammar_tokenizer(self) -> Any:
        """The vocabulary as llguidance takes it."""
        from llguidance.llamacpp import lltokenizer_from_vocab

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it calls a function by its old name
            return lltokenizer_from_vocab(llama_cpp.llama_model_get_vocab(self._llama._model.model))

    def aside(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def complete(
        self,
        prompt: list[int],
        sampling: Sampling,
        *,
        drafter: Drafter | None,
        max_draft_tokens: MaxDraftTokens,
        steps: Steps,
    ) -> None:
        given: dict[str, Any] = {"temp": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        if sampling.processors:
            given["logits_processor"] = llama_cpp.LogitsProcessorList([_asked(one) for one in sampling.processors])
        with ExitStack() as stack:
            if drafter is not None:
                ours = accelerate(self._llama, drafter=drafter, max_draft_tokens=max_draft_tokens, stats=steps)
                stack.callback(ours)
            for token in self._loaded.tokens(prompt, sampling.max_new_tokens, **given):
                if drafter is None:
                    steps.plain(token)


def _asked(processor: Processor) -> Any:
    def processed(ids: NDArray[np.intc], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        changed = scores.copy()
        processor(ids.tolist(), changed)
        return changed

    return processed
