"""How functions of a server's are made to do more in this process. Plugins import it everywhere: nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["wrap"]


def wrap(owner: Any, name: str, by: Callable[[Any], Any]) -> None:
    """Put what `by` makes of a function in its place, once, however often it is called.

    Args:
        owner: the class or module that has it.

    Raises:
        AttributeError: there is none.
    """
    old = getattr(owner, name)
    if not hasattr(old, "by_aded"):
        new = by(old)
        new.by_aded = True
        setattr(owner, name, new)
