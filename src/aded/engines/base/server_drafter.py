"""The drafter of a server: hundreds of requests, of which tables must stay small and prompts apart."""

from __future__ import annotations

from typing import Any

from aded import drafters
from aded.drafters.base import Drafter
from aded.engines.base.settings import Settings
from aded.errors import CorpusFileError

_SUCCESSORS = 8  # to keep of a context in the shared table: from kept tokens alone more are rare
_OWN_SUCCESSORS = 4  # in a request's own: few tokens follow a context there, and narrow tables hold more contexts


def server_drafter(
    name: str,
    *,
    memory_mb: float = 64.0,
    sequence_mb: float = 2.0,
    tenant_mb: float = 8.0,
    tenants_mb: float = 128.0,
    share: str = "answers",
    corpus: Any = None,
) -> Drafter:
    """A drafter by name as it serves hundreds of requests: prompts stay with their own, and tables are narrow.

    Raises:
        UnknownDrafterError: nobody is called that.
        CorpusFileError: it reads no corpus, or that is damaged.
    """
    if corpus is not None and not drafters.takes(name, "corpus"):
        raise CorpusFileError(f"the drafter {name} reads no corpus; leave it out, or use adaptive")
    wanted = {"memory_mb": memory_mb, "successors": _SUCCESSORS, "reserve": True, "share": share}
    wanted |= {"sequence_mb": sequence_mb, "sequence_successors": _OWN_SUCCESSORS, "corpus": corpus}
    wanted |= {"tenant_mb": tenant_mb, "tenants_mb": tenants_mb}
    return drafters.create(name, **{option: value for option, value in wanted.items() if drafters.takes(name, option)})


def drafter_of(settings: Settings, requests: int) -> Drafter:
    """The drafter of a server that runs so many requests at once.

    Raises:
        AdedError: see `server_drafter`.
    """
    sizes = {name: getattr(settings, name) for name in ("memory_mb", "tenant_mb", "tenants_mb")}
    own = min(settings.sequence_mb, settings.sequences_mb / requests)
    return server_drafter(
        settings.drafter, **sizes, sequence_mb=own, share=settings.share, corpus=settings.corpus or None
    )
