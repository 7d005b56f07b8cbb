"""Commands killed at any moment: what is on disk is whole, goes on, and nothing is left over."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aded.drafters.adaptive import AdaptiveDrafter
from aded.files import FileKind
from aded.representative.storage import CORPUS
from aded.traces.trace import TRACE
from robustness.nursery import Ended, Nursery
from support.gguf_files import write_tiny_gguf

_LIMITS = ("--max-new-tokens", 24, "--dtype", "float32")


class Scene:
    """A folder with a model, prompts and texts, and a nursery for the commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_tiny_gguf(folder / "tiny.gguf")
        (folder / "prompts.txt").write_text("the other nose\nan inn\nthese seasons\nother others\n")
        texts = folder / "texts"
        texts.mkdir()
        for number in range(3):
            (texts / f"{number}.txt").write_text(f"the other nose is another inn {number}\n" * 2000)
        self.nursery = Nursery(folder, folder / "tiny.gguf")
        done = self.run("trace", "record", "--prompts", "prompts.txt", *self.model, *_LIMITS, "--out", "whole.trace")
        assert done.code == 0, done.err
        for name in ("one", "two"):
            built = self.run("corpus", "build", *self.building, "--out", f"{name}.corpus")
            assert built.code == 0, built.err
        assert self.run(*self.merging, "--out", "whole.corpus").code == 0

    @property
    def model(self) -> tuple[object, ...]:
        return ("--model", "tiny.gguf")

    @property
    def building(self) -> tuple[object, ...]:
        return (*self.model, "--text", "texts", "--memory-mb", 1, "--processes", 1)

    @property
    def merging(self) -> tuple[object, ...]:
        return ("corpus", "merge", "one.corpus", "two.corpus", "--memory-mb", 2)

    def run(self, *words: object, **how: Any) -> Ended:
        return self.nursery.run(*words, **how)

    def left(self, *beside: str) -> set[str]:
        """What lies in the folder and is none of these."""
        known = {
            "tiny.gguf",
            "prompts.txt",
            "texts",
            "cache",
            "whole.trace",
            "one.corpus",
            "two.corpus",
            "whole.corpus",
        }
        return {entry.name for entry in self.folder.iterdir()} - known - {".out", ".err"} - set(beside)

    def close(self) -> None:
        self.nursery.close()


def _same(kind: FileKind, one: Path, other: Path) -> bool:
    (arrays, header), (others, other_header) = kind.read(one), kind.read(other)
    alike = all(np.array_equal(array, others[name]) for name, array in arrays.items())
    return alike and header == other_header


def _taken(kind: FileKind, made: Path, whole: Path) -> str:
    """Whether a file was made, which is then what it should be, and is taken away."""
    if not made.exists():
        return "nothing yet"
    assert _same(kind, made, whole)
    made.unlink()
    return "whole"


def chat(scene: Scene, kills: int, rng: random.Random) -> Counter[str]:
    """`aded chat --state`: the state can be read after each kill, and at most one left-over waits for the next save."""
    words = ("chat", *scene.model, *_LIMITS, "--max-draft-tokens", 8, "--state", "state")
    said = "the other nose\nan inn\n"
    return _repeat(scene, kills, rng, words, said, lambda: _state_is_whole(scene))


def _state_is_whole(scene: Scene) -> str:
    if not (state := scene.folder / "state").exists():
        return "nothing yet"
    AdaptiveDrafter(memory_mb=60).load(state)
    assert len(scene.left("state")) <= 1, scene.left("state")
    return "whole"


def merge(scene: Scene, kills: int, rng: random.Random) -> Counter[str]:
    """`aded corpus merge`: the old file or the new one."""
    shutil.copy(scene.folder / "one.corpus", scene.folder / "merged")

    def check() -> str:
        new = not _same(CORPUS, scene.folder / "merged", scene.folder / "one.corpus")
        assert not new or _same(CORPUS, scene.folder / "merged", scene.folder / "whole.corpus")
        shutil.copy(scene.folder / "one.corpus", scene.folder / "merged")
        return "new" if new else "old"

    return _repeat(scene, kills, rng, (*scene.merging, "--out", "merged"), "", check)


def build(scene: Scene, kills: int, rng: random.Random) -> Counter[str]:
    """`aded corpus build`: begun again, it makes what it would have made."""
    words = ("corpus", "build", *scene.building, "--out", "built")
    made, whole = scene.folder / "built", scene.folder / "one.corpus"
    return _repeat(scene, kills, rng, words, "", lambda: _taken(CORPUS, made, whole))


def record(scene: Scene, kills: int, rng: random.Random) -> Counter[str]:
    """`aded trace record`: begun again, it goes on and makes what it would have made."""
    words = ("trace", "record", "--prompts", "prompts.txt", *scene.model, *_LIMITS, "--out", "a.trace")
    made, whole = scene.folder / "a.trace", scene.folder / "whole.trace"
    return _repeat(scene, kills, rng, words, "", lambda: _taken(TRACE, made, whole))


def convert(scene: Scene, kills: int, rng: random.Random) -> Counter[str]:
    """Converting a GGUF file at first use: one whole conversion in the end, and nothing beside it."""
    models = scene.folder / "cache" / "models"
    # Refused once the model is loaded: there are no outputs.
    words = ("trace", "record", "--texts", "prompts.txt", *scene.model, "--out", "unused.trace")

    def check() -> str:
        whole = [folder for folder in models.iterdir() if folder.name.startswith("tiny")]
        assert len(list(models.iterdir())) <= len(whole) + 2, list(models.iterdir())  # a scratch folder and a lock
        for folder in whole:
            shutil.rmtree(folder)
        return "whole" if whole else "nothing yet"

    found = _repeat(scene, kills, rng, words, "", check, last=2)
    assert [entry.name.split("-")[0] for entry in models.iterdir()] == []
    assert scene.run("trace", "record", "--prompts", "prompts.txt", *scene.model, "--out", "b.trace").code == 0
    assert [entry.name.split("-")[0] for entry in models.iterdir()] == ["tiny"]
    (scene.folder / "b.trace").unlink()
    return found


def _repeat(
    scene: Scene,
    kills: int,
    rng: random.Random,
    words: tuple[object, ...],
    said: str,
    check: Callable[[], str],
    *,
    last: int = 0,
) -> Counter[str]:
    """Kill a command so often, each time at another moment; then let it end, after which nothing is left over."""
    found: Counter[str] = Counter()
    whole = scene.run(*words, said=said)
    assert whole.code == last, whole.err
    check()
    while found["killed"] < kills:
        assert found["ended before"] <= 2 * kills + 10
        ended = scene.run(*words, said=said, send=signal.SIGKILL, after=rng.uniform(0.0, whole.seconds))
        assert ended.code in (-signal.SIGKILL, last), ended
        assert "Traceback" not in ended.err, ended.err
        found["killed" if ended.code == -signal.SIGKILL else "ended before"] += 1
        found[check()] += 1
    whole = scene.run(*words, said=said)
    assert whole.code == last, whole.err
    out = str(words[-1]) if words[-2] == "--out" else "state"
    assert not scene.left(out), scene.left(out)
    check()
    (scene.folder / out).unlink(missing_ok=True)
    return found


KINDS: dict[str, Callable[[Scene, int, random.Random], Counter[str]]] = {
    "chat --state": chat,
    "corpus merge": merge,
    "corpus build": build,
    "trace record": record,
    "conversion": convert,
}
# Of 100 kills, how many each gets: a corpus is built beside processes that take a second to start.
SHARES = {"chat --state": 15, "corpus merge": 40, "corpus build": 3, "trace record": 30, "conversion": 12}
