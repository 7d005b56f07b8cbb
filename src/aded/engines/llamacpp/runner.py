"""Timed answers of llama.cpp, with and without us."""

from __future__ import annotations

import codecs
import time
from contextlib import ExitStack
from typing import Any

from aded.engines.base.certificate import Certificate
from aded.engines.base.runner import Answer, Runner
from aded.engines.llamacpp.api import accelerate
from aded.engines.llamacpp.certificate import certify
from aded.stats import Stats


class EngineRunner(Runner):
    """A loaded model and its drafter."""

    def warm_up(self, ids: list[int], max_new_tokens: int) -> None:
        settings = {"max_new_tokens": min(4, max_new_tokens), "temperature": 0.0, "top_p": 1.0, "seed": 0}
        self.plain(ids, **settings)
        EngineRunner(self.loaded, self.scratch(), self.max_draft_tokens).answer(ids, **settings)

    def certify(self, ids: list[int], row: int, emitted: list[int], settings: dict[str, Any]) -> Certificate | None:
        """See `Runner`; only greedy outputs can be replayed."""
        return certify(self.loaded.llama, ids, emitted) if settings["temperature"] == 0.0 else None

    def timed(self, ids: list[int], settings: dict[str, Any], stats: Stats | None) -> Answer:
        llama, on_text = self.loaded.llama, settings.get("on_text")
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        sampling = {"temp": settings["temperature"], "top_p": settings["top_p"], "seed": settings["seed"]}
        emitted: list[int] = []
        first = 0.0
        with ExitStack() as stack:
            if stats is not None:
                most = self.max_draft_tokens
                stack.callback(accelerate(llama, drafter=self.drafter, max_draft_tokens=most, stats=stats))
            tokens = self.loaded.tokens(ids, settings["max_new_tokens"], **sampling)
            started = time.perf_counter()
            for token in tokens:
                first = first or time.perf_counter()
                emitted.append(token)
                if on_text is not None:
                    on_text(decoder.decode(llama.detokenize([token])))
            seconds = time.perf_counter() - started
        if on_text is not None:
            on_text("\n")
        pieces = [llama.detokenize([token]).decode("utf-8", "replace") for token in emitted]
        return Answer(
            text=llama.detokenize(emitted).decode("utf-8", "replace"),
            pieces=pieces,
            rows=[emitted],
            seconds=seconds,
            first_s=(first or started) - started,
            stats=stats or Stats(tokens=len(emitted), steps=len(emitted)),
        )
