"""What a worker counts for the server's /metrics, handed over in a file: vLLM has no other way for a drafter."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aded.budget import Budget
from aded.files import cache_folder, replace
from aded.stats import Timer

DRAFTED = "drafted"

_STALE_S = 86_400.0  # of a worker that writes once a second while it works


class Meter:
    """Counts steps; see `facts`.

    Args:
        budget, timer: of the steps.
        times: gives seconds of a step by its tokens, as learned.
    """

    def __init__(self, budget: Budget, timer: Timer, times: Callable[[], dict[int, float]]) -> None:
        self._budget, self._timer, self._times = budget, timer, times
        self._steps: Counter[str] = Counter()
        self._draft_s = self._learn_s = 0.0

    def step(self, drafted: int) -> None:
        """A step was proposed with so many draft tokens."""
        self._steps[DRAFTED if drafted else self._budget.without or "nothing to draft"] += 1
        self._draft_s += self._timer.draft_s
        self._learn_s += self._timer.learn_s

    def facts(self) -> dict[str, Any]:
        """All that is counted, as JSON can say it."""
        classes = self._budget.evidence.by_class() if self._budget.evidence else []
        return {
            "steps": dict(self._steps),
            "draft_seconds": self._draft_s,
            "learn_seconds": self._learn_s,
            "step_seconds": {str(tokens): seconds for tokens, seconds in self._times().items()},
            "accepted": {name: share for name, share, _ in classes},
            "expected": {name: share for name, _, share in classes},
        }


def meter_file(instance: str, rank: int) -> Path:
    """Where a data-parallel replica of an engine hands its facts over."""
    return cache_folder() / "serving" / f"{instance}-{rank}.json"


def forget_others(path: Path) -> None:
    """Remove what workers that were killed left beside a file.

    Raises:
        OSError: the folder cannot be read or written.
    """
    for other in path.parent.glob("*.json"):
        if time.time() - other.stat().st_mtime > _STALE_S:
            other.unlink(missing_ok=True)


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write facts, whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(facts).encode(), private=True)


def read_facts(path: Path) -> dict[str, Any]:
    """The same read again; nothing where there are none yet, or what is there is something else."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
