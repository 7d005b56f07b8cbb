"""SGLang's benchmark client, as `benchmarks.servers` calls it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks.serving import ENGINES, Wanted


def test_its_client_knows_what_it_is_asked(tmp_path: Path) -> None:
    """By its source: it imports packages that no server without pictures needs."""
    pytest.importorskip("sglang", reason="SGLang is not installed: make sglang-test")
    command = ENGINES["sglang"].client("m", 30001, Wanted(["one"], 4, 96, 0.5, tmp_path / "aded-4.json"))
    found = importlib.util.find_spec(command[2])
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).read_text()
    known = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source))
    assert {word for word in command if word.startswith("--")} <= known
    results = set(re.findall(r'^ +"(\w+)":', source, re.MULTILINE))
    assert {"completed", "output_throughput", "mean_tpot_ms", "mean_ttft_ms", "accept_length"} <= results
    for word in ("sglang-oai-chat", "openai"):
        assert f'"{word}"' in source + (Path(found.origin).parent / "datasets" / "__init__.py").read_text()
