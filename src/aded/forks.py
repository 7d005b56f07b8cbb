"""Locks that a fork leaves usable: a child would wait for ever for a lock that another thread held."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from numba.core.compiler_lock import global_compiler_lock

__all__ = ["ForkLock"]

_LOCKS: WeakSet[ForkLock] = WeakSet()


class _Held(threading.local):
    """How many fork locks this thread holds."""

    number = 0


class _Fork:
    """A fork that goes on in some thread: who holds no lock waits until it is done, or it would never get them all."""

    def __init__(self) -> None:
        self.waits, self.gate, self.locks = False, threading.Lock(), list[Any]()


_HELD, _FORK = _Held(), _Fork()


class ForkLock:
    """A re-entrant lock that is free when a process forks, and what it guards whole."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        if _FORK.waits and not _HELD.number:
            with _FORK.gate:
                pass
        self._lock.acquire()
        _HELD.number += 1

    def __exit__(self, *exception: object) -> None:
        _HELD.number -= 1
        self._lock.release()

    def __reduce__(self) -> Any:
        """Copied and pickled as a new one."""
        return ForkLock, ()

    acquire, release = __enter__, __exit__


def _before() -> None:
    """Wait until no other thread learns, saves or compiles. numba's lock comes last, as where it is taken by calls."""
    _FORK.gate.acquire()
    _FORK.waits = True
    while missing := [lock for lock in _all_locks() if lock not in _FORK.locks]:  # who holds one may make another
        for lock in missing:
            lock.acquire()
            _FORK.locks.append(lock)
    _FORK.locks.append(global_compiler_lock)
    global_compiler_lock.acquire()  # type: ignore[no-untyped-call]


def _all_locks() -> list[Any]:
    while True:
        with suppress(RuntimeError):  # another thread made one meanwhile
            return [lock._lock for lock in _LOCKS]


def _after() -> None:
    """In the parent and in the child, whose thread is the one that forked."""
    while _FORK.locks:
        _FORK.locks.pop().release()
    _FORK.waits = False
    _FORK.gate.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
