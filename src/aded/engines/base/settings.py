"""What a user of somebody else's server can set, through its own configuration or the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aded.deprecation import renamed
from aded.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """Set as `ADED_` and the name in capitals, or in vLLM's `additional_config` under "aded", which wins.

    Attributes:
        state: file to load what was learned from, if it exists, and to save it to; "" keeps it in memory. {rank} in it
            is the number of the data-parallel replica, {host} the machine's name.
        start: a state file to begin with where `state` is not there; it is only read.
        save_every_s: seconds between two saves; it is saved at the end in any case.
        corpus: a read-only corpus; several engines may share one.
        drafter: the name of who drafts.
        memory_mb: MiB of the table that all requests share.
        sequence_mb: MiB of each request's own table.
        sequences_mb: MiB of all requests' own tables together: each has as much of it, and at most `sequence_mb`.
        tenant_mb: MiB of the table of each tenant and each adapter.
        tenants_mb: MiB of all of these: the one not heard of for longest is forgotten for a new one.
        share: what other requests, and the state file, get of one: "answers" or "nothing".
        min_probability: no draft goes on where its path is less likely than this, whatever it costs. Its old name is
            `least`.
        max_draft_tokens: tokens of each draft, whatever they cost, or "auto": as many as pay.
        drafts_on: "device", where the model runs, which vLLM's Model Runner V2 alone can do; "host"; or "auto": on the
            device where that is a GPU that drafts as the host does in a trial.
    """

    state: str = ""
    start: str = ""
    save_every_s: float = 300.0
    corpus: str = ""
    drafter: str = "adaptive"
    memory_mb: float = 64.0
    sequence_mb: float = 2.0
    sequences_mb: float = 512.0
    tenant_mb: float = 8.0
    tenants_mb: float = 128.0
    share: str = "answers"
    min_probability: float = 0.05
    max_draft_tokens: str = "auto"
    drafts_on: str = "auto"

    def state_of(self, rank: int) -> Path | None:
        """The state file of a data-parallel replica; None where nothing is kept."""
        named = self.state.replace("{rank}", str(rank)).replace("{host}", socket.gethostname())
        return Path(named) if named else None

    def saves(self, rank: int) -> bool:
        """Whether a data-parallel replica saves: all do that have a file each, else the first."""
        return bool(self.state) and (rank == 0 or "{rank}" in self.state)

    @property
    def most(self) -> int | None:
        """Tokens of each draft; None: as many as pay."""
        return None if self.max_draft_tokens == "auto" else int(self.max_draft_tokens)

    @classmethod
    def read(cls, given: Any = None, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from `additional_config["aded"]` and the environment.

        Raises:
            SettingsError: a name that is none, or a value that does not fit.
        """
        given = {} if given is None else given
        if isinstance(given, Mapping):
            given = _with_new_names(given)
        environment = _with_new_names(environment)
        known: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(given, Mapping) or (unknown := sorted(set(given) - set(known))):
            what = unknown if isinstance(given, Mapping) else repr(given)
            raise SettingsError(f"additional_config['aded'] takes {', '.join(known)}, and not {what}")
        values = {}
        for name, kind in known.items():
            value = given.get(name, environment.get(f"ADED_{name.upper()}"))
            if value is None:
                continue
            try:
                values[name] = kind(value)
            except (TypeError, ValueError):
                raise SettingsError(f"{name} must be a {kind.__name__}, not {value!r}") from None
        settings = cls(**values)
        for name in ("save_every_s", "memory_mb", "sequence_mb", "sequences_mb", "tenant_mb"):
            if not getattr(settings, name) > 0:
                raise SettingsError(f"{name} must be positive, not {getattr(settings, name)}")
        if settings.tenants_mb < settings.tenant_mb:
            raise SettingsError(f"tenants_mb must be at least tenant_mb, not {settings.tenants_mb}")
        if settings.share not in ("answers", "nothing"):
            raise SettingsError(f'share must be "answers" or "nothing", not {settings.share!r}')
        if settings.drafts_on not in ("auto", "host", "device"):
            raise SettingsError(f'drafts_on must be "auto", "host" or "device", not {settings.drafts_on!r}')
        if not 0 < settings.min_probability < 1:
            raise SettingsError(f"min_probability must lie between 0 and 1, not {settings.min_probability}")
        if settings.max_draft_tokens != "auto" and not settings.max_draft_tokens.isdecimal():
            raise SettingsError(
                f'max_draft_tokens must be "auto" or a whole number from 0 on, not {settings.max_draft_tokens!r}'
            )
        return settings


def _with_new_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, those by an old name under their new one."""
    named = dict(given)
    for old, new in (("least", "min_probability"), ("ADED_LEAST", "ADED_MIN_PROBABILITY")):
        if old in named:
            renamed(old, new, stacklevel=5)
            named.setdefault(new, named.pop(old))
    return named
