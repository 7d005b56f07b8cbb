"""Who decodes and when: requests wait in one line, and some of them are answered in turns, a step each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aded.drafters.base import Drafter
from aded.engines.base.completion import Completer, Sampling
from aded.engines.base.options import MaxDraftTokens
from aded.serve.answers import Answering, Ended


class FullError(Exception):
    """As many requests wait as may."""


@dataclass
class Choice:
    """One answer that is asked for."""

    prompt: list[int]
    sampling: Sampling
    answering: Answering


@dataclass(eq=False)
class Job:
    """A request: its answers are made one after the other.

    Attributes:
        choices: its answers, not yet begun; each is told of by its number.
        drafter: None decodes by the engine alone.
        done: called once, in whatever thread: with what went wrong, or None.
        cancelled: nobody waits for it any more: it ends with its next step, or before it began.
    """

    choices: Sequence[Choice]
    drafter: Drafter | None
    max_draft_tokens: MaxDraftTokens
    done: Callable[[BaseException | None], None]
    cancelled: bool = False


class Turns:
    """A lock that goes round: whoever waited longest is next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def take(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)


class Worker:
    """Threads that answer.

    Args:
        parallel: requests answered in turns; the others wait. One pass runs at a time, so that each is as fast, and its
            scores have the same bits, as if it were alone.
        most_waiting: requests that may wait; more are refused.
    """

    def __init__(self, completer: Completer, *, parallel: int, most_waiting: int) -> None:
        self._completer, self._most_waiting = completer, most_waiting
        self._turns = Turns()
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.running = 0
        count = parallel if completer.at_once else 1
        self._threads = [
            threading.Thread(target=self._work, name=f"aded-answer-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that were not begun."""
        return len(self._line)

    def submit(self, job: Job) -> None:
        """Put a request into the line.

        Raises:
            FullError: it is full, or the server is about to end.
        """
        with self._changed:
            free = len(self._threads) - self.running
            if self._closed or len(self._line) >= self._most_waiting + free:
                raise FullError
            self._line.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for it: its place is free at once, or after its step."""
        job.cancelled = True
        with self._changed:
            if job in self._line:
                self._line.remove(job)

    def close(self) -> None:
        """End what is running after its step, begin nothing more, and wait for that."""
        with self._changed:
            self._closed = True
            left, self._line = list(self._line), deque()
            self._changed.notify_all()
        for job in left:
            job.done(FullError())
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return
                job = self._line.popleft()
                self.running += 1
            try:
                self._turns.take()
                try:
                    self._answer(job)
                finally:
                    self._turns.give()
            except BaseException as error:  # the client is told, and the next one served
                job.done(error)
            else:
                job.done(None)
            finally:
                with self._changed:
                    self.running -= 1

    def _answer(self, job: Job) -> None:
        for choice in job.choices:
            if job.cancelled or self._closed:
                return
            given: dict[str, Any] = {"drafter": job.drafter, "max_draft_tokens": job.max_draft_tokens}
            with suppress(Ended):
                self._completer.complete(choice.prompt, choice.sampling, **given, steps=choice.answering.steps)
            choice.answering.close()

    def after_step(self, job: Job) -> None:
        """Let the others have a step each.

        Raises:
            Ended: nobody waits for this one any more.
        """
        if self._turns.wanted:
            with self._completer.aside():
                self._turns.give()
                self._turns.take()
        if job.cancelled or self._closed:
            raise Ended
