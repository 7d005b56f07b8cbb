"""Old names: they go on working for a while, and say what is called instead."""

from __future__ import annotations

import warnings
from typing import Any

from aded.errors import SettingsError

__all__ = ["renamed", "renamed_option"]


def renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that `old` is called `new` now."""
    warnings.warn(f"{old} is called {new} now, and will go; use {new}", DeprecationWarning, stacklevel=stacklevel)


def renamed_option(old: str, given: Any, new: str, value: Any, default: Any, *, stacklevel: int = 4) -> Any:
    """The value of an option that may have been given by its old name.

    Args:
        given: what was given by the old name; None: nothing.
        value: what was given by the new one.
        default: what stands there if nothing was given.

    Raises:
        SettingsError: it was given by both names.
    """
    if given is None:
        return value
    if value != default:
        raise SettingsError(f"{old} is the old name of {new}; give {new} only")
    renamed(f"{old}=", f"{new}=", stacklevel=stacklevel)
    return given
