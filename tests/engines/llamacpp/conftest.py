"""What all tests of the llama.cpp engine have."""

from __future__ import annotations

import pytest

from aded.budget import CostCurve


@pytest.fixture(autouse=True)
def _measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asserts times."""
    measure = CostCurve.measure
    brief = lambda step, *, limit_s=0.3, **sizes: measure(step, limit_s=min(limit_s, 0.3), **sizes)  # noqa: E731
    monkeypatch.setattr(CostCurve, "measure", staticmethod(brief))
