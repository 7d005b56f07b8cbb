"""Locks that a fork leaves usable: a child would wait for ever for a lock that another thread held."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any
from weakref import WeakSet

from numba.core.compiler_lock import global_compiler_lock

__all__ = ["ForkLock"]

_ADDING = RLock()
_LOCKS: WeakSet[ForkLock] = WeakSet()
_held: list[Any] = []


class ForkLock:
    """A re-entrant lock that is free when a process forks, and what it guards whole."""

    def __init__(self) -> None:
        self._lock = RLock()
        with _ADDING:
            _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def __reduce__(self) -> Any:
        """Copied and pickled as a new one."""
        return ForkLock, ()

    acquire, release = __enter__, __exit__


def _before() -> None:
    """Wait until no other thread learns, saves or compiles. numba's lock comes last, as where it is taken by calls."""
    _ADDING.acquire()
    locks: list[Any] = [*_LOCKS, global_compiler_lock]
    for lock in locks:
        lock.acquire()
        _held.append(lock)


def _after() -> None:
    """In the parent and in the child, whose thread is the one that forked."""
    while _held:
        _held.pop().release()
    _ADDING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
