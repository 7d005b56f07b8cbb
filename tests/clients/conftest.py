from __future__ import annotations

from collections.abc import Iterator

import pytest

import aded
from support.counted import Counted


@pytest.fixture
def counted(embedded) -> Iterator[Counted]:
    """The drafter of the embedded model, which is accelerated as soon as it is asked to count."""
    yield Counted()
    aded.restore(embedded[0])
