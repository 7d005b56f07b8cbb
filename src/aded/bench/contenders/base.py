"""What contenders of every engine have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aded import drafters
from aded.drafters.base import Drafter
from aded.engines.base.answer import Answer
from aded.engines.base.runner import Runner
from aded.representative import Corpus

__all__ = ["PLAIN", "Contender"]

PLAIN = "plain"


@dataclass
class Contender:
    """One way to decode, with the state it has learned so far.

    Attributes:
        natives: the engine's own ways to decode, without our loop; plain decoding is the first.
    """

    natives: ClassVar[Sequence[str]] = (PLAIN,)

    name: str
    loaded: Any
    max_draft_tokens: Any
    corpus: Corpus | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        self.forget()

    @property
    def native(self) -> bool:
        """Whether it is the engine's own decoding."""
        return self.name in self.natives

    @property
    def state_mb(self) -> float | None:
        """MiB of learned state; None where there is none or it does not tell."""
        size = getattr(self._runner.drafter, "nbytes", None)
        return None if self.native or size is None else size / 2**20

    def forget(self) -> None:
        """Begin anew, with nothing learned."""
        self._runner: Runner = self.runner()

    def runner(self) -> Runner:
        """The engine's runner with a new drafter."""
        raise NotImplementedError

    def drafter(self) -> Drafter:
        """A new drafter, reading the corpus if it can."""
        name = "none" if self.native else self.name
        return drafters.create(name, **({"corpus": self.corpus} if drafters.takes(name, "corpus") else {}))

    def answer(self, ids: Any, **settings: Any) -> Answer:
        """Decode prompts; `settings` are the runner's. Passes of the engine's own decoding are counted outside."""
        raise NotImplementedError

    def check(self, ids: Any, plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Identity with plain decoding; see the runner's `compare`."""
        return self._runner.compare(ids, plain, answer, **settings)
