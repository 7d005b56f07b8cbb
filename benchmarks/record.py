"""Results kept in a file as they come, so that a benchmark of hours can go on where it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from aded.errors import AdedError

__all__ = ["Record"]

Row = TypeVar("Row")


@dataclass
class Record(Generic[Row]):
    """Results in a file of JSON lines, to which several processes may add.

    Attributes:
        kind: the dataclass of a result.
        file: where; None keeps them in memory.
        settings: what all results must have in common.
        rows: those there are.
    """

    kind: type[Row]
    file: Path | None
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            for number, line in enumerate(self.file.read_text(encoding="utf-8").splitlines(), 1):
                self.rows.append(self._read(number, line))

    def _read(self, number: int, line: str) -> Row:
        try:
            values = json.loads(line)
            settings, row = values.pop("settings"), self.kind(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AdedError(f"line {number} of {self.file} is no result of ours ({error}); delete it") from error
        if settings != self.settings:
            raise AdedError(
                f"{self.file} holds results with other settings ({settings}, now {self.settings}); choose another file"
            )
        return row

    def add(self, row: Row) -> None:
        """Keep one more; a line is written at once, so that processes do not cut each other's."""
        self.rows.append(row)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"settings": self.settings} | asdict(row)) + "\n")  # type: ignore[call-overload]
