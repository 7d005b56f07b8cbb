"""Arrays and a header in one safetensors file, written to the side and renamed, and checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from aded.errors import AdedError, BusyError

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows, where an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileKind", "cache_folder", "digest", "locked", "replace", "whole"]


def cache_folder() -> Path:
    """Where what can be made again is kept: $ADED_CACHE, or `aded` in the user's cache folder.

    Raises:
        OSError: there is neither, because the user has no home folder.
    """
    if chosen := os.environ.get("ADED_CACHE"):
        return Path(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "aded"
    try:
        return Path.home() / ".cache" / "aded"
    except RuntimeError as error:
        raise OSError(str(error)) from error


def digest(data: bytes) -> str:
    """16 hexadecimal digits naming `data`."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@contextmanager
def locked(file: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the right to write `file` against other processes; a process that ends, however it does, gives it up.

    Args:
        doing: what another process would be doing, for the message.
        wait: wait for the other one.

    Raises:
        BusyError: another process has it, and `wait` is not set.
        OSError: the folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    name = file.with_name(f".{file.name}.lock")
    lock = FileLock(name, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(f"another process is {doing} {file}; wait until it is done, or choose another file") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            name.unlink()  # who waits for it looks whether it is still there
        lock.release()


def replace(path: Path, *parts: bytes | memoryview, private: bool = False) -> None:
    """Write the parts in order, so that a crash leaves either the old file or the new one.

    A link is followed, and a file's permissions stay. What killed writers of this file left behind is removed.

    Args:
        private: a file that was not there is made for its owner's eyes only.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device or a pipe is no file to put another for
        with path.open("wb") as stream:
            stream.writelines(parts)
        return
    _remove_stale(path)
    file, temporary = _open_beside(path, 0o600 if private else 0o666)
    try:
        with file:
            with contextlib.suppress(OSError):  # there is no file yet
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":  # still locked: nobody takes it for a left-over
                os.replace(temporary, path)
        if os.name != "posix":  # pragma: no cover - an open file cannot be renamed there
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_TEMPORARY = ".aded-tmp"
_STALE_S = 24 * 3600.0  # age of a left-over where file systems know no locks


def _open_beside(path: Path, mode: int) -> tuple[BinaryIO, Path]:
    """A new file in the same folder, locked for as long as it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), mode)
        if _locked(handle) is not False and os.fstat(handle).st_nlink:
            return os.fdopen(handle, "wb"), temporary
        os.close(handle)  # it was taken for a left-over before it was locked


def _locked(handle: int) -> bool | None:
    """Lock an open file: False where another has it locked, None where the system has no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if isinstance(error, BlockingIOError) else None
    return True


def _remove_stale(path: Path) -> None:
    """Remove temporary files of this path whose writers are gone: a living one's is locked."""
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}" + re.escape(_TEMPORARY))
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            if not name.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                handle = os.open(entry.path, os.O_RDWR)
                try:
                    free = _locked(handle)
                    if free is None:
                        free = time.time() - entry.stat().st_mtime > _STALE_S
                    if free:
                        os.unlink(entry.path)
                finally:
                    os.close(handle)


def whole(value: Any, least: int, most: int) -> bool:
    """Whether what a file says is a whole number from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


# The format's names of the data types we use, in the order it stores them: the most strictly aligned first.
_DTYPES = {"int64": "I64", "uint64": "U64", "float32": "F32", "int32": "I32", "uint32": "U32"}
_DTYPES |= {"float16": "F16", "uint16": "U16"}


def _safetensors(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> list[bytes | memoryview]:
    """The parts of a safetensors file. The package's own writer would copy every array first."""
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata}
    parts: list[bytes | memoryview] = []
    offset = 0
    for name in order:
        array = np.ascontiguousarray(arrays[name])
        span = [offset, offset := offset + array.nbytes]
        header[name] = {"dtype": _DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": span}
        parts.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *parts]


def _checksum(arrays: dict[str, NDArray[Any]], header: str) -> str:
    state = hashlib.blake2b(header.encode(), digest_size=16)
    for name in sorted(arrays):
        state.update(name.encode())
        state.update(np.ascontiguousarray(arrays[name]).data)
    return state.hexdigest()


