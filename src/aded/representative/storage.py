"""Saved state on disk: one safetensors file with a checked header, written to the side and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from aded.errors import StateFileError

__all__ = ["check_arrays", "check_identity", "digest", "read", "write"]

_FORMAT = "aded-representative"
_VERSION = 1


def digest(data: bytes) -> str:
    """16 hexadecimal digits naming `data`."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _checksum(arrays: dict[str, NDArray[Any]], header: str) -> str:
    state = hashlib.blake2b(header.encode(), digest_size=16)
    for name in sorted(arrays):
        state.update(name.encode())
        state.update(np.ascontiguousarray(arrays[name]).data)
    return state.hexdigest()


def write(path: Path, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Write arrays and header so that a crash leaves either the old file or the new one."""
    text = json.dumps(header)
    metadata = {"format": _FORMAT, "version": str(_VERSION), "header": text, "checksum": _checksum(arrays, text)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save(arrays, metadata))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateFileError(f"cannot write the state file {path}: {error.strerror}; choose another place") from error


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and header of a file that `write` made; anything else is a StateFileError."""
    if not path.is_file():
        raise StateFileError(f"there is no state file {path}; check the path, or leave it out to start afresh")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise StateFileError(f"{path} is not an ADED state file; choose another file")
            if metadata.get("version") != str(_VERSION):
                raise StateFileError(
                    f"{path} has state version {metadata.get('version')}, this release reads {_VERSION}; delete it"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            header = json.loads(metadata["header"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StateFileError(f"the state file {path} is damaged ({error}); delete it to start afresh") from error
    if metadata.get("checksum") != _checksum(arrays, metadata["header"]) or not isinstance(header, dict):
        raise StateFileError(f"the state file {path} is damaged (its checksum differs); delete it to start afresh")
    return arrays, header


def check_identity(mine: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
    """Refuse state learned over another vocabulary, tokenizer or set of context lengths (0 and "" mean unknown)."""
    for name, word in (("vocab_size", "vocabulary size"), ("fingerprint", "tokenizer"), ("orders", "context lengths")):
        a, b = mine[name], theirs.get(name)
        if a and b and a != b:
            raise StateFileError(f"{what} belongs to another model: its {word} is {b}, this one's is {a}")


def check_arrays(arrays: dict[str, NDArray[Any]], successors: Any, path: str | Path) -> None:
    """Refuse arrays that are not a table, before anything of them is used."""
    shapes = {
        "keys": (np.uint64, 1),
        "stamps": (np.uint32, 1),
        "counts": (np.float32, 1),
        "successors": (np.int32, 2),
        "weights": (np.float32, 2),
    }
    n = len(arrays["keys"]) if "keys" in arrays else -1
    for name, (dtype, ndim) in shapes.items():
        array = arrays.get(name)
        wide = array is not None and (ndim == 1 or array.shape[1:] == (successors,))
        if array is None or array.dtype != dtype or array.ndim != ndim or len(array) != n or not wide:
            raise StateFileError(f"the state file {path} is damaged (array {name}); delete it to start afresh")
