"""`make robustness`: 100,000 files with wrong contents behind right checksums, and 1,000 kills of commands.

`PYTHONPATH=tests python -m robustness --cases 100000 --kills 1000` prints a Markdown table of each, and ends with 1
where anything but one clear error or a whole file was found.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustness import fuzz, kills


def fuzzed(kind: str, cases: int) -> Counter[str]:
    """So many cases of a kind of file: how many were refused, and how many could be used."""
    found: Counter[str] = Counter()

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        found["used" if fuzz.check(kind, data.draw) is None else "refused"] += 1

    run()
    return found


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m robustness", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults = 0
    print("| file | cases | refused | used | minutes |\n|---|---:|---:|---:|---:|")
    for kind in fuzz.KINDS:
        started = time.monotonic()
        try:
            found = fuzzed(kind, given.cases // len(fuzz.KINDS))
        except Exception:
            traceback.print_exc()
            faults += 1
            continue
        figures = (found.total(), found["refused"], found["used"], f"{(time.monotonic() - started) / 60:.1f}")
        print(f"| {kind} | {' | '.join(map(str, figures))} |", flush=True)
    print("\n| command | kills | found afterwards | minutes |\n|---|---:|---|---:|")
    with tempfile.TemporaryDirectory() as folder:
        scene = kills.Scene(Path(folder))
        for kind, run in kills.KINDS.items():
            started, count = time.monotonic(), max(1, given.kills * kills.SHARES[kind] // 100)
            try:
                found = run(scene, count, random.Random(given.seed))
            except Exception:
                traceback.print_exc()
                faults += 1
                continue
            killed, _ = found.pop("killed"), found.pop("ended before", 0)
            said = ", ".join(f"{word} {number}" for word, number in sorted(found.items()))
            minutes = f"{(time.monotonic() - started) / 60:.1f}"
            print(f"| {kind} | {killed} | {said} | {minutes} |", flush=True)
        scene.close()
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
