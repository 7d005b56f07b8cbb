"""Small learned tables."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from aded import Representative
from aded.representative import Interpolation

TEXTS = st.lists(st.integers(0, 12), min_size=0, max_size=80)


def small(**options: Any) -> Representative:
    return Representative(**{"memory_mb": 0.25, "vocab_size": 64, "fingerprint": "a", **options})


def predict(table: Representative, context: list[int]) -> list[tuple[int, float]]:
    return Interpolation([table]).predict(context)
