"""Who drafts for a request, and how what was learned is kept."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from aded import drafters
from aded.drafters.base import Drafter, Saved
from aded.drafters.sharing import Share, for_call
from aded.errors import AdedError

PLAIN = "plain"  # in place of a drafter: decoding by the engine without us

_LOG = logging.getLogger("aded.serve")


class Drafters:
    """The drafters of a server: the one that requests get who name none, and others once they are named.

    Args:
        name, drafter: of the first.
        share: what other requests get of one; None: as the drafters are made.
        state: the file that the first is saved in.
        save_s: seconds between two saves.
    """

    def __init__(self, name: str, drafter: Drafter, share: Share | None, state: Path | None, save_s: float) -> None:
        self.name = name
        self._first, self._share, self._state = drafter, share, state
        self._made = {name: drafter}
        self._making, self._ended = threading.Lock(), threading.Event()
        self._saved = drafter.clock if isinstance(drafter, Saved) else None
        self._saver = threading.Thread(target=self._save_now_and_then, args=(save_s,), name="aded-save", daemon=True)
        if state is not None:
            self._saver.start()

    def of(self, name: str | None, tenant: str | None) -> Drafter | None:
        """Who drafts for a request; None: nobody, and not our loop either.

        Args:
            name: a drafter's, or `PLAIN`.
            tenant: on whose behalf: what one asks never drafts for another.

        Raises:
            UnknownDrafterError: nobody is called that.
            SettingsError: it cannot keep tenants apart, or cannot be told what to share.
        """
        if name == PLAIN:
            return None
        with self._making:
            wanted = name or self.name
            if wanted not in self._made:
                self._made[wanted] = drafters.create(wanted)
            return for_call(self._made[wanted], self._share, tenant)

    def save(self) -> None:
        """Save what was learned since the last time."""
        first = self._first
        if self._state is None or not isinstance(first, Saved) or first.clock == self._saved:
            return
        clock = first.clock
        first.save(self._state)
        self._saved = clock

    def close(self) -> None:
        """Save for the last time."""
        self._ended.set()
        if self._saver.is_alive():
            self._saver.join()
        self.save()

    def _save_now_and_then(self, save_s: float) -> None:
        while not self._ended.wait(save_s):
            try:
                self.save()
            except (AdedError, OSError) as error:  # the disk may have room again by the next time
                _LOG.warning("what was learned could not be saved: %s", error)
