"""Compiled inner loops of the adaptive drafter: what is learned of a step, and into which tables."""

from __future__ import annotations

import numpy as np

from aded.kernels.jit import jit, jit_nogil
from aded.representative.interpolation import em_update
from aded.representative.lookup import learn, table_of_slot
from aded.search.best_first import fill_context

# A prompt is text the target did not write: its tokens count as ones the target would give this much of its mass. From
# the replay below, tokens a step are alike from 0.5 to 0.6, and long copies are drafted further at 0.6.
PROMPT_PROBABILITY = 0.6
# A token that the target said, learned without what it thought likely besides: what is left goes to shorter contexts.
# From a replay of the trace that ships with the tests (105 answers of SmolLM2-135M-Instruct), 64 nodes, state kept:
# 3.55 tokens a step at 1, 3.94 at 0.5, 3.96 at 0.35, 3.94 at 0.25.
ANSWER_PROBABILITY = 0.35
# Of what is learned at a position, how much is the token chosen there.
CHOICE_WEIGHT = 0.5


@jit
def build_targets(tail, tokens, parents, path, ids, probs, emitted, choice_weight, contexts, chosen, targets):
    """Fill the context (n + 1, c) of every scored row, the token chosen there (-1 off the path), what to learn.

    On the path that is the distribution with `choice_weight` of its mass moved to the choice: under greedy decoding the
    next visit to a context most often chooses the same again, which the distribution alone underrates.
    """
    for row in range(len(tokens) + 1):
        fill_context(contexts[row], tail, tokens, parents, row - 1)
    chosen[:] = -1
    targets[:] = probs
    row = 0
    for i in range(len(emitted)):
        if ids[row, 0] < 0:
            return
        token = emitted[i]
        chosen[row] = token
        place = ids.shape[1] - 1
        for j in range(ids.shape[1]):
            targets[row, j] *= np.float32(1.0) - choice_weight
            if ids[row, j] == token:
                place = j
        if ids[row, place] != token:  # a token sampled from the tail replaces the least likely of the head
            ids[row, place] = token
            targets[row, place] = 0.0
        targets[row, place] += choice_weight
        if i >= len(path):
            return
        row = path[i] + 1


@jit
def learn_rows(layers, orders, shares, seen, steps, learned, mine, forgetting, contexts, chosen, ids, targets, clock):
    """Move the interpolation's weights, then each learned table, toward what was seen after each context."""
    em_update(layers, orders, shares, seen, contexts, chosen, steps[0], steps[1])
    for n in range(len(learned)):
        learn(learned[n], mine, contexts, ids, targets, clock, forgetting[n])


@jit
def hide_prompt(contexts, said):
    """Cut each context, int32 (n, c), where the prompt begins: before the last `said`, said + 1, ... tokens."""
    for i in range(len(contexts)):
        for j in range(contexts.shape[1] - said - i):
            contexts[i, j] = -1


# Learning holds no interpreter lock: a server runs its model meanwhile. Who calls it sees to it that nobody reads.
@jit_nogil
def learn_batch(
    pool, shared, orders, shares, seen, steps, mine, forgetting, slots, recent, emitted, clock, said, is_shared, sure
):
    """Learn the last `emitted` tokens of each sequence into its own table and, if shared, the first shared one.

    said: int64 (n,): tokens before those that are no prompt's; as many as a context holds where prompts are shared.
    sure: how probable the tokens count as in the shared table; in a sequence's own they are certain.
    """
    width = orders[-1]
    for r in range(len(slots)):
        n = emitted[r]
        contexts = np.empty((n, width), np.int32)
        tokens = recent[r, recent.shape[1] - n :].copy()
        for i in range(n):
            end = recent.shape[1] - n + i
            contexts[i] = recent[r, end - width : end]
        own = table_of_slot(pool, slots[r])
        ids, certain = tokens.reshape(n, 1), np.ones((n, 1), np.float32)
        layers, learned = (own, *shared), (own,)
        known = tokens if is_shared else np.full(n, -1, np.int32)
        learn_rows(layers, orders, shares, seen, steps, learned, mine, forgetting, contexts, known, ids, certain, clock)
        if is_shared:
            hide_prompt(contexts, said[r])
            learn(shared[0], mine, contexts, ids, certain * sure, clock, forgetting[1])
