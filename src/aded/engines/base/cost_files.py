"""Where step costs are kept: with the model in memory, and on disk by all that they depend on."""

from __future__ import annotations

import contextlib
import json
import platform
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aded.budget.cost import CostCurve
from aded.files import cache_folder, digest, replace

_FORMAT = "aded-step-cost-5"
_CURVES: weakref.WeakKeyDictionary[Any, dict[str, CostCurve]] = weakref.WeakKeyDictionary()


def kept_curve(
    model: Any, conditions: Mapping[str, Any], measure: Callable[[], CostCurve], *, on_disk: bool, renew: bool = False
) -> CostCurve:
    """The curve known under these conditions, measured if there is none.

    Args:
        model: with which it is kept in memory.
        conditions: all that step times depend on, as far as it can be told; plain values.
        on_disk: keep it for other processes too, unless measurements disagreed because the machine was busy.
        renew: measure again, whatever is known.
    """
    key = json.dumps(dict(conditions), sort_keys=True)
    known = _CURVES.setdefault(model, {})
    if key in known and not renew:
        return known[key]
    file = _file(key) if on_disk else None
    curve = None if renew or file is None else _read(file, key)
    if curve is None:
        curve = measure()
        if file is not None and curve.steady:
            text = json.dumps({"format": _FORMAT, "of": key, **curve.to_json()})
            with contextlib.suppress(OSError):  # where nothing can be kept, the next process measures again
                replace(file, text.encode())
    known[key] = curve
    return curve


def _file(key: str) -> Path | None:
    """Where a curve is kept; None where the user has no home folder."""
    try:
        return cache_folder() / "costs" / f"{digest(key.encode())}.json"
    except OSError:
        return None


def _read(file: Path, key: str) -> CostCurve | None:
    """The curve kept in `file`; None if there is none that can be used, which costs a measurement and nothing more."""
    try:
        kept = json.loads(file.read_text())
        return CostCurve.from_json(kept) if (kept["format"], kept["of"]) == (_FORMAT, key) else None
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError):
        return None


@cache
def processor() -> str:
    """The processor's name, as far as the system tells it."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return name
