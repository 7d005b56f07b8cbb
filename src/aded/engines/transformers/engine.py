"""A transformers model behind the loop: its own forward pass, logits processors and stopping criteria."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessorList

from aded.engines.transformers import cache as kv
from aded.errors import UnsupportedError
from aded.tree import DraftTree

__all__ = ["TransformersEngine"]


def attention_windows(model: Any) -> dict[str, int | None]:
    """The kinds of attention layer a model has, and the sliding window of each (None: it sees everything)."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
    other = kinds - {"full_attention", "sliding_attention"}
    if other:
        raise UnsupportedError(
            f"layers of kind {', '.join(sorted(other))} cannot verify drafts; decode it without ADED"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def verifies_trees(model: Any) -> bool:
    """Whether siblings can share a forward pass: positions and a 4D mask are inputs, not derived from the order.

    Models with ALiBi derive positions from the order of entries, and flash attention takes no 4D mask: they verify
    chains.
    """
    config = model.config.get_text_config(decoder=True)
    takes = inspect.signature(model.forward).parameters
    alibi = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
    return (
        "position_ids" in takes
        and "attention_mask" in takes
        and not alibi
        and config._attn_implementation in ("eager", "sdpa")
    )


class _Scores:
    """Logits of one forward pass; chooses tokens as `generate` does and records what it was asked to."""

    def __init__(self, engine: TransformersEngine, logits: torch.Tensor) -> None:
        self._engine = engine
        self._logits = logits.float()  # as generate does before any processor
        self._greedy = self._logits.argmax(-1).tolist() if engine.plain_greedy else None

    def choose(self, row: int) -> int:
        engine = self._engine
        if self._greedy is not None:
            token = self._greedy[row]
        else:
            logits = self._logits[row : row + 1].to(engine.ids.device, copy=True)
            scores = engine.processors(engine.ids, logits)
            engine.record(scores, logits)
            if engine.config.do_sample:
                token = int(torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1))
            else:
                token = int(scores.argmax(-1))
        engine.append(token)
        return token

    def top_k(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        best, ids = self._logits.topk(min(k, self._logits.shape[-1]), dim=-1)
        probs = (best - self._logits.logsumexp(-1, keepdim=True)).exp()
        return ids.to(torch.int32).cpu().numpy(), probs.cpu().numpy()


class TransformersEngine:
    """One sequence on one model.

    Args:
        model: any decoder-only transformers model.
        input_ids: the prompt, shape (1, length).
        generation_config: as `generate` prepared it.
        processors: every logits processor, in order.
        model_kwargs: what `generate` passes to its decoding methods (cache, masks, positions and the model's own).

    Attributes:
        ids: the sequence so far, shape (1, length).
        scores, logits: processed and raw scores of each emitted token where the configuration asks for them.
    """

    def __init__(
        self,
        model: Any,
        input_ids: Any,
        generation_config: GenerationConfig,
        processors: LogitsProcessorList,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.model, self.config, self.processors = model, generation_config, processors
        self.kwargs = model_kwargs
        self.windows = attention_windows(model)
        self.trees = verifies_trees(model)
        cache = model_kwargs.get("past_key_values")
        kv.check(cache)
        returns = generation_config.return_dict_in_generate
        self.scores: list[torch.Tensor] | None = [] if returns and generation_config.output_scores else None
        self.logits: list[torch.Tensor] | None = [] if returns and generation_config.output_logits else None
        self.plain_greedy = (
            not generation_config.do_sample and not processors and self.scores is None and self.logits is None
        )
        room = max(int(generation_config.max_length) - input_ids.shape[1], 0) + 1
        self._buffer = torch.cat([input_ids, input_ids.new_zeros(1, room)], dim=-1)
        self._length = input_ids.shape[1]
        self._mask: torch.Tensor | None = model_kwargs.get("attention_mask")
        self._count = 0

    @property
    def ids(self) -> Any:
        return self._buffer[:, : self._length]

    @property
    def cache(self) -> Any:
        return self.kwargs["past_key_values"]

    def append(self, token: int) -> None:
        """Make `token` the last of the sequence."""
        self._buffer[0, self._length] = token
        self._length += 1

    def record(self, scores: torch.Tensor, logits: torch.Tensor) -> None:
        """Keep what `return_dict_in_generate` asked for."""
        if self.scores is not None:
            self.scores.append(scores)
        if self.logits is not None:
            self.logits.append(logits)

    def prefill(self) -> _Scores:
        """Run the prompt, by the model's own prefill."""
        outputs = self.model._prefill(self.ids, self.config, self.kwargs)
        if outputs.get("past_key_values") is not None:
            self.kwargs["past_key_values"] = outputs.past_key_values
        kv.check(self.cache)
        kv.prepare(self.cache)
        self._position = positions[..., -1:] if (positions := self.kwargs.get("position_ids")) is not None else None
        return _Scores(self, outputs.logits[0, -1:])

    def verify(self, root: int, tree: DraftTree) -> _Scores:
        """Score the root and every node in one forward pass."""
        self._count = count = len(tree) + 1
        ids = self.ids
        if len(tree):
            ids = torch.cat([ids, torch.from_numpy(tree.tokens)[None].to(ids)], dim=-1)
        kwargs = dict(self.kwargs)
        if self._mask is not None:
            kwargs["attention_mask"] = torch.cat([self._mask, self._mask.new_ones(1, count)], dim=-1)
        if self._position is not None:
            depths = torch.from_numpy(np.concatenate([[0], tree.depths + 1])).to(self._position)
            kwargs["position_ids"] = self._position + 1 + depths
        for name in ("token_type_ids", "mm_token_type_ids"):
            if (types := kwargs.get(name)) is not None:
                kwargs[name] = types[:, -1:].expand(-1, count)
        if kwargs.get("logits_to_keep") is not None:
            kwargs["logits_to_keep"] = count
        inputs = self.model.prepare_inputs_for_generation(ids, next_sequence_length=count, **kwargs)
        if not tree.is_chain:
            padding = None if self._mask is None else self._mask[0].bool()
            masks = kv.masks(self.cache, tree, padding, self.windows, self.model.dtype, self.model.device)
            inputs["attention_mask"] = masks if len(masks) > 1 else next(iter(masks.values()))
        outputs = self.model(**inputs, return_dict=True)
        return _Scores(self, outputs.logits[0, -count:])

    def commit(self, path: Sequence[int]) -> None:
        """Keep the root's entry and those of the nodes in `path`."""
        kept = 1 + len(path)
        kv.keep(self.cache, self._count, [0, *(node + 1 for node in path)])
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(1, kept)], dim=-1)
        if self._position is not None:
            self._position = self._position + kept
