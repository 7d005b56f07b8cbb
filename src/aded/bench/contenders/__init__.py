"""Who takes part in a live benchmark: plain decoding, our loop with a drafter, an engine's own ways to be faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from aded import drafters
from aded.drafters.base import Drafter
from aded.engines.base.loaded import LoadedModel
from aded.engines.base.runner import Answer, Runner
from aded.errors import UnknownDrafterError
from aded.representative import Corpus, Representative

__all__ = ["PLAIN", "Contender", "contenders"]

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


def contenders(
    names: Sequence[str],
    loaded: LoadedModel,
    max_draft_tokens: Any,
    corpus: Path | None = None,
    *,
    compile: bool = False,
    engine: str = "transformers",
) -> list[Contender]:
    """Plain decoding first, then the named ones, each once; `compile` is for those that are ours.

    Raises:
        UnknownDrafterError: a name nobody has.
        CorpusFileError: the corpus is damaged, or of another model.
    """
    kind: type[Contender] = import_module(f"aded.bench.contenders.{engine}").EngineContender
    known = [*drafters.names(), *kind.natives]
    for name in names:
        if name not in known:
            raise UnknownDrafterError(f"there is no contender {name!r}; choose from {', '.join(known)}")
    opened = None if corpus is None else Corpus.open(corpus)
    if opened is not None:
        opened.check(Representative(memory_mb=1.0, vocab_size=loaded.vocab_size, fingerprint=loaded.fingerprint))
    return [kind(name, loaded, max_draft_tokens, opened, compile) for name in dict.fromkeys([PLAIN, *names])]
