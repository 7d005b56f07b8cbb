"""A few hundred cases of each kind of file; `make robustness` runs many more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded import Representative, StateFileError
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


def test_a_refusal_shows_a_name_out_of_a_file_as_text_and_not_to_the_terminal(tmp_path: Path) -> None:
    table = Representative(memory_mb=0.02, fingerprint="\r\x1b[2Jother")
    table.learn_text(np.array([1, 2, 3], np.int32))
    table.save(tmp_path / "state")
    with pytest.raises(StateFileError, match="belongs to another model") as refused:
        Representative(memory_mb=0.02, fingerprint="mine").load(tmp_path / "state")
    assert str(refused.value).isprintable()
