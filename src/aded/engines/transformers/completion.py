"""One answer of a transformers model, token by token."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from aded.drafters.base import Drafter
from aded.engines.base.completion import Processor, Sampling, Steps
from aded.engines.base.options import MaxDraftTokens
from aded.engines.transformers.api import generate
from aded.engines.transformers.loading import Loaded

_NO_LIMIT = 1 << 30  # tokens, where a model's positions need no table


class _Asked(LogitsProcessor):
    """A processor that knows no torch, for the one row there is."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        changed = scores[0].float().cpu().clone()
        self._processor(input_ids[0].tolist(), changed.numpy())
        return changed.to(scores)[None]


class _Tokens(BaseStreamer):
    """Tells of each token that nobody told of: those of plain decoding, asked for or fallen back to."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._seen = steps, -1  # the prompt comes first

    def put(self, value: torch.Tensor) -> None:
        self._seen += 1
        if self._seen > self._steps.tokens:
            self._steps.plain(int(value))

    def end(self) -> None:
        pass


class EngineCompleter:
    """See `Completer`."""

    at_once = True

    def __init__(self, loaded: Loaded) -> None:
        self._loaded, self._model = loaded, loaded.model

    @cached_property
    def context(self) -> int:
        config = self._model.config.get_text_config(decoder=True)
        return int(getattr(config, "max_position_embeddings", None) or _NO_LIMIT)

    def grammar_tokenizer(self) -> Any:
        """The vocabulary as llguidance takes it, at least as large as scores are."""
        from llguidance.hf import from_tokenizer

        tokenizer = self._loaded.tokenizer
        return from_tokenizer(tokenizer, n_vocab=max(self._loaded.vocab_size, len(tokenizer)))

    def aside(self) -> AbstractContextManager[Any]:
        """Torch draws random numbers for everybody from one place: leave it as it was."""
        device = self._model.device
        return torch.random.fork_rng([device] if device.type == "cuda" else [])

    def complete(
        self,
        prompt: list[int],
        sampling: Sampling,
        *,
        drafter: Drafter | None,
        max_draft_tokens: MaxDraftTokens,
        steps: Steps,
    ) -> None:
        ids = torch.tensor([prompt], device=self._model.device)
        options: dict[str, Any] = self._loaded.options(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
        options |= {"attention_mask": torch.ones_like(ids), "streamer": _Tokens(steps)}
        if sampling.processors:
            options["logits_processor"] = LogitsProcessorList([_Asked(one) for one in sampling.processors])
        if drafter is not None:
            options |= {"custom_generate": generate, "drafter": drafter, "max_draft_tokens": max_draft_tokens}
            options |= {"stats": steps, "on_unsupported": "fallback"}
        torch.manual_seed(sampling.seed)
        self._model.generate(ids, **options)
