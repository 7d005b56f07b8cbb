"""ADED: language models decode several tokens a forward pass, with exactly the same output."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aded.decoding import Stats
from aded.drafters.base import Drafter, Observation, Session, register
from aded.drafters.base import create as create_drafter
from aded.drafters.base import names as drafter_names
from aded.errors import (
    AdedError,
    ContextFullError,
    CorpusFileError,
    DraftTreeError,
    ModelLoadError,
    PromptFileError,
    StateFileError,
    TraceFileError,
    UnknownDrafterError,
    UnsupportedError,
)
from aded.representative import Corpus, Representative
from aded.tree import DraftTree

if TYPE_CHECKING:
    from aded.engines.transformers import Certificate, accelerate, certify, generate, undo

__version__ = "0.1.0"

__all__ = [
    "AdedError",
    "Certificate",
    "ContextFullError",
    "Corpus",
    "CorpusFileError",
    "DraftTree",
    "DraftTreeError",
    "Drafter",
    "ModelLoadError",
    "Observation",
    "PromptFileError",
    "Representative",
    "Session",
    "StateFileError",
    "Stats",
    "TraceFileError",
    "UnknownDrafterError",
    "UnsupportedError",
    "accelerate",
    "certify",
    "create_drafter",
    "drafter_names",
    "generate",
    "register",
    "undo",
]

_ENGINE_NAMES = {"Certificate", "accelerate", "certify", "generate", "undo"}


def __getattr__(name: str) -> Any:
    # The engine imports torch and transformers; drafting alone must not.
    if name in _ENGINE_NAMES:
        try:
            return getattr(import_module("aded.engines.transformers"), name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'aded.{name} needs torch and transformers: pip install "aded[transformers]"'
            ) from error
    if name == "llamacpp":
        return import_module("aded.llamacpp")
    raise AttributeError(f"module 'aded' has no attribute {name!r}")
