"""Files of prompts: Spec-Bench's JSON lines, JSON lines with `prompt`, or one prompt a line."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded.errors import PromptFileError


@dataclass(frozen=True)
class Prompt:
    """One request: the user's turns in order, a name, and the category it is reported under.

    Attributes:
        output: an existing answer to a single turn, where the file has one.
    """

    name: str
    category: str
    turns: tuple[str, ...]
    output: str | None = None

    def turn_name(self, turn: int) -> str:
        """Its name; turns after the first (0) add a dot and their number."""
        return self.name if turn == 0 else f"{self.name}.{turn + 1}"


def read_prompts(
    path: str | Path, *, limit: int | None = None, per_category: int | None = None, skip: int = 0
) -> list[Prompt]:
    """Read a file of prompts.

    Args:
        path: JSON lines with `turns` (and `question_id`, `category`) or `prompt` (and `output`), or plain text lines.
        limit: the first so many, after the other choices.
        per_category: the first so many of each category.
        skip: leave out the first so many of each category, for prompts that nothing was tuned on.

    Raises:
        PromptFileError: no such file, nothing in it, or a line that is no prompt.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise PromptFileError(f"cannot read the prompts {path}: {error}; give a text or JSON lines file") from error
    prompts: list[Prompt] = []
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prompt = _parse(line, number, path)
        seen[prompt.category] += 1
        nth = seen[prompt.category] - skip
        if nth > 0 and (per_category is None or nth <= per_category):
            prompts.append(prompt)
    if not prompts:
        raise PromptFileError(f"{path} holds no prompts to use; check the file and what was asked to be left out")
    return prompts[:limit]


def _parse(line: str, number: int, path: Path) -> Prompt:
    if not line.lstrip().startswith("{"):
        return Prompt(str(number), path.stem, (line.strip(),))
    try:
        entry: dict[str, Any] = json.loads(line)
        json.dumps(entry, ensure_ascii=False).encode()  # halves of characters are no text
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"line {number} of {path} is not JSON: {error}; correct or remove it") from error
    turns = entry.get("turns", [entry.get("prompt")])
    texts = isinstance(turns, list) and turns and all(isinstance(turn, str) and turn for turn in turns)
    output = entry.get("output")
    if not texts or not isinstance(output, str | None):
        raise PromptFileError(
            f'line {number} of {path} has no prompt; it needs "prompt" (a text) or "turns" (a list of texts)'
        )
    name = str(entry.get("question_id", entry.get("id", number)))
    return Prompt(name, str(entry.get("category", path.stem)), tuple(turns), output)
