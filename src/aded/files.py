"""Arrays and a header in one safetensors file, written to the side and renamed, and checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from aded.errors import AdedError

__all__ = ["FileKind", "cache_folder", "digest", "replace"]


def cache_folder() -> Path:
    """Where what can be made again is kept: $ADED_CACHE, or `aded` in the user's cache folder."""
    if chosen := os.environ.get("ADED_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aded"


def digest(data: bytes) -> str:
    """16 hexadecimal digits naming `data`."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def replace(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts in order, so that a crash leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
        arrays[name] = array.view(np.ndarray)
    return arrays


@dataclass(frozen=True)
class FileKind:
    """One kind of file.

    Attributes:
        format: written into the file; another kind's file is refused by it.
        version: files of another version are refused.
        word: what messages call it.
        remedy: what a message suggests when a file cannot be used.
        error: raised for every problem with a file.
    """

    format: str
    version: int
    word: str
    remedy: str
    error: type[AdedError]

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
            replace(path, *_safetensors(arrays, metadata))
        except OSError as error:
            raise self.error(f"cannot write the {self.word} {path}: {error.strerror}; choose another place") from error

    def read(self, path: Path, *, mapped: bool = False) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and header of a file that `write` made; anything else raises `error`.

        With `mapped`, arrays are views of the file, whose pages all processes share; changes stay private.
        """
        if not path.is_file():
            raise self.error(f"there is no {self.word} {path}; check the path")
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
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise self.error(f"the {self.word} {path} is damaged ({error}); {self.remedy}") from error
        if metadata.get("checksum") != _checksum(arrays, metadata["header"]) or not isinstance(header, dict):
            raise self.error(f"the {self.word} {path} is damaged (its checksum differs); {self.remedy}")
        return arrays, header
