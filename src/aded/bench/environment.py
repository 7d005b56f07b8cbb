"""What a figure was measured on."""

from __future__ import annotations

import datetime
import platform
from importlib import metadata
from typing import Any

import psutil

from aded.engines.base.cost_files import processor
from aded.engines.base.loaded import LoadedModel


def environment(loaded: LoadedModel) -> dict[str, Any]:
    """Machine, software, model and date, as plain values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": loaded.name,
        "processor": processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("aded", "numpy", "numba")},
        **loaded.facts(),
    }
