"""Runs commands of ours in forked processes, where everything is imported already, and sends them signals.

`python -m robustness.nursery MODEL` reads a JSON line for each command and answers with one. A command is killed
thousands of times: importing torch for each would take hours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from aded.kernels.jit import kernel_folder

_ALL = {signal.SIGINT, signal.SIGTERM}
_HANGS_S = 120.0  # seconds after which a command counts as hanging


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal's number if one ended it.
        seconds: it took.
        out, err: what it printed.
    """

    code: int
    seconds: float
    out: str
    err: str


class Nursery:
    """A process that runs commands, with a cache folder of its own and the working folder of its commands."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, paths = folder, [str(Path(__file__).parents[1]), *filter(None, sys.path)]
        settings = {"ADED_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        if (kernels := kernel_folder()) is not None:
            settings["NUMBA_CACHE_DIR"] = str(kernels.parent)
        command = [sys.executable, "-m", "robustness.nursery", str(model)]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: object, said: str = "", send: int | None = None, after: float | None = None, closed: bool = False
    ) -> Ended:
        """Run `aded` with these words.

        Args:
            said: standard input. It stays open after it where a signal is sent.
            send: a signal, so many seconds after the beginning, or once the command has printed "> " where `after` is
                None and it still runs.
            closed: nobody reads its standard output.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"words": [str(word) for word in words], "said": said, "send": send, "after": after}
        order["closed"] = closed
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _child(words: list[str], pipe: int, closed: bool) -> None:
    """Become the command."""
    os.dup2(pipe, 0)
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    if closed:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["aded", *words]
    code: Any = 0
    try:
        from aded.cli import main

        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)
        main()
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _serve(order: dict[str, Any]) -> Ended:
    reading, writing = os.pipe()
    Path(".out").write_text("")
    started = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # until the command begins
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.close(writing)
        _child(order["words"], reading, order["closed"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    os.close(reading)
    with contextlib.suppress(BrokenPipeError):
        os.write(writing, order["said"].encode("utf-8", "surrogateescape"))
    send, after, status = order["send"], order["after"], None
    if send is None:
        os.close(writing)
    while True:
        now = time.monotonic() - started
        ended, found = os.waitpid(child, os.WNOHANG)
        if ended:
            status = found
            break
        ready = now >= after if after is not None else Path(".out").read_text().count("> ") > order["said"].count("\n")
        if now > _HANGS_S:
            os.killpg(child, signal.SIGKILL)
        elif send is not None and ready:
            # Ctrl-C reaches all processes of a terminal, other signals the one they are sent to.
            (os.killpg if send == signal.SIGINT else os.kill)(child, send)
            send = None
        time.sleep(0.001)
    if order["send"] is not None:
        os.close(writing)
    seconds = time.monotonic() - started
    code = -999 if seconds > _HANGS_S else os.waitstatus_to_exitcode(status)
    out, err = (Path(f".{name}").read_text(errors="replace") for name in ("out", "err"))
    return Ended(code, seconds, out, err)


def _warm_up(model: str) -> None:
    """Import and compile what commands need, running no thread that a fork would lose."""
    from aded.engines.base.drafter_files import create_drafter
    from aded.engines.transformers.loading import load
    from aded.engines.transformers.runner import EngineRunner

    for name in ("aded.cli.commands", "aded.corpus.model", "aded.corpus.text", "aded.traces.record"):
        import_module(name)
    loaded = load(model, dtype="float32")
    runner = EngineRunner(loaded, create_drafter("adaptive", state=None, corpus=None), 8)
    ids = loaded.prompt_ids([{"role": "user", "content": "the other"}])
    runner.answer(ids, max_new_tokens=8, temperature=0.0, top_p=1.0, seed=0)
    loaded.recorded([[1, 2], [3]], max_new_tokens=4, top_k=2, temperature=0.0, seed=0)


if __name__ == "__main__":
    _warm_up(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(vars(_serve(json.loads(line)))), file=answers, flush=True)
