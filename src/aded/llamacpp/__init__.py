"""ADED for llama.cpp: `aded.llamacpp.accelerate(llama)`; needs llama-cpp-python, and neither torch nor transformers."""

from __future__ import annotations

try:
    from aded.engines.llamacpp import DraftModel, accelerate, certify, patch, prepare, restore, unpatch
except ModuleNotFoundError as error:
    if error.name != "llama_cpp":
        raise
    raise ModuleNotFoundError(
        'aded.llamacpp needs llama-cpp-python: pip install "aded[llamacpp]"', name="llama_cpp"
    ) from error

__all__ = ["DraftModel", "accelerate", "certify", "patch", "prepare", "restore", "unpatch"]
