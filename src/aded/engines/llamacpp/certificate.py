"""Proof that an output is llama.cpp's own: replay it one token at a time and measure how close each choice was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.batch import Outcomes
from aded.engines.base.certificate import Certificate, certificate_of
from aded.engines.llamacpp.engine import LlamaEngine, clear
from aded.tree import DraftTree, Outcome


def certify(llama: Any, prompt: Sequence[int], output: Sequence[int]) -> Certificate:
    """Replay a greedy output through llama.cpp, one token at a time.

    What was in the cache is lost. Only raw scores are replayed: an output of penalties, biases or a grammar is not.

    Args:
        llama: a `llama_cpp.Llama`, accelerated or not.
        prompt, output: token ids; at least one of each.
    """
    if not prompt or not output:
        raise ValueError("a certificate needs at least one token of a prompt and one of an output")
    plain = _replay(llama, prompt, output, 1)
    replays = [_replay(llama, prompt, output, shape) for shape in (2, 4, 8, 33)]
    if llama.context_params.n_seq_max > 1:
        replays.append(_replay_branching(llama, prompt, output))
    return certificate_of(output, plain, replays)


def _begin(llama: Any, prompt: Sequence[int]) -> NDArray[np.float32]:
    """Put nothing but a prompt into the cache; its last logits (1, vocabulary)."""
    clear(llama)
    llama.eval(list(prompt))
    llama._requires_eval = True
    return LlamaEngine(llama, []).logits(-1)[None].copy()


def _replay(llama: Any, prompt: Sequence[int], output: Sequence[int], chunk: int) -> NDArray[np.float32]:
    """float32 logits (n, vocabulary) of each emitted token, the output fed `chunk` tokens a pass."""
    rows, engine = [_begin(llama, prompt)], LlamaEngine(llama, [])
    for start in range(0, len(output) - 1, chunk):
        piece = output[start : min(start + chunk, len(output) - 1)]
        llama._batch.set_batch(batch=piece, n_past=llama.n_tokens, logits_all=True)
        llama._ctx.decode(llama._batch)
        llama.input_ids[llama.n_tokens : llama.n_tokens + len(piece)] = piece
        llama.n_tokens += len(piece)
        rows.append(np.stack([engine.logits(i) for i in range(len(piece))]))
    return np.concatenate(rows)


def _replay_branching(llama: Any, prompt: Sequence[int], output: Sequence[int], depth: int = 4) -> NDArray[np.float32]:
    """The same, as accepted paths of trees whose other branches come first: entries of the cache change places."""
    rows, engine = [_begin(llama, prompt)], LlamaEngine(llama, [])
    start = 0
    while start < len(output) - 1:
        piece = output[start + 1 : min(start + 1 + depth, len(output) - 1)]
        tokens = [token for true in piece for token in ((true + 1) % llama._n_vocab, true)]
        tree = DraftTree.build(tokens, [2 * (i // 2) - 1 for i in range(len(tokens))])
        path = list(range(1, len(tokens), 2))
        engine.length, engine.last = len(prompt) + start + 1, output[start]
        (scores,) = engine.verify([0], [tree], 0)
        rows.append(scores.logits([0, *(node + 1 for node in path)]))
        engine.commit(Outcomes([Outcome([*piece, -1], tree, path=path)]))
        start += 1 + len(piece)
    return np.concatenate(rows)
