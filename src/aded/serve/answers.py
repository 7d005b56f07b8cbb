"""One answer in the making: tokens become text, log-probabilities and what the page draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aded.engines.base.completion import Sampling, Steps
from aded.engines.base.loaded import LoadedModel
from aded.serve.processors import LogProbs, TokenLogProbs
from aded.serve.text import GrowingText
from aded.serve.tracing import traced
from aded.tree import Outcome

Finish = Literal["stop", "length"]


class Ended(Exception):
    """An answer is complete, or nobody waits for it any more."""


@dataclass(frozen=True)
class Piece:
    """What a step adds to an answer.

    Attributes:
        text: certain by now; it may be that of earlier tokens.
        tokens: ids emitted, an end included.
        logprobs: of each, where they were asked for.
        trace: the step as the page draws it, where that was asked for.
        finish: why the answer ends with it; None: it goes on.
    """

    text: str
    tokens: list[int]
    logprobs: list[TokenLogProbs] = field(default_factory=list)
    trace: dict[str, Any] | None = None
    finish: Finish | None = None


class Answering:
    """Takes in what steps emit, and tells of it.

    Args:
        tell: given each piece, in the thread that decodes.
        stop: stop strings.
        logprobs: notes log-probabilities, one of `sampling`'s processors.
        trace: whether to tell of drafts.

    Attributes:
        steps: counts, and is what the engine tells of steps.
        emitted, accepted: tokens of the answer so far, an end included, and those of them that had been drafted.
        finish: why it ended; None as long as it goes on.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sampling: Sampling,
        tell: Callable[[Piece], None],
        *,
        stop: Sequence[str] = (),
        logprobs: LogProbs | None = None,
        trace: bool = False,
    ) -> None:
        self._loaded, self._tell, self._most = loaded, tell, sampling.max_new_tokens
        self._ends, self._text = loaded.ends, GrowingText(loaded.decode, stop)
        self._logprobs, self._trace = logprobs, trace
        self.steps = Steps(self._took)
        self.emitted = self.accepted = 0
        self.finish: Finish | None = None

    def _took(self, emitted: Sequence[int], outcome: Outcome | None) -> None:
        text, tokens, scored = "", [], []
        for token in emitted:
            tokens.append(token)
            if self._logprobs is not None:
                scored.append(self._logprobs.take(token))
            if token in self._ends:
                self.finish = "stop"
            else:
                text += self._text.add(token)
            self.emitted += 1
            if self._text.stopped:
                self.finish = "stop"
            if self.finish is None and self.emitted >= self._most:
                self.finish = "length"
            if self.finish is not None:
                text += self._text.end()
                break
        self.accepted += 0 if outcome is None else min(len(outcome.path), len(tokens))
        trace = traced(self._loaded, tokens, outcome, self.steps) if self._trace else None
        self._tell(Piece(text, tokens, scored, trace, self.finish))
        if self.finish is not None:
            raise Ended

    def close(self) -> None:
        """No step follows, whatever the reason."""
        if self.finish is None:
            self.finish = "length"
            self._tell(Piece(self._text.end(), [], finish=self.finish))
