"""Changes to a model, counted by user: the first caller makes them, the last one undoes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["RefCountedPatch"]


class RefCountedPatch:
    """One kind of change; callers in any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
