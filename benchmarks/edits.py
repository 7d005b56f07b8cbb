"""Edits of real files: what a program is asked for that shows a model a file and wants it back with a change.

`python -m benchmarks.edits edits.jsonl --count 40` writes them as prompts.
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aded.files import replace
from benchmarks.command import new_app, run

__all__ = ["Edit", "app", "edits"]

app = new_app()

_LINES = (40, 120)  # of a file
_ASK = (
    "Here is a file:\n```python\n{before}```\nRewrite the whole file. {task} Change nothing else. Give the file alone."
)


@dataclass(frozen=True)
class Edit:
    """A file before and after, and what was asked for."""

    before: str
    after: str
    task: str

    @property
    def asked(self) -> str:
        """The request, with the file in it."""
        return _ASK.format(before=self.before, task=self.task)


def edits(count: int, *, share: float = 0.05, seed: int = 0) -> list[Edit]:
    """Edits of Python files of this installation: names changed, and lines added or taken away."""
    found: list[Edit] = []
    draw = random.Random(seed)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) + sorted(
        Path(sysconfig.get_path("purelib")).glob("rich/*.py")
    )
    draw.shuffle(files)
    for file in files:
        if len(found) == count:
            break
        lines = file.read_text("utf-8", "replace").splitlines()
        if len(lines) < _LINES[0]:
            continue
        start = draw.randrange(0, max(len(lines) - _LINES[1], 1))
        part = lines[start : start + _LINES[1]]
        if (made := _edited(part, share, draw)) is not None:
            found.append(Edit("\n".join(part) + "\n", "\n".join(made[0]) + "\n", made[1]))
    return found


def _edited(lines: list[str], share: float, draw: random.Random) -> tuple[list[str], str] | None:
    names = sorted({name for line in lines for name in re.findall(r"\b[a-z][a-z_]{3,}\b", line)})
    if not names:
        return None
    after, wanted = list(lines), max(round(share * len(lines)), 1)
    old, new = draw.choice(names), "renamed_value"
    places = [i for i, line in enumerate(lines) if re.search(rf"\b{old}\b", line)][:wanted]
    for i in places:
        after[i] = re.sub(rf"\b{old}\b", new, after[i])
    for _ in range(wanted - len(places)):
        i = draw.randrange(len(after))
        if draw.random() < 0.5 and after[i].strip():
            del after[i]
        else:
            indent = re.match(r"\s*", after[i])
            after.insert(i, (indent[0] if indent else "") + f"# note {draw.randrange(1000)}")
    return after, f"Rename {old} to {new} wherever it stands."


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="File to write, as JSON lines.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 40,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of a file's lines to change.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Others for another one.")] = 0,
) -> None:
    """Write edits of this installation's Python files as prompts, each with the file as it should become."""
    rows = [
        {"question_id": f"edit-{number}", "category": "code edits", "prompt": one.asked, "output": one.after}
        for number, one in enumerate(edits(count, share=share, seed=seed))
    ]
    replace(out, "".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    run(app)
