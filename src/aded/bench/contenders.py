"""Who takes part in a live benchmark: plain decoding, our loop with a drafter, transformers' own ways to be faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig, StaticCache

import aded.bench.peers  # noqa: F401 - registers them
from aded import drafters
from aded.drafters.base import Drafter
from aded.engines.answer import Answer
from aded.engines.transformers.models import Loaded
from aded.engines.transformers.runner import Runner
from aded.engines.transformers.steps import CompiledSteps
from aded.errors import UnknownDrafterError
from aded.representative import Corpus, Representative

__all__ = ["COMPILED", "NATIVE_LOOKUP", "PLAIN", "Contender", "contenders"]

PLAIN = "plain"
NATIVE_LOOKUP = "hf-prompt-lookup"
COMPILED = "hf-compiled"
_NATIVE = (PLAIN, NATIVE_LOOKUP, COMPILED)


def _compiled_options(loaded: Loaded, tokens: int) -> dict[str, Any]:
    """A static cache for so many tokens, in steps of 512 so that few sizes are compiled, and `torch.compile`."""
    config = CompileConfig(mode="default" if loaded.model.device.type == "cpu" else "reduce-overhead")
    setattr(config, "_compile_all_devices", True)  # noqa: B010 - typed as None; plain transformers compiles on accelerators only
    cache = StaticCache(loaded.model.config, max_cache_len=-(-tokens // 512) * 512)
    return {"past_key_values": cache, "compile_config": config}


@dataclass
class Contender:
    """One way to decode, with the state it has learned so far."""

    name: str
    loaded: Loaded
    nodes: Any
    corpus: Corpus | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        self._sizes: set[tuple[int, int]] = set()  # that were compiled
        self.forget()

    @property
    def native(self) -> bool:
        """Whether it is transformers' own decoding, without our loop."""
        return self.name in _NATIVE

    @property
    def state_mb(self) -> float | None:
        """MiB of learned state; None where there is none or it does not tell."""
        size = getattr(self._runner.drafter, "nbytes", None)
        return None if self.native or size is None else size / 2**20

    def forget(self) -> None:
        """Begin anew, with nothing learned."""
        self._runner = Runner(self.loaded, self.drafter(), self.nodes, self.compile)

    def drafter(self) -> Drafter:
        """A new drafter; `adaptive` alone reads a corpus."""
        options: dict[str, Any] = {"corpus": self.corpus} if self.name == "adaptive" else {}
        return drafters.create("none" if self.native else self.name, **options)

    def answer(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """Decode prompts; `settings` are `Runner.plain`'s. Passes of transformers' own decoding are counted outside."""
        if not self.native:
            if self.compile:  # outside of the answer's time
                CompiledSteps(self.loaded.model).warm_up(ids.shape[1], ids.shape[1] + settings["max_new_tokens"])
            return self._runner.answer(ids, **settings)
        if self.name == COMPILED:
            return self._compiled(ids, **settings)
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1

        hook = self.loaded.model.register_forward_hook(count)
        try:
            options = {"prompt_lookup_num_tokens": 10} if self.name == NATIVE_LOOKUP else {}
            answer = self._runner.plain(ids, **settings, options=options)
        finally:
            hook.remove()
        answer.stats.steps = passes if len(ids) == 1 else len(answer.pieces)  # of a batch, each row counts its own
        return answer

    def _compiled(self, ids: torch.Tensor, **settings: Any) -> Answer:
        """An answer that compiles nothing: the first of a size is asked for twice."""
        tokens = ids.shape[1] + settings["max_new_tokens"]
        size = -(-tokens // 512), len(ids)
        if size not in self._sizes:
            self._sizes.add(size)
            options = _compiled_options(self.loaded, tokens)
            self._runner.plain(ids, **settings | {"max_new_tokens": 8}, options=options)
        return self._runner.plain(ids, **settings, options=_compiled_options(self.loaded, tokens))

    def check(self, ids: torch.Tensor, plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Identity with plain decoding; see `Runner.compare`."""
        return self._runner.compare(ids, plain, answer, **settings)


def contenders(
    names: Sequence[str], loaded: Loaded, nodes: Any, corpus: Path | None = None, *, compile: bool = False
) -> list[Contender]:
    """Plain decoding first, then the named ones, each once; `compile` is for those that are ours.

    Raises:
        UnknownDrafterError: a name nobody has.
        CorpusFileError: the corpus is damaged, or of another model.
    """
    known = [*drafters.names(), *_NATIVE]
    for name in names:
        if name not in known:
            raise UnknownDrafterError(f"there is no contender {name!r}; choose from {', '.join(known)}")
    opened = None if corpus is None else Corpus.open(corpus)
    if opened is not None:
        vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        opened.check(Representative(memory_mb=1.0, vocab_size=vocabulary, fingerprint=loaded.fingerprint))
    return [Contender(name, loaded, nodes, opened, compile) for name in dict.fromkeys([PLAIN, *names])]
