"""A corpus from the model itself: its recorded answers, and what it says after each token of its vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from aded.drafters.learning import CHOICE_WEIGHT, PROMPT_PROBABILITY
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.linear import fast_linear
from aded.engines.transformers.loading import Loaded
from aded.representative import Representative, context_windows
from aded.traces.trace import Trace

_TOP_K = 8


def learn_trace(table: Representative, trace: Trace) -> int:
    """Learn prompts as text and answers with their distributions, as the adaptive drafter does.

    Returns the tokens learned.
    """
    for sequence in trace.sequences:
        table.learn_text(sequence.prompt, probability=PROMPT_PROBABILITY)
        whole = np.concatenate([sequence.prompt, sequence.output])
        if sequence.top_ids is None or sequence.top_probs is None:
            table.learn_text(whole, start=len(sequence.prompt))
            continue
        contexts, chosen = context_windows(whole, table.context_length, len(sequence.prompt))
        ids, targets = sequence.top_ids.copy(), (1 - CHOICE_WEIGHT) * sequence.top_probs
        missing = ~(ids == chosen[:, None]).any(1)
        ids[missing, -1], targets[missing, -1] = chosen[missing], 0.0
        targets[ids == chosen[:, None]] += CHOICE_WEIGHT
        table.learn(contexts, ids, targets.astype(np.float32))
    return trace.tokens + sum(len(sequence.prompt) for sequence in trace.sequences)


@torch.no_grad()
def learn_vocabulary(
    table: Representative, loaded: Loaded, *, batch: int = 64, progress: Callable[[int, int], None] = lambda d, t: None
) -> int:
    """Ask the model what follows each single token at the start of an answer, and learn its likeliest tokens.

    These are the bigrams a fresh table lacks most. Returns the tokens asked about.
    """
    model = loaded.model
    start = loaded.prompt_ids([{"role": "user", "content": "Hello"}])
    vocabulary = int(model.config.get_text_config().vocab_size)
    with fast_linear(model):
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        model(input_ids=start, **with_cache(cache))
        cache.batch_repeat_interleave(batch)
        for first in range(0, vocabulary, batch):
            tokens = torch.arange(first, first + batch, device=model.device).clamp(max=vocabulary - 1)
            logits = model(input_ids=tokens[:, None], **with_cache(cache)).logits[:, -1].float()
            cache.crop(-1)
            best, ids = logits.topk(_TOP_K, dim=-1)
            probs = (best - logits.logsumexp(-1, keepdim=True)).exp()
            count = min(batch, vocabulary - first)
            contexts = np.full((count, table.context_length), -1, np.int32)
            contexts[:, -1] = tokens[:count].cpu().numpy()
            learned = ids[:count].to(torch.int32).cpu().numpy(), probs[:count].cpu().numpy()
            table.learn(contexts, *learned)
            progress(first + count, vocabulary)
    return vocabulary
