"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aded.serve.answers import Answering

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """Counts of one server; prompts and answers are in none of them.

    Args:
        running, waiting: requests now.
    """

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._tokens = Counter("aded_tokens", "Tokens", ["kind"], registry=registry)
        self._drafts = Counter("aded_draft_tokens", "Draft tokens verified", ["outcome"], registry=registry)
        self._passes = Counter("aded_forward_passes", "Forward passes", registry=registry)
        self._part_s = Counter("aded_step_seconds", "Seconds of decoding, by part", ["part"], registry=registry)
        self.first_s = Histogram(
            "aded_time_to_first_token_seconds", "Until the first token", buckets=_SECONDS, registry=registry
        )
        self.whole_s = Histogram("aded_request_seconds", "Until the last token", buckets=_SECONDS, registry=registry)
        Gauge("aded_running_requests", "Requests being answered", registry=registry).set_function(running)
        Gauge("aded_waiting_requests", "Requests that wait", registry=registry).set_function(waiting)

    def count(self, prompt: int, answer: Answering) -> None:
        """One answer that ended, however it did, to a prompt of so many tokens."""
        stats = answer.steps
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("answer").inc(answer.emitted)
        self._drafts.labels("accepted").inc(answer.accepted)
        self._drafts.labels("rejected").inc(stats.drafted - answer.accepted)
        self._passes.inc(stats.passes)
        for part, seconds in (("draft", stats.draft_s), ("verify", stats.verify_s), ("learn", stats.learn_s)):
            self._part_s.labels(part).inc(seconds)

    def text(self) -> bytes:
        """In Prometheus' form."""
        return generate_latest(self._registry)
