"""Changes to models that last as long as somebody needs them, made for some threads or for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from aded.forks import ForkLock


class RefCountedPatch:
    """One kind of change to models, counted by user in any number of threads: the last one undoes it."""

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    @contextmanager
    def to(self, model: Any, make: Callable[[], None], undo: Callable[[], None]) -> Iterator[None]:
        """Within it the change is there: `make` is called if nobody made it yet, `undo` if nobody needs it any more."""
        with self._lock:
            self._users[model] = self._users.get(model, 0) + 1
            if self._users[model] == 1:
                make()
        try:
            yield
        finally:
            with self._lock:
                self._users[model] -= 1
                if not self._users[model]:
                    del self._users[model]
                    undo()


class ThreadsPatch:
    """A change to models that is there for the threads that asked for it: others find it and go the plain way."""

    def __init__(self) -> None:
        self._patch = RefCountedPatch()
        self._active = threading.local()

    @property
    def on(self) -> bool:
        """Whether this thread asked for it."""
        return getattr(self._active, "on", False)

    @contextmanager
    def to(self, model: Any, make: Callable[[], None], undo: Callable[[], None]) -> Iterator[None]:
        """Within it this thread finds the change, unless it does so anyway; see `RefCountedPatch.to`."""
        if self.on:
            yield
            return
        with self._patch.to(model, make, undo), self._set(True):
            yield

    def wrap(self, model: Any, wrapped: Sequence[tuple[Any, str, Callable[..., Any]]]) -> AbstractContextManager[None]:
        """Within it methods of parts of a model are wrapped, whatever a wrapper of somebody else's made of them.

        Args:
            wrapped: parts, the name of a method of each, and what is called with that method before its arguments.
        """
        if not wrapped:
            return nullcontext()
        own = [vars(part).get(name) for part, name, _ in wrapped]  # of another wrapper's

        def put() -> None:
            for part, name, wrapper in wrapped:
                setattr(part, name, partial(wrapper, getattr(part, name)))

        def take() -> None:
            for (part, name, _), before in zip(wrapped, own, strict=True):
                delattr(part, name)
                if before is not None:
                    setattr(part, name, before)

        return self.to(model, put, take)

    def off(self) -> AbstractContextManager[None]:
        """Within it this thread goes the plain way."""
        return self._set(False)

    @contextmanager
    def _set(self, on: bool) -> Iterator[None]:
        before, self._active.on = self.on, on
        try:
            yield
        finally:
            self._active.on = before
