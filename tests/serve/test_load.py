"""Many clients at once: no answer is lost or mixed with another's, each is what the engine says plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.servers import served

pytest.importorskip("openai", reason="the extra dev brings it")

from benchmarks.serve_load import Kind, drive


def test_fifty_clients_at_once(tiny: Any, plain: Callable[..., list[int]]) -> None:
    loaded, _ = tiny
    kinds = []
    for number, text in enumerate(("the other nose", "another one", "in the ash", "no rest", "then")):
        said = plain(loaded.text_tokens(text), 24, 0.8 * (number % 2), number)
        answer = loaded.decode([token for token in said if token not in loaded.ends])
        kinds.append(Kind(text, answer, tokens=24, temperature=0.8 * (number % 2), seed=number))
    with served(*tiny, parallel=4, most_waiting=60) as address:
        found = drive(address, loaded.name, kinds, clients=50, seconds=3)
    assert found.wrong == found.failed == 0
    assert found.right > 50
