"""The sweep: every generative class of transformers as a tiny random model, ours against plain `generate`.

`make sweep` prints a line a class, and writes the table of docs/models.md; it takes about 20 minutes. `CLASSES="A B"`
takes these alone, and leaves the other rows as they are.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections import Counter
from datetime import date
from pathlib import Path

import torch
import transformers

from sweep.check import Verdict, check
from sweep.classes import generative_classes
from sweep.exceptions import CHANGES, LEFT_OUT
from sweep.shrink import small_model

_PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_BEGIN, _END = "<!-- the sweep begins -->", "<!-- the sweep ends -->"


def verdict_of(name: str) -> Verdict:
    """What comes of a class."""
    if (reason := LEFT_OUT.get(name)) is not None:
        return Verdict("not run", reason)
    try:
        model = small_model(getattr(transformers, name), CHANGES.get(name, {}))
    except Exception as error:
        return Verdict("not run", f"no tiny model of it is made: {_said_by(error)}")
    try:
        return check(model)
    except Exception as error:
        return Verdict("not run", f"plain `generate` fails: {_said_by(error)}")


def _said_by(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _row(name: str, verdict: Verdict) -> str:
    how = f"{verdict.accepted} of {verdict.drafted} accepted" if verdict.drafted else ""
    how = how and f"{'trees' if verdict.trees else 'chains'}, {how}"
    reason = verdict.reason.split("; decode")[0].replace("|", "/").replace("\n", " ")[:160]
    return f"| {name} | {verdict.kind} | {how} | {reason} |"


def with_verdicts(text: str, verdicts: dict[str, Verdict]) -> str:
    """The page with these rows in its table, in place of those that it had for the same classes."""
    before, rest = text.split(_BEGIN)
    table, after = rest.split(_END)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    rows.pop("class", None)
    rows |= {name: _row(name, verdict) for name, verdict in verdicts.items()}
    counts = Counter(line.split(" | ")[1] for line in rows.values())
    lines = [
        f"{len(rows)} classes of transformers {transformers.__version__}, {date.today():%d %B %Y}, "
        f"{platform.machine()}: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) + ".",
        "",
        "| class | what came of it | drafts | why |",
        "|---|---|---|---|",
        *(rows[name] for name in sorted(rows)),
    ]
    return f"{before}{_BEGIN}\n\n" + "\n".join(lines) + f"\n\n{_END}{after}"


def main(names: list[str]) -> int:
    """Sweep these classes or, with none, all, and write the table; 1 if any was wrong or crashed."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # tiny models are no faster on more
    verdicts: dict[str, Verdict] = {}
    for name in names or generative_classes():
        began = time.perf_counter()
        verdicts[name] = verdict = verdict_of(name)
        print(f"{verdict.kind:22} {name:45} {time.perf_counter() - began:5.1f} s  {verdict.reason[:100]}", flush=True)
    print(Counter(verdict.kind for verdict in verdicts.values()))
    _PAGE.write_text(with_verdicts(_PAGE.read_text(), verdicts))
    return int(any(verdict.kind in ("WRONG", "crash") for verdict in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
