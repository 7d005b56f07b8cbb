"""From single runs to the figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aded.bench.contenders import PLAIN
from aded.bench.live import Run
from aded.traces.replay import acceptance_by_depth


def summarise(runs: Sequence[Run], *, engine: str, state_mb: dict[str, float | None]) -> list[dict[str, Any]]:
    """One object a contender, in the order they appear.

    `speedup` is the median over requests and repeats of the contender's tokens a second over plain decoding's of the
    same request and repeat; `speedup_low` and `speedup_high` are the quartiles, and `speedup_after_first` leaves
    out the prompt's time. `exact` is the least that was promised of the bits of scores. Shares are parts of a step of
    our loop.
    """
    plain = {(run.prompt, run.repeat): run for run in runs if run.contender == PLAIN}
    results = []
    for name in dict.fromkeys(run.contender for run in runs):
        mine = [run for run in runs if run.contender == name]
        parts = {part: _sum(mine, f"{part}_s") for part in ("draft", "verify", "learn")}
        loop_s, seconds, steps = sum(parts.values()), _sum(mine, "seconds"), _sum(mine, "steps")
        # Mean milliseconds a step in each part of our loop and outside it; empty where it is not our loop.
        timed = {**parts, "rest": seconds - loop_s} if loop_s else {}
        accepted = [count for run in mine for count in run.accepted]
        different = {run.prompt for run in mine if not (run.identical or run.tie)}
        results.append(
            {
                "drafter": name,
                "engine": engine,
                **_speed(mine, plain),
                "prompts": len({run.prompt for run in mine}),
                "repeats": 1 + max(run.repeat for run in mine),
                "identical": all(run.identical for run in mine),
                "ties": len({run.prompt for run in mine if run.tie} - different),
                "differences": len(different),
                "exact": _exact(mine),
                "time_to_first_token_s": float(np.median([run.first_s for run in mine])),
                **{f"{part}_share": part_s / loop_s if loop_s else 0.0 for part, part_s in parts.items()},
                "parts_ms": {part: 1e3 * part_s / steps for part, part_s in timed.items()},
                "step_ms": 1e3 * seconds / steps,
                "nodes_used": _sum(mine, "drafted") / max(len(accepted), 1),
                "peak_memory_mb": max(run.peak_mb for run in mine),
                "state_mb": state_mb.get(name),
                "acceptance_by_depth": acceptance_by_depth(accepted),
                "by_category": {
                    category: _speed([run for run in mine if run.category == category], plain)
                    for category in dict.fromkeys(run.category for run in mine)
                },
            }
        )
    return results


def _exact(runs: Sequence[Run]) -> str | None:
    """What holds for all of them: the least that was promised."""
    promised = {run.exact for run in runs}
    return next((least for least in ("rounding", "none", "generate") if least in promised), None)


def _sum(runs: Sequence[Run], name: str) -> Any:
    return sum(getattr(run, name) for run in runs)


def _speed(mine: Sequence[Run], plain: dict[tuple[str, int], Run]) -> dict[str, Any]:
    pairs = [(run, plain[run.prompt, run.repeat]) for run in mine]
    ratios = [(run.tokens / run.seconds) / (base.tokens / base.seconds) for run, base in pairs]
    after_first = [_after_first(run) / _after_first(base) for run, base in pairs if min(run.tokens, base.tokens) > 1]
    low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
    tokens = _sum(mine, "tokens")
    return {
        "tokens_per_second": tokens / _sum(mine, "seconds"),
        "speedup": middle,
        "speedup_low": low,
        "speedup_high": high,
        "speedup_after_first": float(np.median(after_first)) if after_first else None,
        "mat": tokens / _sum(mine, "steps"),
        "tokens": tokens,
    }


def _after_first(run: Run) -> float:
    """Tokens a second without the prompt's part of the time."""
    return (run.tokens - 1) / max(run.seconds - run.first_s, 1e-9)
