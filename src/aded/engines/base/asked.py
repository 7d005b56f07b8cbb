"""What a request to somebody else's server asks of its drafts, beside the server's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aded import drafters
from aded.drafters.base import Drafter
from aded.drafters.sharing import Share, Sharing
from aded.errors import SettingsError

__all__ = ["Asked"]

_NAMES = ("aded_tenant", "aded_share", "aded_drafts")


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        tenant: on whose behalf it is; see `AdaptiveDrafter.sharing`.
        share: what others get of it; None: as the server is set.
        drafts: whether it has drafts. One that has none leaves nothing behind, either.
        adapter: the adapter that answers it. What it says, the model by itself would not.
    """

    tenant: str | None = None
    share: Share | None = None
    drafts: bool = True
    adapter: str | None = None

    @classmethod
    def read(cls, given: Any, adapter: str | None = None) -> Asked:
        """From what came with a request: "aded_tenant", a name; "aded_share", "answers" or "nothing"; "aded_drafts",
        "on" or "off". Other entries are somebody else's.

        Raises:
            SettingsError: a value that does not fit, or a name of ours that is none.
        """
        if not isinstance(given, Mapping):
            return cls(adapter=adapter)
        unknown = [name for name in given if isinstance(name, str) and name.startswith("aded") and name not in _NAMES]
        if unknown:
            raise SettingsError(f"a request takes {', '.join(_NAMES)}, and not {unknown[0]}")
        tenant, share, drafts = (given.get(name) for name in _NAMES)
        if tenant is not None and not (isinstance(tenant, str) and tenant):
            raise SettingsError(f"aded_tenant must be a name, not {tenant!r}")
        if share not in (None, "answers", "nothing"):
            raise SettingsError(f'aded_share must be "answers" or "nothing", not {share!r}')
        if drafts not in (None, "on", "off"):
            raise SettingsError(f'aded_drafts must be "on" or "off", not {drafts!r}')
        return cls(tenant, share, drafts != "off", adapter)

    @classmethod
    def or_nothing(cls, given: Any, adapter: str | None = None) -> Asked:
        """The same where it is too late to refuse: what cannot be read has no drafts and leaves nothing behind."""
        try:
            return cls.read(given, adapter)
        except SettingsError:
            return cls(drafts=False)

    def drafter(self, drafter: Drafter) -> Drafter | None:
        """A server's drafter as this request is to use it; None: as it is. Each adapter has a table of its own, or one
        for each of its tenants; a drafter that has no such tables drafts nothing for who asks for one."""
        share: Share | None = self.share if self.drafts else "nothing"
        if isinstance(drafter, Sharing):
            name = self.tenant if self.adapter is None else f"adapter\0{self.adapter}\0{self.tenant or ''}"
            return None if share is None and name is None else drafter.sharing(share, name)
        return None if share is None and self.tenant is None else drafters.create("none")
