"""What a live run cannot show in the time: the same prompts replayed at many budgets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from aded.bench.contenders import Contender
from aded.engines.base.loaded import LoadedModel
from aded.traces.prompts import Prompt
from aded.traces.record import record
from aded.traces.replay import replay

__all__ = ["NODES", "mat_by_nodes"]

NODES = (1, 2, 4, 8, 16, 32, 64)


def mat_by_nodes(
    loaded: LoadedModel,
    contenders: Sequence[Contender],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    keep_state: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """MAT of each drafter among the contenders at each of `NODES`, on recorded answers to the prompts."""
    drafting = [contender for contender in contenders if not contender.native and contender.name != "none"]
    if not drafting:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        trace = record(loaded, list(prompts), Path(folder) / "trace.safetensors", max_new_tokens=max_new_tokens)
    found: dict[str, list[float]] = {}
    for contender in drafting:
        figures = found.setdefault(contender.name, [])
        for nodes in NODES:
            figures.append(replay(trace, contender.name, contender.drafter, nodes, keep_state=keep_state).mat)
            progress(sum(map(len, found.values())), len(drafting) * len(NODES))
    return found
