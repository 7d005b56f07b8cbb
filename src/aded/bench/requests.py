"""What is asked of every contender: prompts turn by turn, in batches, or with long contexts before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aded.engines.base.loaded import LoadedModel
from aded.traces.prompts import Prompt


@dataclass(frozen=True)
class Request:
    """Prompts to answer at once.

    Attributes:
        name: see `Prompt.turn_name`; a batch names its first and its last.
        first: whether it begins a conversation.
        ids: as the engine's runner takes them; of a batch a tensor (rows, length), padded on the left.
        mask: a tensor (rows, length), 0 at padding; None for a single prompt.
        reply: told plain decoding's answer, with which a conversation goes on.
    """

    name: str
    category: str
    first: bool
    ids: Any
    mask: Any
    reply: Callable[[str], None]


def requests(loaded: LoadedModel, prompts: Sequence[Prompt], batch_size: int = 1) -> Iterator[Request]:
    """Every turn of every prompt; in batches, first turns only."""
    if batch_size > 1:
        for start in range(0, len(prompts), batch_size):
            yield _batch(loaded, prompts[start : start + batch_size])
        return
    for prompt in prompts:
        messages: list[dict[str, str]] = []
        for turn, text in enumerate(prompt.turns):
            messages.append({"role": "user", "content": text})

            def reply(answer: str, messages: list[dict[str, str]] = messages) -> None:
                messages.append({"role": "assistant", "content": answer})

            ids = loaded.prompt_ids(messages)
            yield Request(prompt.turn_name(turn), prompt.category, turn == 0, ids, None, reply)


def _batch(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Request:
    import torch  # only the engine that takes batches has it

    rows = [loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}])[0] for prompt in prompts]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    ids, mask = pad(rows), pad([torch.ones_like(row) for row in rows])
    category = prompts[0].category if len({prompt.category for prompt in prompts}) == 1 else "mixed"
    name = prompts[0].name if len(prompts) == 1 else f"{prompts[0].name}-{prompts[-1].name}"
    return Request(name, category, True, ids, mask, lambda answer: None)


def lengthened(
    prompts: Sequence[Prompt], texts: Sequence[str], tokens: int, count: Callable[[str], int]
) -> list[Prompt]:
    """Prompts with other texts before their first turn, as many as stay within `tokens` tokens; none twice in one."""
    sizes = [count(text) for text in texts]
    longer = []
    for number, prompt in enumerate(prompts):
        free, before = tokens - count(prompt.turns[0]), []
        for step in range(len(texts)):
            # Each prompt begins elsewhere, or all would have the same words before them.
            place = (number * len(texts) // max(len(prompts), 1) + step) % len(texts)
            if texts[place] not in prompt.turns and sizes[place] < free:
                before.append(texts[place])
                free -= sizes[place] + 2
            if free < 32:
                break
        longer.append(replace(prompt, turns=("\n\n".join([*before, prompt.turns[0]]), *prompt.turns[1:])))
    return longer
