"""From single runs to the figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from aded.bench.contenders import PLAIN
from aded.bench.live import Run

__all__ = ["acceptance_by_depth", "as_rows", "summarise"]

MAX_DEPTH = 16


def summarise(runs: Sequence[Run], *, engine: str, state_mb: dict[str, float | None]) -> list[dict[str, Any]]:
    """One object a contender, in the order they appear.

    `speedup` is the median over requests and repeats of the contender's tokens a second over plain decoding's of the
    same request and repeat; `speedup_low` and `speedup_high` are the quartiles, and `speedup_after_first` leaves
    out the prompt's time. Shares are parts of a step of our loop.
    """
    plain = {(run.prompt, run.repeat): run for run in runs if run.contender == PLAIN}
    results = []
    for name in dict.fromkeys(run.contender for run in runs):
        mine = [run for run in runs if run.contender == name]
        categories = dict.fromkeys(run.category for run in mine)
        loop_s = sum(run.draft_s + run.verify_s + run.learn_s for run in mine)
        requests = {run.prompt: run for run in mine}
        outcomes = [
            [run for run in mine if run.prompt == prompt and not (run.identical or run.tie)] for prompt in requests
        ]
        results.append(
            {
                "drafter": name,
                "engine": engine,
                **_speed(mine, plain),
                "prompts": len(requests),
                "repeats": 1 + max(run.repeat for run in mine),
                "identical": all(run.identical for run in mine),
                "ties": sum(
                    any(run.prompt == prompt and run.tie for run in mine) and not outcome
                    for prompt, outcome in zip(requests, outcomes, strict=True)
                ),
                "differences": sum(bool(outcome) for outcome in outcomes),
                "time_to_first_token_s": float(np.median([run.first_s for run in mine])),
                **{
                    f"{part}_share": sum(getattr(run, f"{part}_s") for run in mine) / loop_s if loop_s else 0.0
                    for part in ("draft", "verify", "learn")
                },
                "parts_ms": _parts_ms(mine),
                "step_ms": 1e3 * sum(run.seconds for run in mine) / sum(run.steps for run in mine),
                "nodes_used": sum(run.drafted for run in mine) / max(sum(len(run.accepted) for run in mine), 1),
                "peak_memory_mb": max(run.peak_mb for run in mine),
                "state_mb": state_mb.get(name),
                "acceptance_by_depth": acceptance_by_depth([count for run in mine for count in run.accepted]),
                "by_category": {
                    category: _speed([run for run in mine if run.category == category], plain)
                    for category in categories
                },
            }
        )
    return results


def _parts_ms(mine: Sequence[Run]) -> dict[str, float]:
    """Mean milliseconds a step in each part of our loop and outside it; empty where it is not our loop."""
    parts = {part: sum(getattr(run, f"{part}_s") for run in mine) for part in ("draft", "verify", "learn")}
    if not any(parts.values()):
        return {}
    parts["rest"] = sum(run.seconds for run in mine) - sum(parts.values())
    return {part: 1e3 * seconds / sum(run.steps for run in mine) for part, seconds in parts.items()}


def _speed(mine: Sequence[Run], plain: dict[tuple[str, int], Run]) -> dict[str, Any]:
    ratios, after_first = [], []
    for run in mine:
        base = plain[run.prompt, run.repeat]
        ratios.append((run.tokens / run.seconds) / (base.tokens / base.seconds))
        if run.tokens > 1 and base.tokens > 1:
            after_first.append(_rate_after_first(run) / _rate_after_first(base))
    low, middle, high = (float(value) for value in np.percentile(ratios, [25, 50, 75]))
    return {
        "tokens_per_second": sum(run.tokens for run in mine) / sum(run.seconds for run in mine),
        "speedup": middle,
        "speedup_low": low,
        "speedup_high": high,
        "speedup_after_first": float(np.median(after_first)) if after_first else None,
        "mat": sum(run.tokens for run in mine) / sum(run.steps for run in mine),
        "tokens": sum(run.tokens for run in mine),
    }


def _rate_after_first(run: Run) -> float:
    """Tokens a second without the prompt's part of the time."""
    return (run.tokens - 1) / max(run.seconds - run.first_s, 1e-9)


def acceptance_by_depth(accepted: Sequence[int]) -> list[float]:
    """Share of verification steps that accept at least 1, 2, ... drafted tokens."""
    deepest = min(max(accepted, default=0), MAX_DEPTH)
    return [sum(count >= depth for count in accepted) / len(accepted) for depth in range(1, deepest + 1)]


def as_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Single runs as plain objects."""
    return [asdict(run) for run in runs]
