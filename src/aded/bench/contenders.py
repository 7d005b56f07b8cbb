"""Who takes part in a live benchmark: plain decoding, our loop with a drafter, transformers' own prompt lookup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import aded.bench.peers  # noqa: F401 - registers them
from aded import drafters
from aded.drafters.base import Drafter
from aded.engines.transformers.models import Loaded
from aded.engines.transformers.runner import Answer, Runner
from aded.errors import UnknownDrafterError
from aded.representative import Corpus, Representative

__all__ = ["NATIVE_LOOKUP", "PLAIN", "Contender", "contenders"]

PLAIN = "plain"
NATIVE_LOOKUP = "hf-prompt-lookup"
_NATIVE_OPTIONS: dict[str, dict[str, Any]] = {PLAIN: {}, NATIVE_LOOKUP: {"prompt_lookup_num_tokens": 10}}


@dataclass
class Contender:
    """One way to decode, with the state it has learned so far."""

    name: str
    loaded: Loaded
    nodes: Any
    corpus: Corpus | None = None

    def __post_init__(self) -> None:
        self.forget()

    @property
    def native(self) -> bool:
        """Whether it is transformers' own decoding, without our loop."""
        return self.name in _NATIVE_OPTIONS

    @property
    def state_mb(self) -> float | None:
        """MiB of learned state; None where there is none or it does not tell."""
        size = getattr(self._runner.drafter, "nbytes", None)
        return None if self.native or size is None else size / 2**20

    def forget(self) -> None:
        """Begin anew, with nothing learned."""
        self._runner = Runner(self.loaded, self.drafter(), self.nodes)

    def drafter(self) -> Drafter:
        """A new drafter; `adaptive` alone reads a corpus."""
        options: dict[str, Any] = {"corpus": self.corpus} if self.name == "adaptive" else {}
        return drafters.create("none" if self.native else self.name, **options)

    def answer(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """Decode prompts; `settings` are `Runner.plain`'s. Passes of transformers' own decoding are counted outside."""
        if not self.native:
            return self._runner.answer(ids, **settings)
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1

        hook = self.loaded.model.register_forward_hook(count)
        try:
            answer = self._runner.plain(ids, **settings, options=_NATIVE_OPTIONS[self.name])
        finally:
            hook.remove()
        answer.stats.steps = passes if len(ids) == 1 else len(answer.pieces)  # of a batch, each row counts its own
        return answer

    def check(self, ids: torch.Tensor, plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Identity with plain decoding; see `Runner.compare`."""
        return self._runner.compare(ids, plain, answer, **settings)


def contenders(names: Sequence[str], loaded: Loaded, nodes: Any, corpus: Path | None = None) -> list[Contender]:
    """Plain decoding first, then the named ones, each once.

    Raises:
        UnknownDrafterError: a name nobody has.
        CorpusFileError: the corpus is damaged, or of another model.
    """
    known = [*drafters.names(), *_NATIVE_OPTIONS]
    for name in names:
        if name not in known:
            raise UnknownDrafterError(f"there is no contender {name!r}; choose from {', '.join(known)}")
    opened = None if corpus is None else Corpus.open(corpus)
    if opened is not None:
        vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        opened.check(Representative(memory_mb=1.0, vocab_size=vocabulary, fingerprint=loaded.fingerprint))
    return [Contender(name, loaded, nodes, opened) for name in dict.fromkeys([PLAIN, *names])]
