"""A plugin of SGLang's: `--speculative-algorithm ADED`.

SGLang runs `register` in each of its processes wherever aded is installed. For anybody who does not ask for aded it
changes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["register"]

NAME = "ADED"
_log = logging.getLogger("sglang.aded")


def register() -> None:
    """Make the algorithm known. May be called several times in a process."""
    try:
        from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
        from sglang.srt.speculative.spec_registry import get_spec

        from aded.engines.sglang.algorithm import AdedAlgorithm
    except ImportError as error:
        _log.warning("this SGLang has no place for aded's plugin: %s", error)
        return
    if get_spec(NAME) is None:
        SpeculativeAlgorithm.register(NAME, supports_overlap=True, spec_class=AdedAlgorithm)(_worker)


def _worker(server_args: Any) -> type:
    from aded.engines.sglang.api import AdedWorker

    return AdedWorker
