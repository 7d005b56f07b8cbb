"""What other sequences get of a call's, and on whose behalf it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from aded.drafters.base import Drafter
from aded.errors import SettingsError

__all__ = ["Share", "Sharing", "check_share", "for_call", "sharing"]

# What others get of a sequence; see `aded.drafters.adaptive.AdaptiveDrafter`.
Share = Literal["answers", "nothing", "all"]


@runtime_checkable
class Sharing(Protocol):
    """A drafter that can be told, call by call, what of it others get."""

    def sharing(self, share: Share | None = None, tenant: str | None = None) -> Drafter:
        """This drafter as one call is to use it."""
        ...


_SAID: ContextVar[tuple[Share | None, str | None]] = ContextVar("aded_sharing", default=(None, None))


@contextmanager
def sharing(share: Share | None = None, tenant: str | None = None) -> Iterator[None]:
    """Say for all calls within it what others get of them, and on whose behalf they are.

    For calls that take no such options: those of pipelines, of chains, of `llama_cpp.Llama`. It holds in this thread,
    or this task of asyncio; an option of a call goes before it.

    Args:
        share: "answers", "nothing" or "all"; see `aded.drafters.adaptive.AdaptiveDrafter`.
        tenant: a tenant's name.

    Raises:
        SettingsError: `share` or `tenant` is none.
    """
    before = _SAID.get()
    check_share(share)
    check_tenant(tenant)
    said = _SAID.set((share if share is not None else before[0], tenant if tenant is not None else before[1]))
    try:
        yield
    finally:
        _SAID.reset(said)


def for_call(drafter: Drafter, share: Share | None, tenant: str | None) -> Drafter:
    """The drafter as a call is to use it that was made with these options.

    Raises:
        SettingsError: this drafter cannot do so, or an option is none.
    """
    said = _SAID.get()
    share = said[0] if share is None else share
    tenant = said[1] if tenant is None else tenant
    if share is None and tenant is None:
        return drafter
    check_share(share)
    check_tenant(tenant)
    if not isinstance(drafter, Sharing):
        raise SettingsError(
            f"{type(drafter).__name__} cannot be told what to share; use the drafter adaptive, or leave out share and "
            "tenant"
        )
    return drafter.sharing(share, tenant)


def check_share(share: Any) -> Any:
    """The same, if it is one of `Share` or None."""
    if share is not None and share not in get_args(Share):
        raise SettingsError(f"share must be one of {', '.join(get_args(Share))}, not {share!r}")
    return share


def check_tenant(tenant: Any) -> None:
    if tenant is not None and not (isinstance(tenant, str) and tenant):
        raise SettingsError(f"a tenant has a name, not {tenant!r}")
