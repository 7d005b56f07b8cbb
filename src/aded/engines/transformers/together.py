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
    """Whether a call needs its rows chosen for together."""
    returned = config.return_dict_in_generate and (config.output_scores or config.output_logits)
    asked = any(isinstance(x, _OF_WHOLE_BATCH) or not _is_librarys(x) for x in processors)
    asked |= any(not _is_librarys(x) for x in criteria)
    # Without an end-of-sequence token, rows go on until a criterion holds for all of them.
    endless = not any(hasattr(x, "eos_token_id") for x in criteria)
    endless &= any(not isinstance(x, MaxLengthCriteria | MaxTimeCriteria) for x in criteria)
    return rows > 1 and bool(returned or asked or endless)


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

    Attributes:
        running: bool, (rows,): which rows go on.
        scores, logits: what the choices were made from, (rows, vocabulary) each, where the configuration asks for them.
    """

    def __init__(
        self, config: GenerationConfig, processors: LogitsProcessorList, criteria: StoppingCriteriaList, pad: int
    ) -> None:
        self._sample, self._processors, self._criteria, self._pad = config.do_sample, processors, criteria, pad
        self._fills = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        self.running: torch.Tensor | None = None
        returned = config.return_dict_in_generate
        self.scores: list[torch.Tensor] | None = [] if returned and config.output_scores else None
        self.logits: list[torch.Tensor] | None = [] if returned and config.output_logits else None

    def choose(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The next token of every row: ids (rows, length) and float32 logits (rows, vocabulary) -> (rows,)."""
        scores: torch.Tensor = self._processors(cast(Any, ids), cast(Any, logits))
        for kept, found in ((self.scores, scores), (self.logits, logits)):
            if kept is not None:
                kept.append(found)
        if self._sample:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = scores.argmax(-1)
        if self.running is None:
            self.running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        return torch.where(self.running, tokens, self._pad) if self._fills else tokens

    def ended(self, ids: torch.Tensor) -> list[bool]:
        """Which rows had ended before the last of these tokens; then the criteria are asked."""
        assert self.running is not None
        before: list[bool] = (~self.running).tolist()
        asked: Any = self._criteria(ids, None if self.scores is None else tuple(self.scores))
        self.running = self.running & ~asked
        return before if self._fills else [False] * len(before)

    def goes_on(self) -> list[bool]:
        """Which rows have a next token that is chosen: all until the last has ended, where none is filled up."""
        assert self.running is not None
        going: list[bool] = self.running.tolist()
        return going if self._fills else [any(going)] * len(going)
