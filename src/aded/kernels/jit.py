"""Compile a function with numba, and keep the result where it can never be used for other sources.

Numba checks the file of the outermost function only. A changed function that another file calls would go on running
as it was. So the folder of compiled code is named by a hash of all sources that can hold compiled code, and by the
versions of numba and llvmlite: other sources, another release beside this one or another numba have folders of their
own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba

from aded.files import cache_folder
from aded.forks import ForkLock

# The parts of the package whose files may hold compiled functions, or constants that these read.
COMPILED = ("kernels", "representative", "search", "budget", "drafters", "engines/vllm")

_CONFIG = ForkLock()


@cache
def compiled_sources() -> str:
    """A hash of all sources that can hold compiled code, and of what compiles them."""
    package = Path(__file__).parents[1]
    state = hashlib.blake2b(f"numba {numba.__version__}, llvmlite {llvmlite.__version__}".encode(), digest_size=8)
    for part in COMPILED:
        for file in sorted((package / part).rglob("*.py")):
            state.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return state.hexdigest()


@cache
def kernel_folder() -> Path | None:
    """The folder of compiled code; None where none can be written, and functions are compiled in every process.

    It lies in $NUMBA_CACHE_DIR if that is set, else in the cache folder (see `aded.files.cache_folder`).
    """
    try:
        base = Path(chosen) if (chosen := os.environ.get("NUMBA_CACHE_DIR")) else cache_folder() / "kernels"
        folder = base / f"aded-{compiled_sources()}"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    return folder


@contextmanager
def _caching() -> Any:
    """Whether compiled code is kept; within it, numba keeps it in our folder."""
    folder = kernel_folder()
    if folder is None:
        yield False
        return
    with _CONFIG:
        settings: Any = numba.config
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
        try:
            yield True
        finally:
            settings.CACHE_DIR = before


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call. It holds the interpreter's lock, so a call is one step to other threads."""
    with _caching() as kept:
        return numba.njit(cache=kept)(function)


def jit_nogil(function: Callable[..., Any]) -> Any:
    """The same without the interpreter's lock: other threads run meanwhile."""
    with _caching() as kept:
        return numba.njit(cache=kept, nogil=True)(function)


def jit_with(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """The same with other options of numba's (fastmath, inline)."""

    def compile(function: Callable[..., Any]) -> Any:
        with _caching() as kept:
            return numba.njit(cache=kept, **options)(function)

    return compile


def callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function now, for callers in C; it has an `address`."""

    def compile(function: Callable[..., Any]) -> Any:
        with _caching() as kept:
            return numba.cfunc(signature, cache=kept)(function)

    return compile