def _map(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Each array of a safetensors file as a copy-on-write view of it."""
    whole = np.memmap(path, np.uint8, mode="c")
    length = int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8 : 8 + length].tobytes())
    dtypes = {short: np.dtype(name) for name, short in _DTYPES.items()}
    arrays = {}
    for name in names:
        start, end = (8 + length + offset for offset in header[name]["data_offsets"])
        array = whole[start:end].view(dtypes[header[name]["dtype"]]).reshape(header[name]["shape"])
        arrays[name] = array.view(np.ndarray) if array.flags.aligned else np.array(array)
    return arrays


_HEAD = 1 << 20  # bytes in which a file of ours names its kind: the format's header comes first


def check_writable(path: Path, what: str, error: type[AdedError] = AdedError) -> None:
    """Refuse a place that cannot be written, before the work whose outcome is to be kept there.

    Args:
        what: the file is, for the message.

    Raises:
        AdedError: of this kind.
    """
    reason: Any = None
    try:
        path = Path(os.path.realpath(path))
        there = next(parent for parent in path.parents if parent.exists())
        if path.is_dir():
            reason = "it is a folder"
        else:
            tempfile.TemporaryFile(dir=there).close()
    except (OSError, ValueError) as caught:
        reason = getattr(caught, "strerror", None) or caught
    if reason is not None:
        raise error(f"cannot write {what} {str(path)!r}: {reason}; choose another place")


@dataclass(frozen=True)
class FileKind:
    """One kind of file.

    Attributes:
        format: written into the file; another kind's file is refused by it.
        version: files of another version are refused.
        word: what messages call it.
        remedy: what a message suggests when a file cannot be used.
        error: raised for every problem with a file.
        private: a new file is made for its owner's eyes only.
    """

    format: str
    version: int
    word: str
    remedy: str
    error: type[AdedError]
    private: bool = False

    def damaged(self, path: str | Path, what: str) -> AdedError:
        """What to raise where the contents of a file cannot be."""
        return self.error(f"the {self.word} {path} is damaged ({what}); {self.remedy}")

    def check_writable(self, path: Path) -> None:
        """Refuse a place that cannot be written; see the function of this name."""
        check_writable(path, f"the {self.word}", self.error)

    def write(self, path: Path, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
        """Write arrays and header, whole or not at all."""
        text = json.dumps(header)
        metadata = {
            "format": self.format,
            "version": str(self.version),
            "header": text,
            "checksum": _checksum(arrays, text),
        }
        try:
            replace(path, *_safetensors(arrays, metadata), private=self.private)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self.error(f"cannot write the {self.word} {path}: {reason}; choose another place") from error

    def read(self, path: Path, *, mapped: bool = False) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and header of a file that `write` made; anything else raises `error`.

        With `mapped`, arrays are views of the file, whose pages all processes share; changes stay private.
        """
        try:
            if not path.is_file():
                raise self.error(f"there is no {self.word} {path}; check the path")
            with path.open("rb") as head:
                ours = self.format.encode() in head.read(_HEAD)
        except (OSError, ValueError) as error:
            raise self.error(f"cannot read the {self.word} {path}: {error}; check the path") from error
        if not ours:
            raise self.error(f"{path} is not an ADED {self.word}; choose another file")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != self.format:
                    raise self.error(f"{path} is not an ADED {self.word}; choose another file")
                if metadata.get("version") != str(self.version):
                    raise self.error(
                        f"{path} has version {metadata.get('version')} of the {self.word}, this release reads "
                        f"{self.version}; {self.remedy}"
                    )
                names = list(file.keys())
                arrays = _map(path, names) if mapped else {name: file.get_tensor(name) for name in names}
                header = json.loads(metadata["header"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self.damaged(path, str(error)) from error
        if metadata.get("checksum") != _checksum(arrays, metadata["header"]) or not isinstance(header, dict):
            raise self.damaged(path, "its checksum differs")
        return arrays, header
