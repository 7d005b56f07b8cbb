"""What keeps a server's learned state: read at the start, saved now and then and at the end."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Event, Thread

from aded.drafters.base import Drafter, Saved
from aded.engines.base.drafter_files import bind_drafter
from aded.engines.base.settings import Settings
from aded.errors import AdedError, SettingsError, StateFileError
from aded.representative.storage import STATE

__all__ = ["StateKeeper"]

_QUIET_S = 2.0  # without a step, after which what was learned is saved: a server may end without a word


class StateKeeper:
    """Of one drafter. What fails is logged: serving goes on.

    Args:
        drafter: what it learned is kept.
        settings: says where, and how often.
        rank: of the data-parallel replica.
        vocab_size, fingerprint: of whose tokens it drafts.
        log: the server's, under which what fails is said.

    Attributes:
        saves, failures: how often it was saved, and could not be.

    Raises:
        AdedError: a setting that does not fit, or a state file that cannot be used.
    """

    def __init__(
        self,
        drafter: Drafter | Saved,
        settings: Settings,
        *,
        rank: int,
        vocab_size: int,
        fingerprint: str,
        log: logging.Logger,
    ) -> None:
        state, start = settings.state_of(rank), Path(settings.start) if settings.start else None
        if (state is not None or start is not None) and not isinstance(drafter, Saved):
            raise SettingsError(f"the drafter {settings.drafter} keeps no state; leave out state and start")
        if start is not None and not start.is_file():
            raise StateFileError(f"there is no state file {start} to start with; check the path")
        bind_drafter(drafter, vocab_size, fingerprint, state if state and state.exists() else start)
        if state is not None:
            STATE.check_writable(state)
        self._drafter, self._log = drafter if isinstance(drafter, Saved) else None, log
        self._state, self._shared = state, True
        self._written = _version(state) if state is not None else None
        self._keeps, self._every_s = settings.saves(rank), settings.save_every_s
        self._done = Event()
        self._end: Finalize | None = None
        self.saves = self.failures = 0

    def save(self) -> None:
        """Save what was learned, where a state file was named.

        Where another engine has written the file since, what this one learned goes into one of its own.
        """
        if self._state is None or self._drafter is None:
            return
        if self._shared and (now := _version(self._state)) is not None and now != self._written:
            shared, name = self._state, f"{self._state.stem}-{socket.gethostname()}-{os.getpid()}{self._state.suffix}"
            self._state, self._shared = shared.with_name(name), False
            self._log.warning(
                "another engine writes %s too: what this one learns goes into %s; give each a file by {host} or {rank} "
                "in its name, and join them by aded state merge",
                shared,
                self._state,
            )
        try:
            self._drafter.save(self._state)
            self._written = _version(self._state)
            self.saves += 1
        except AdedError as error:
            self.failures += 1
            self._log.warning("%s", error)

    def watch(
        self,
        began: Callable[[], float],
        tell: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """Save now and then from a thread, and at the end.

        Args:
            began: when the last step did, by `time.perf_counter`.
            tell: called once a second while there are steps.
            end: called at the end, after the last save.
        """

        def finish() -> None:
            self._done.set()
            if self._keeps:
                self.save()
            end()

        def loop() -> None:
            known, then, told = self._clock() if self._keeps else 0, time.perf_counter(), 0.0
            while not self._done.wait(1.0):
                now = time.perf_counter()
                if began() != told:
                    told = began()
                    tell()
                quiet = now - began() > _QUIET_S and now - then > 5 * _QUIET_S
                if self._keeps and self._clock() != known and (quiet or now - then >= self._every_s):
                    known, then = self._clock(), now
                    self.save()

        Thread(target=loop, name="aded-house", daemon=True).start()
        # Runs at the end of worker processes too, which leave without `atexit`, unless their server kills them.
        self._end = Finalize(None, finish, exitpriority=100)

    def close(self) -> None:
        """The end, before that of the process."""
        if self._end is not None:
            self._end()

    def _clock(self) -> int:
        return 0 if self._drafter is None else self._drafter.clock


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes when somebody writes a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
