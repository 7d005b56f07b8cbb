"""The drafter of a server: hundreds of requests, of which tables must stay small and prompts apart."""

from __future__ import annotations

from typing import Any

from aded import drafters
from aded.drafters.base import Drafter
from aded.engines.base.settings import Settings
from aded.errors import CorpusFileError

_SUCCESSORS = 8  # to keep of a context in the shared table: from kept tokens alone more are rare
_OWN_SUCCESSORS = 4  # in a request's own: few tokens follow a context there, and narrow tables hold more contexts


def server_drafter(settings: Settings, requests: int, *, corpus: Any = None) -> Drafter:
    """The drafter of a server that runs so many requests at once: prompts stay with their own, and tables are narrow.

    Args:
        corpus: one that is open already, in place of the one that is set.

    Raises:
        UnknownDrafterError: nobody is called that.
        CorpusFileError: it reads no corpus, or that is damaged.
    """
    name, corpus = settings.drafter, (settings.corpus or None) if corpus is None else corpus
    if corpus is not None and not drafters.takes(name, "corpus"):
        raise CorpusFileError(f"the drafter {name} reads no corpus; leave it out, or use adaptive")
    own = min(settings.sequence_mb, settings.sequences_mb / requests)
    wanted = {"memory_mb": settings.memory_mb, "successors": _SUCCESSORS, "reserve": True, "share": settings.share}
    wanted |= {"sequence_mb": own, "sequence_successors": _OWN_SUCCESSORS, "corpus": corpus}
    wanted |= {"tenant_mb": settings.tenant_mb, "tenants_mb": settings.tenants_mb}
    return drafters.create(name, **{option: value for option, value in wanted.items() if drafters.takes(name, option)})
