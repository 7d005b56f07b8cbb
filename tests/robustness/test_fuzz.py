"""A few hundred cases of each kind of file; `make robustness` runs many more."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustness.fuzz import KINDS, check


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_a_right_checksum_and_wrong_contents(kind: str) -> None:
    refused: list[bool] = []

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def cases(data: st.DataObject) -> None:
        refused.append(check(kind, data.draw) is not None)

    cases()
    assert any(refused) or kind == "costs"
    assert not all(refused)
