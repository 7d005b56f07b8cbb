"""The kernels for devices, run by Triton's interpreter on a processor."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def device_module(name: str) -> Any:
    """A module of `aded.engines.device`; the test is skipped where Triton does not interpret, or is not there."""
    if os.environ.get("TRITON_INTERPRET") != "1":  # it is read when Triton is imported
        pytest.skip("Triton's interpreter is not asked for: make device-test")
    pytest.importorskip("triton", reason="Triton is not installed: make device-test")
    return importlib.import_module(f"aded.engines.device.{name}")
