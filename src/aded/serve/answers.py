"""One answer in the making: tokens become text, log-probabilities and what the page draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aded.engines.base.completion import Sampling, Steps
from aded.engines.base.loaded import LoadedModel
from aded.serve.processors import LogProbs, TokenLogProbs
from aded.serve.text import GrowingText
from aded.tree import DraftTree, Outcome

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
        ends: ids that end an answer.
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
        ends: frozenset[int],
        sampling: Sampling,
        tell: Callable[[Piece], None],
        *,
        stop: Sequence[str] = (),
        logprobs: LogProbs | None = None,
        trace: bool = False,
    ) -> None:
        self._loaded, self._ends, self._tell, self._most = loaded, ends, tell, sampling.max_new_tokens
        self._text = GrowingText(loaded.decode, stop)
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
        trace = self._traced(tokens, outcome) if self._trace else None
        self._tell(Piece(text, tokens, scored, trace, self.finish))
        if self.finish is not None:
            raise Ended

    def close(self) -> None:
        """No step follows, whatever the reason."""
        if self.finish is None:
            self.finish = "length"
            self._tell(Piece(self._text.end(), [], finish=self.finish))

    def _traced(self, tokens: list[int], outcome: Outcome | None) -> dict[str, Any]:
        """The step for the page: its tokens, its tree, and how long its parts took."""
        tree, path = (DraftTree.empty(), []) if outcome is None else (outcome.tree, list(outcome.path))
        shown: list[dict[str, Any]] = []
        for i, token in enumerate(tokens):
            drafted = i < len(path)
            row = 0 if i == 0 else path[i - 1] + 1 if i <= len(path) else None
            shown.append(
                {
                    "text": self._shown(token),
                    "drafted": drafted,
                    "depth": i + 1 if drafted else 0,
                    "drafter_probability": _edge(tree, path[i]) if drafted else None,
                    "probability": _probability(outcome, row, token),
                }
            )
        nodes = [
            {"text": self._shown(int(token)), "parent": int(parent), "probability": math.exp(float(log_prob))}
            for token, parent, log_prob in zip(tree.tokens, tree.parents, tree.log_probs, strict=True)
        ]
        steps = self.steps
        return {
            "tokens": shown,
            "nodes": nodes,
            "path": path,
            "seconds": {"draft": steps.draft_s, "verify": steps.verify_s, "learn": steps.learn_s},
        }

    def _shown(self, token: int) -> str:
        return self._loaded.shown(token)


def _edge(tree: DraftTree, node: int) -> float:
    """What the drafter gave a token after the ones before it."""
    parent = int(tree.parents[node])
    before = float(tree.log_probs[parent]) if parent >= 0 else 0.0
    return math.exp(min(float(tree.log_probs[node]) - before, 0.0))


def _probability(outcome: Outcome | None, row: int | None, token: int) -> float | None:
    """The model's, where the step brought it."""
    if outcome is None or outcome.top_ids is None or outcome.top_probs is None or row is None:
        return None
    for known, probability in zip(outcome.top_ids[row].tolist(), outcome.top_probs[row].tolist(), strict=True):
        if known == token:
            return float(probability)
    return None
