"""Plain decoding, keeping the likeliest tokens at every position."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np

from aded.engines.llamacpp.likeliest import likeliest
from aded.engines.loaded import Watched
from aded.errors import ContextFullError

__all__ = ["ends_of", "watched"]


def ends_of(llama: Any) -> frozenset[int]:
    """Tokens that end a generation."""
    vocabulary = llama_cpp.llama_model_get_vocab(llama._model.model)
    return frozenset(i for i in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, i))


def watched(
    llama: Any, prompt: list[int], *, max_new_tokens: int, top_k: int, temperature: float, seed: int
) -> Watched:
    """Answer one prompt; see `LoadedModel.watched`.

    Raises:
        ContextFullError: the prompt fills the context.
    """
    most, ends = min(max_new_tokens, llama.n_ctx() - len(prompt)), ends_of(llama)
    if most < 1:
        raise ContextFullError(f"a prompt of {len(prompt)} tokens fills the context of {llama.n_ctx()}; shorten it")
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
    llama.reset()
    llama.set_seed(seed)
    tokens = llama.generate(prompt, temp=temperature, top_k=0, top_p=1.0, min_p=0.0)
    emitted, seen = [], []
    for _ in range(most):
        emitted.append(next(tokens))
        pointer = llama_cpp.llama_get_logits_ith(llama._ctx.ctx, -1)
        seen.append(likeliest(np.ctypeslib.as_array(pointer, shape=(1, llama.n_vocab())), top_k))
        if emitted[-1] in ends:
            break
    tokens.close()
    ids, probs = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    return Watched(np.asarray(emitted, np.int32), ids, probs)
