"""In vLLM's server: shows in /metrics what its workers count."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge

from aded.engines.vllm.meter import meter_file, read_facts

_EVERY_S = 1.0  # between two readings of a file

# Made once in a process: the client refuses a name twice.
_STEPS = Counter("aded_steps", "Steps, by whether they have drafts or why not.", ["engine", "drafts"])
_DRAFT_S = Counter("aded_draft_seconds", "Seconds spent on drafting.", ["engine"])
_LEARN_S = Counter("aded_learn_seconds", "Seconds spent on learning between two steps.", ["engine"])
_SAVES = Counter("aded_saves", "Times that what was learned was saved, or could not be.", ["engine", "outcome"])
_MODE: dict[str, Any] = {"multiprocess_mode": "mostrecent"}
_STEP_S = Gauge("aded_step_seconds", "Seconds of a step by its tokens, as learned.", ["engine", "tokens"], **_MODE)
_SHARE = Gauge(
    "aded_accepted_share",
    "Share of drafted tokens that is accepted, by place and probability; said: what the drafter said.",
    ["engine", "tokens", "kind"],
    **_MODE,
)
_CONTEXTS = Gauge("aded_table_contexts", "Contexts in the table that all requests share.", ["engine"], **_MODE)
_FILL = Gauge("aded_table_filled_share", "Share of that table that is used.", ["engine"], **_MODE)


class ServerMetrics:
    """The metrics of one server's engines.

    Args:
        instance: vLLM's name of the server, which its workers know too.
        engines: numbers of its data-parallel replicas.
    """

    def __init__(self, instance: str, engines: Iterable[int]) -> None:
        self._files = {str(engine): meter_file(instance, engine) for engine in engines}
        self._before: dict[tuple[Any, ...], float] = {}
        self._next = 0.0

    def refresh(self) -> None:
        """Read what the workers counted, if it was not read just now."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        for engine, file in self._files.items():
            if facts := read_facts(file):
                self._show(engine, facts)

    def _show(self, engine: str, facts: dict[str, Any]) -> None:
        for why, steps in facts.get("steps", {}).items():
            self._count(_STEPS, steps, engine, why)
        self._count(_DRAFT_S, facts.get("draft_seconds", 0.0), engine)
        self._count(_LEARN_S, facts.get("learn_seconds", 0.0), engine)
        self._count(_SAVES, facts.get("saves", 0), engine, "saved")
        self._count(_SAVES, facts.get("save_failures", 0), engine, "failed")
        for tokens, seconds in facts.get("step_seconds", {}).items():
            _STEP_S.labels(engine, tokens).set(seconds)
        for kind in ("accepted", "expected"):
            for tokens, share in facts.get(kind, {}).items():
                _SHARE.labels(engine, tokens, "said" if kind == "expected" else kind).set(share)
        if "contexts" in facts:
            _CONTEXTS.labels(engine).set(facts["contexts"])
            _FILL.labels(engine).set(facts["filled"])

    def _count(self, counter: Counter, total: float, *labels: str) -> None:
        """Bring a counter to a worker's total."""
        key = (id(counter), *labels)
        counter.labels(*labels).inc(max(total - self._before.get(key, 0.0), 0.0))
        self._before[key] = total
