"""Slots of a server's requests, by the names that the server has for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator


class NamedSlots:
    """A slot for each request that is running, and, while nobody else needs it, for one that was put off.

    Args:
        count: slots; at least as many as requests can run at once.
    """

    def __init__(self, count: int) -> None:
        self._slots: OrderedDict[str, int] = OrderedDict()  # by name, the one not seen for longest first
        self._free = list(reversed(range(count)))

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def find(self, name: str) -> int | None:
        """The slot of a request that is running; None where it has none."""
        slot = self._slots.get(name)
        if slot is not None:
            self._slots.move_to_end(name)
        return slot

    def give(self, name: str) -> int:
        """A slot for a request that has none: a free one, or that of the one not seen for longest."""
        if not self._free:
            self.release([next(iter(self._slots))])
        slot = self._slots[name] = self._free.pop()
        return slot

    def release(self, names: Iterable[str]) -> list[int]:
        """Requests have ended: the slots of those that had any."""
        slots = [self._slots.pop(name) for name in names if name in self._slots]
        self._free += slots
        return slots

    def clear(self) -> list[int]:
        """All have ended."""
        return self.release(list(self._slots))
