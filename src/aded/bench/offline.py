"""What a live run cannot show in the time: the same prompts replayed at many budgets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from aded import drafters
from aded.bench.contenders import Contender
from aded.engines.transformers.models import Loaded
from aded.traces.prompts import Prompt
from aded.traces.record import record
from aded.traces.replay import replay

__all__ = ["NODES", "mat_by_nodes"]

NODES = (1, 2, 4, 8, 16, 32, 64)


def mat_by_nodes(
    loaded: Loaded,
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    keep_state: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """MAT of each drafter among the contenders at each of `NODES`, on recorded answers to the prompts."""
    names = [contender.name for contender in contenders if not contender.native and contender.name != "none"]
    if not names:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        trace = record(loaded, list(prompts), Path(folder) / "trace.safetensors", max_new_tokens=max_new_tokens)
    found: dict[str, list[float]] = {}
    for name in names:
        found[name] = []
        for nodes in NODES:
            result = replay(trace, name, lambda name=name: drafters.create(name), nodes, keep_state=keep_state)  # type: ignore[misc]
            found[name].append(result.mat)
            progress(sum(map(len, found.values())), len(names) * len(NODES))
    return found
