"""Who takes part in a live benchmark: plain decoding, our loop with a drafter, an engine's own ways to be faster."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from aded import drafters
from aded.bench.contenders.base import PLAIN, Contender
from aded.engines.base.loaded import LoadedModel
from aded.errors import UnknownDrafterError
from aded.representative import Corpus, Representative

__all__ = ["PLAIN", "Contender", "contenders"]


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
