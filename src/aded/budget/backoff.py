"""Steps without drafts, after drafts did not pay."""

from __future__ import annotations

_PATIENCE = 3  # drafts in a row that may fail to pay before any step is passed over
_MOST = 16  # steps from one draft to the next, at most: the machine or the text may have changed


class Backoff:
    """After four drafts in a row that did not pay one step is skipped, after the next three, seven, then fifteen."""

    def __init__(self) -> None:
        self._idle = self._left = 0

    @property
    def active(self) -> bool:
        """Whether steps are left to pass over."""
        return self._left > 0

    def skip(self) -> bool:
        """Whether to pass over this step; asked once a step."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def record(self, pays: bool, *, felt: bool = True) -> None:
        """Take in whether a draft paid. Where drafting takes no time that is felt, no step is passed over."""
        self._idle = 0 if pays else self._idle + 1
        self._left = min(2 ** (self._idle - _PATIENCE), _MOST) - 1 if felt and self._idle > _PATIENCE else 0
