"""ADED: language models decode several tokens a forward pass, with exactly the same output."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aded.deprecation import renamed
from aded.drafters.base import Drafter, Session, register
from aded.drafters.base import create as create_drafter
from aded.drafters.base import names as drafter_names
from aded.errors import (
    AdedError,
    ContextFullError,
    CorpusFileError,
    DraftTreeError,
    ModelLoadError,
    PromptFileError,
    SettingsError,
    StateFileError,
    TraceFileError,
    UnknownDrafterError,
    UnsupportedError,
)
from aded.representative import Corpus, Representative
from aded.stats import Stats
from aded.tree import DraftTree, Outcome

if TYPE_CHECKING:
    from aded import llamacpp, vllm
    from aded.engines.transformers import Certificate, accelerate, certify, generate, prepare, restore

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
    "Outcome",
    "PromptFileError",
    "Representative",
    "Session",
    "SettingsError",
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
    "llamacpp",
    "prepare",
    "register",
    "restore",
    "vllm",
]

_OF_TRANSFORMERS = {"Certificate", "accelerate", "certify", "generate", "prepare", "restore"}
_OLD = {"Observation": "Outcome", "undo": "restore"}


def __getattr__(name: str) -> Any:
    # The engine imports torch and transformers; drafting alone must not.
    if name in _OLD:
        renamed(f"aded.{name}", f"aded.{_OLD[name]}")
        return globals().get(_OLD[name]) or __getattr__(_OLD[name])
    if name in _OF_TRANSFORMERS:
        try:
            return getattr(import_module("aded.engines.transformers"), name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'aded.{name} needs torch and transformers: pip install "aded[transformers]"'
            ) from error
    if name in ("llamacpp", "vllm"):
        return import_module(f"aded.{name}")
    raise AttributeError(f"module 'aded' has no attribute {name!r}")
