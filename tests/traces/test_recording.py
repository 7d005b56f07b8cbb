"""Recordings that are stopped go on, and never mix with others."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aded.engines.base.loaded import RecordedAnswer
from aded.errors import BusyError, TraceFileError
from aded.traces.prompts import Prompt
from aded.traces.record import record

PROMPTS = [Prompt(str(n), "all", (f"what is {n}?",)) for n in range(6)]


class Says:
    """A model that says its seed, and stops after so many batches."""

    name, fingerprint, vocab_size = "says", "f", 1000

    def __init__(self, batches: int = 100) -> None:
        self.batches = batches

    def facts(self) -> dict[str, Any]:
        return {"dtype": "float32"}

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        return [ord(letter) for letter in messages[0]["content"]]

    def decode(self, ids: Sequence[int]) -> str:
        return str(ids)

    def recorded(self, prompts: Any, *, seed: int, top_k: int, **others: Any) -> list[RecordedAnswer]:
        if not self.batches:
            raise KeyboardInterrupt
        self.batches -= 1
        ids = np.full((3, top_k), seed, np.int32)
        return [RecordedAnswer(ids[:, 0], ids, np.full(ids.shape, 0.1, np.float32)) for _ in prompts]


def recorded(out: Path, loaded: Says, **settings: Any) -> bytes:
    record(loaded, PROMPTS, out, **{"batch_size": 2, "top_k": 2} | settings)  # type: ignore[arg-type]
    return out.read_bytes()


def test_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "whole.trace", Says())
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path / "a.trace", Says(2))
    assert recorded(tmp_path / "a.trace", Says(1)) == whole
    assert [entry.name for entry in tmp_path.glob("a.*")] == ["a.trace"]


def test_one_of_other_settings_is_refused_and_what_a_clean_up_left_is_nobodys(tmp_path: Path) -> None:
    out, parts = tmp_path / "a.trace", tmp_path / "a.trace.parts"
    wanted = recorded(out, Says())
    with pytest.raises(KeyboardInterrupt):
        recorded(out, Says(2), seed=9)
    with pytest.raises(TraceFileError, match="unfinished recording with other settings"):
        recorded(out, Says())
    (parts / "settings.json").unlink()  # as a clean-up that was stopped leaves it
    assert len(list(parts.iterdir())) == 2
    assert recorded(out, Says()) == wanted
    assert not parts.exists()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\0"])
def test_a_damaged_note_names_the_folder_to_delete(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.trace.parts").mkdir()
    (tmp_path / "a.trace.parts" / "settings.json").write_text(text)
    with pytest.raises(TraceFileError, match=r"delete the folder .*a\.trace\.parts to record anew"):
        recorded(tmp_path / "a.trace", Says())


def test_a_damaged_batch_is_recorded_again(tmp_path: Path) -> None:
    out = tmp_path / "a.trace"
    wanted = recorded(out, Says())
    with pytest.raises(KeyboardInterrupt):
        recorded(out, Says(2))
    (part, _) = sorted((tmp_path / "a.trace.parts").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-3])
    again = Says(2)
    assert recorded(out, again) == wanted
    assert again.batches == 0
    assert json.dumps([entry.name for entry in tmp_path.iterdir()]) == '["a.trace"]'


def test_another_recording_to_the_same_file_is_refused(tmp_path: Path) -> None:
    begun, go_on, out = threading.Event(), threading.Event(), tmp_path / "a.trace"

    class Slow(Says):
        def recorded(self, *arguments: Any, **options: Any) -> list[RecordedAnswer]:
            begun.set()
            go_on.wait(20)
            return super().recorded(*arguments, **options)

    first = threading.Thread(target=recorded, args=(out, Slow()))
    first.start()
    begun.wait(20)
    try:
        with pytest.raises(BusyError, match="another process is recording to"):
            recorded(out, Says())
    finally:
        go_on.set()
        first.join()
    assert out.exists()
