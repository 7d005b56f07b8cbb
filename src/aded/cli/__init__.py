"""The command line."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from functools import partial
from typing import Any

from aded.errors import AdedError

__all__ = ["app", "main"]

_SIGINT_EXIT, _SIGTERM_EXIT = 128 + 2, 128 + 15
_AGAIN_S = 0.01  # until a lost signal is sent again: the object is cleared up by then
_received: list[int] = []  # signals, the latest last


def main() -> None:
    """Run the command; a foreseen failure is one line on standard error and exit code 2.

    Ctrl-C ends it with 130 and SIGTERM with 143, after what was learned is saved; a closed pipe ends it with 1.
    """
    try:
        with contextlib.suppress(ValueError):  # not in the main thread: then signals are somebody else's
            signal.signal(signal.SIGTERM, _stop)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _stop)
            sys.unraisablehook = _again
        # Imports take seconds: a signal or a missing package meanwhile is one line, too.
        from aded.cli.commands import app

        try:
            app()
        finally:
            sys.stdout.flush()  # a closed pipe is known now, and not when the interpreter ends
    except KeyboardInterrupt:
        _leave("stopped", _SIGINT_EXIT)
    except SystemExit as end:
        if end.code == _SIGINT_EXIT:  # that is how typer ends by Ctrl-C
            print("aded: stopped", file=sys.stderr)
        raise
    except SystemError:  # what a library makes of a signal that comes while it is called from C
        if not _received:
            raise
        _leave("stopped", 128 + _received[-1])
    except AdedError as error:
        _leave(str(error), 2)
    except ModuleNotFoundError as error:
        missing = f'the aded command needs {error.name}: pip install "aded[cli]"'
        _leave(missing if error.name in ("typer", "rich", "prompt_toolkit", "torch", "transformers") else str(error), 2)
    except MemoryError as error:
        _leave(f"there is not enough memory ({error}); ask for less", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to print goes nowhere
        sys.exit(1)
    except OSError as error:
        _leave(str(error), 2)


def _stop(number: int, frame: Any) -> None:
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(_SIGTERM_EXIT)


def _again(lost: Any) -> None:
    """A signal came while Python cleared up an object, where what handlers raise leads nowhere: send it once more."""
    if not (_received and issubclass(lost.exc_type, (KeyboardInterrupt, SystemExit))):
        sys.__unraisablehook__(lost)
        return
    number = _received[-1]
    send = partial(signal.pthread_kill, threading.main_thread().ident or 0) if hasattr(signal, "pthread_kill") else None
    threading.Timer(_AGAIN_S, send or _thread.interrupt_main, [number]).start()


def _leave(why: str, code: int) -> None:
    print(f"aded: {why}", file=sys.stderr)
    sys.exit(code)


def __getattr__(name: str) -> Any:
    if name == "app":
        from aded.cli.commands import app

        return app
    raise AttributeError(f"module 'aded.cli' has no attribute {name!r}")
