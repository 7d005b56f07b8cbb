"""A drafter in a few lines: it repeats what followed the last two tokens when they came before."""

from __future__ import annotations

from collections.abc import Sequence

import aded
from aded.engines.transformers.loading import load


@aded.register("echo")
class Echo:
    """What all sequences share would be here: nothing. `top_k`: it learns from no scores."""

    top_k = 0

    def start(self, prompt: Sequence[int]) -> _Echo:
        return _Echo(list(prompt))


class _Echo:
    """One sequence."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def draft(self, max_nodes: int) -> aded.DraftTree:
        tokens = self._tokens
        for place in range(len(tokens) - 2, 1, -1):
            if tokens[place - 2 : place] == tokens[-2:]:
                return aded.DraftTree.chain(tokens[place : place + max_nodes])
        return aded.DraftTree.empty()

    def observe(self, outcome: aded.Outcome) -> None:
        self._tokens += outcome.emitted


loaded = load(None)
ids = loaded.prompt_ids([{"role": "user", "content": "Repeat three times: apple, banana, cherry, date."}])
stats = aded.Stats()
output = loaded.model.generate(
    ids,
    max_new_tokens=60,
    do_sample=False,
    custom_generate=aded.generate,
    drafter="echo",
    max_draft_tokens=8,
    stats=stats,
)
print(loaded.decode(output[0, ids.shape[1] :].tolist()))
print(f"\n{stats.tokens} tokens in {stats.steps} passes, {stats.accepted} of {stats.drafted} draft tokens accepted")
