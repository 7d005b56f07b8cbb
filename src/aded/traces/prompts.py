"""Files of prompts: the JSON lines of Spec-Bench, SPEED-Bench or HumanEval, or one prompt a line."""

from __future__ import annotations

import gzip
import json
import zlib
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
        path: JSON lines with `turns` (a list of texts), `messages` (those of the user are taken) or `prompt`, besides a
            name (`question_id`, `task_id` or `id`), a `category` and an `output`; or plain text lines. Packed, if its
            name ends with .gz.
        limit: the first so many, after the other choices.
        per_category: the first so many of each category.
        skip: leave out the first so many of each category, for prompts that nothing was tuned on.

    Raises:
        PromptFileError: no such file, nothing in it, or a line that is no prompt.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # By line feeds alone: texts in JSON may hold other characters that end lines elsewhere.
        lines = data.decode("utf-8-sig").split("\n")
    except (OSError, ValueError, EOFError, zlib.error) as error:
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
        return Prompt(str(number), _category(path), (line.strip(),))
    try:
        entry: dict[str, Any] = json.loads(line)
        json.dumps(entry, ensure_ascii=False).encode()  # halves of characters are no text
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"line {number} of {path} is not JSON: {error}; correct or remove it") from error
    turns = _turns(entry)
    texts = isinstance(turns, list) and turns and all(isinstance(turn, str) and turn for turn in turns)
    output = entry.get("output")
    if not texts or not isinstance(output, str | None):
        raise PromptFileError(
            f'line {number} of {path} has no prompt; it needs "prompt" (a text), "turns" (a list of texts) or '
            '"messages" with one of the user'
        )
    name = next((entry[key] for key in ("question_id", "task_id", "id") if key in entry), number)
    return Prompt(str(name), str(entry.get("category", _category(path))), tuple(turns), output)


def _category(path: Path) -> str:
    """What is reported of prompts that say no category."""
    return Path(path.stem).stem if path.suffix == ".gz" else path.stem


def _turns(entry: dict[str, Any]) -> Any:
    """What the user said, turn by turn, if it is what it should be."""
    if "messages" not in entry or "turns" in entry:
        return entry.get("turns", [entry.get("prompt")])
    messages = entry["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None
    return [message.get("content") for message in messages if message.get("role", "user") == "user"]
