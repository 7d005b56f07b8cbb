"""All rows of a batch chosen for at once, as plain decoding does.

Logits processors and stopping criteria may keep a state, count their calls, or look at all rows. Those of transformers
that do not are asked row by row, so that rows can run ahead of each other. All others are asked once for each position,
with all rows: no row is then ahead.
"""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.stopping_criteria import MaxLengthCriteria, MaxTimeCriteria

# Processors that look at all rows of a batch together.
_OF_WHOLE_BATCH = (
    PrefixConstrainedLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)


def looks_at_all(
    rows: int, config: GenerationConfig, processors: LogitsProcessorList, criteria: StoppingCriteriaList
) -> bool:
    """Whether a call needs its rows chosen for together; one that returns the cache does, which holds all rows."""
    asked = any(isinstance(x, _OF_WHOLE_BATCH) or not _is_librarys(x) for x in processors)
    asked |= any(not _is_librarys(x) for x in criteria)
    # Without an end-of-sequence token, rows go on until a criterion holds for all of them.
    endless = not any(hasattr(x, "eos_token_id") for x in criteria)
    endless &= any(not isinstance(x, MaxLengthCriteria | MaxTimeCriteria) for x in criteria)
    return rows > 1 and bool(config.return_dict_in_generate or asked or endless)


def _is_librarys(asked: Any) -> bool:
    """Whether a processor or criterion is transformers' own: those look at each row by itself, with few exceptions."""
    return type(asked).__module__.split(".")[0] == "transformers"


def of_row(processors: LogitsProcessorList, row: int) -> LogitsProcessorList:
    """Processors for one row of the batch they were made for."""
    chosen = LogitsProcessorList()
    for processor in processors:
        lengths = getattr(processor, "prompt_ignore_length", None)  # of each row's padding
        if isinstance(lengths, torch.Tensor):
            processor = copy(processor)
            processor.prompt_ignore_length = lengths[row : row + 1]
        chosen.append(processor)
    return chosen


class Together:
    """The choices of one call.

    Args:
        pad: what rows that have ended are filled up with.
        running: bool, (rows,): which rows go on, all of them at first.
        scores, logits: take what the choices are made from, (rows, vocabulary) each; None where nobody asks for it.
    """

    def __init__(
        self,
        config: GenerationConfig,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        pad: int,
        running: torch.Tensor,
        scores: list[torch.Tensor] | None,
        logits: list[torch.Tensor] | None,
    ) -> None:
        self._sample, self._processors, self._criteria, self._pad = config.do_sample, processors, criteria, pad
        self._running, self._scores, self._logits = running, scores, logits
        self._fills = any(hasattr(criterion, "eos_token_id") for criterion in criteria)

    def choose(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The next token of every row: ids (rows, length) and float32 logits (rows, vocabulary) -> (rows,)."""
        scores: torch.Tensor = self._processors(cast(Any, ids), cast(Any, logits))
        for kept, found in ((self._scores, scores), (self._logits, logits)):
            if kept is not None:
                kept.append(found)
        if self._sample:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = scores.argmax(-1)
        return torch.where(self._running, tokens, self._pad) if self._fills else tokens

    def ended(self, ids: torch.Tensor) -> list[bool]:
        """Which rows had ended before the last of these tokens; then the criteria are asked."""
        before: list[bool] = (~self._running).tolist()
        asked: Any = self._criteria(ids, None if self._scores is None else tuple(self._scores))
        self._running = self._running & ~asked
        return before if self._fills else [False] * len(before)

    def goes_on(self) -> list[bool]:
        """Which rows have a next token that is chosen: all until the last has ended, where none is filled up."""
        going: list[bool] = self._running.tolist()
        return going if self._fills else [any(going)] * len(going)
