"""Whether drafts are made where the model runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aded.drafters.base import Drafter, Movable
from aded.engines.base.settings import Settings
from aded.errors import SettingsError

if TYPE_CHECKING:
    import torch


def drafts_there(
    drafter: Drafter, settings: Settings, device: torch.device | None, log: logging.Logger
) -> Movable | None:
    """The drafter, if it is to draft on the device; None: on the host.

    Args:
        device: where the model runs, if drafts can be taken from there.

    Raises:
        SettingsError: it is set to, and cannot.
    """
    if settings.drafts_on == "host" or (settings.drafts_on == "auto" and (device is None or device.type == "cpu")):
        return None
    why = "this engine takes drafts from the host alone"
    if device is not None:
        why = _why_not(drafter, device)
    if not why and isinstance(drafter, Movable):
        log.info("drafts are made on %s", device)
        return drafter
    if settings.drafts_on == "device":
        raise SettingsError(f'drafts cannot be made on the device: {why}; set drafts_on to "auto" or "host"')
    log.warning("drafts are made on the host, and each step waits for them: %s", why)
    return None


def _why_not(drafter: Drafter, device: torch.device) -> str:
    if not isinstance(drafter, Movable) or drafter.sequence_mb <= 0:
        return "only the adaptive drafter knows how to"
    try:
        from aded.engines.device.trial import why_not
    except ImportError as error:
        return f"Triton cannot be used ({error})"
    return why_not(device)
