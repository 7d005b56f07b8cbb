"""Models converted from GGUF files, kept in the cache folder as safetensors."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from aded.errors import BusyError, ModelLoadError
from aded.files import cache_folder, locked

_MANIFEST = "aded.json"  # the files of a finished conversion and their sizes in bytes
_SCRATCH = ".converting-"
_STALE_S = 24 * 3600.0  # age of what earlier releases left behind, whose owners cannot be told


def converted(file: Path, name: str, report: Callable[[str], None]) -> Path:
    """The safetensors folder made from a GGUF file, making it on first use.

    It is named after what the file holds. One process converts at a time; what a killed one left behind is removed.

    Raises:
        ModelLoadError: the file is none, or nothing can be kept.
    """
    if not file.is_file():
        raise ModelLoadError(f"there is no GGUF file {file}; check the path")
    try:
        with file.open("rb") as stream:
            key = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise ModelLoadError(f"cannot read {file}: {error.strerror}; check its permissions") from error
    try:
        target = cache_folder() / "models" / f"{file.stem[:100]}-{key}"  # names end at 255 bytes
        if is_whole(target):
            return target
        if importlib.util.find_spec("gguf") is None:
            raise ModelLoadError('reading a GGUF file needs the package gguf: pip install "aded[cli]"')
        with locked(target, "converting", wait=True):
            _remove_stale(target.parent)
            if is_whole(target):  # another process made it meanwhile
                return target
            report(f"Converting {name} to safetensors, once (about half a minute)")
            scratch = target.with_name(_SCRATCH + target.name)
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                scratch.mkdir()
                _convert(file, scratch)
                if target.exists():
                    report(f"what was kept in {target} was damaged")
                    shutil.rmtree(target)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise ModelLoadError(
            f"cannot keep the converted model: {error}; make room, or set ADED_CACHE to a folder that can be written"
        ) from error
    return target


def is_whole(folder: Path) -> bool:
    """Whether a conversion is there with all of its files, as long as they were."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def kept(folder: Path) -> bool:
    """Whether a folder is a conversion of ours, whole or not."""
    return (folder / _MANIFEST).is_file()


def _convert(file: Path, scratch: Path) -> None:
    with quiet(progress=True):
        where: dict[str, Any] = {"gguf_file": file.name}
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **where)
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
        except Exception as error:
            raise ModelLoadError(f"cannot read {file} as a GGUF language model: {reason(error)}") from error
        # What was read is plain float32 weights; only its labels still say it is quantized, and refuse saving.
        model.hf_quantizer = None
        for label in ("quantization_method", "is_quantized"):
            vars(model).pop(label, None)
        vars(model.config).pop("quantization_config", None)
        try:
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
        except (SafetensorError, RuntimeError) as error:  # how the libraries report a full disk
            raise OSError(reason(error)) from error
    sizes = {entry.name: entry.stat().st_size for entry in scratch.iterdir()}
    (scratch / _MANIFEST).write_text(json.dumps(sizes))


def _remove_stale(folder: Path) -> None:
    """Remove unfinished conversions of processes that are gone: a living one holds its lock."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        target = scratch.with_name(scratch.name.removeprefix(_SCRATCH))
        with contextlib.suppress(OSError, BusyError):
            if len(target.name) > 32:
                with locked(target, "converting"):
                    shutil.rmtree(scratch)
            elif time.time() - scratch.stat().st_mtime > _STALE_S:
                shutil.rmtree(scratch)


def reason(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def quiet(*, progress: bool = False) -> Iterator[None]:
    """Silence the libraries' advice and reports of retries; with `progress`, keep progress bars (on a terminal)."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not (progress and sys.stderr.isatty()):
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
