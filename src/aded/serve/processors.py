"""What changes or reads the scores of a token before it is chosen: penalties, biases, grammars, log-probabilities."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import SettingsError

JSON_OBJECT = {"type": "object"}


class Penalties:
    """OpenAI's presence and frequency penalties over what was answered so far, and its biases by token id.

    Raises:
        SettingsError: an id is none of the vocabulary.
    """

    def __init__(
        self, prompt: int, vocabulary: int, *, presence: float, frequency: float, bias: Mapping[str, float]
    ) -> None:
        self._prompt, self._presence, self._frequency = prompt, np.float32(presence), np.float32(frequency)
        known = [token for token in bias if token.isascii() and token.isdecimal() and int(token) < vocabulary]
        if wrong := sorted(bias.keys() - set(known)):
            raise SettingsError(f"logit_bias: {wrong[0]!r} is no token id; ids are whole numbers below {vocabulary}")
        self._ids = np.array([int(token) for token in known], np.int64)
        self._bias = np.array([bias[token] for token in known], np.float32)

    def __call__(self, ids: Sequence[int], scores: NDArray[np.float32]) -> None:
        if self._presence or self._frequency:
            said, counts = np.unique(np.asarray(ids[self._prompt :], np.int64), return_counts=True)
            scores[said] -= self._presence + self._frequency * counts.astype(np.float32)
        np.add.at(scores, self._ids, self._bias)


@dataclass(frozen=True)
class TokenLogProbs:
    """Natural logarithms of probabilities at one position, under the model's own scores.

    Attributes:
        logprob: of the token that was chosen.
        top: the likeliest tokens and theirs, best first.
    """

    logprob: float
    top: list[tuple[int, float]]


class LogProbs:
    """Notes how likely tokens are at every position that is chosen for; asked before anything changes scores.

    Args:
        top: tokens to name at each position.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._noted: deque[NDArray[np.float32]] = deque()  # scores of tokens that were not told yet

    def __call__(self, ids: Sequence[int], scores: NDArray[np.float32]) -> None:
        self._noted.append(scores.copy())

    def take(self, token: int) -> TokenLogProbs:
        """Those of the next token, in the order in which tokens were chosen."""
        scores = self._noted.popleft()
        best = float(scores.max())
        total = best + float(np.log(np.exp((scores - best).astype(np.float64)).sum()))
        top = np.argpartition(-scores, self._top - 1)[: self._top] if self._top else np.empty(0, np.int64)
        top = top[np.argsort(-scores[top], kind="stable")]
        named = [(int(i), float(scores[i]) - total) for i in top]
        return TokenLogProbs(float(scores[token]) - total, named)


class Grammar:
    """Lets through only tokens with which the answer stays valid JSON of a schema (by llguidance).

    Args:
        tokenizer: llguidance's form of the model's.
        prompt: tokens before the answer.
        schema: a JSON schema; True is any value.

    Raises:
        SettingsError: the schema cannot be followed.
    """

    def __init__(self, tokenizer: Any, prompt: int, schema: Mapping[str, Any] | bool) -> None:
        import llguidance
        import llguidance.numpy as masks

        self._masks, self._known = masks, prompt
        text = json.dumps(schema if isinstance(schema, bool) else dict(schema))
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text)
        if wrong := llguidance.LLMatcher.validate_grammar(grammar, tokenizer):
            raise SettingsError(f"response_format: this JSON schema cannot be followed: {wrong}")
        self._matcher = llguidance.LLMatcher(tokenizer, grammar)
        self._mask = masks.allocate_token_bitmask(1, tokenizer.vocab_size)

    def __call__(self, ids: Sequence[int], scores: NDArray[np.float32]) -> None:
        self._matcher.consume_tokens(list(ids[self._known :]))
        self._known = len(ids)
        self._masks.fill_next_token_bitmask(self._matcher, self._mask)
        self._masks.apply_token_bitmask_inplace(scores[None], self._mask)
