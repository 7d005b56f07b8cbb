"""An answer's text as it grows: whole characters only, and nothing of what a stop string may hide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoding shows for the first bytes of a character


class GrowingText:
    """Text of tokens that come one by one.

    Args:
        decode: the text of token ids.
        stop: strings before the first of which the text ends.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        # What tokens say depends on those before them: they are decoded with some that were told already.
        self._begin = self._told = 0
        self._held = ""  # the end of the text, while it may be the beginning of a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """One token more; returns what text is certain by now."""
        self._ids.append(token)
        before = self._decode(self._ids[self._begin : self._told])
        now = self._decode(self._ids[self._begin :])
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        self._begin, self._told = self._told, len(self._ids)
        return self._certain(now[len(before) :])

    def end(self) -> str:
        """No token follows; returns the rest."""
        before = self._decode(self._ids[self._begin : self._told])
        text = self._certain(self._decode(self._ids[self._begin :])[len(before) :])
        held, self._held, self._told = self._held, "", len(self._ids)
        return text + held

    def _certain(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self._held, self.stopped = "", True
            return text[: min(places)]
        kept = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that are the beginning of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
