"""ADED: language models decode several tokens a forward pass, with exactly the same output."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aded import llamacpp, vllm
    from aded.drafters.base import Drafter, Session, register
    from aded.drafters.base import create as create_drafter
    from aded.drafters.base import names as drafter_names
    from aded.drafters.predicted import predicting
    from aded.drafters.sharing import sharing
    from aded.engines.transformers import Certificate, accelerate, certify, generate, prepare, restore
    from aded.errors import (
        AdedError,
        BusyError,
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

__version__ = "0.1.0"

__all__ = [
    "AdedError",
    "BusyError",
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
    "predicting",
    "prepare",
    "register",
    "restore",
    "sharing",
    "vllm",
]

# Where each name is found when it is first asked for: the package itself is there at once, torch only where needed.
_OF = {
    "drafters.base": ("Drafter", "Session", "register", "create_drafter", "drafter_names"),
    "drafters.predicted": ("predicting",),
    "drafters.sharing": ("sharing",),
    "engines.transformers": ("Certificate", "accelerate", "certify", "generate", "prepare", "restore"),
    "representative": ("Corpus", "Representative"),
    "stats": ("Stats",),
    "tree": ("DraftTree", "Outcome"),
}
_PLACE = {name: module for module, names in _OF.items() for name in names}
_CALLED = {"create_drafter": "create", "drafter_names": "names"}  # within their modules
_OLD = {"Observation": "Outcome", "undo": "restore"}


def __getattr__(name: str) -> Any:
    if name in _OLD:
        from aded.deprecation import renamed

        renamed(f"aded.{name}", f"aded.{_OLD[name]}")
        return __getattr__(_OLD[name])
    if name in ("llamacpp", "vllm"):
        return import_module(f"aded.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'aded' has no attribute {name!r}")
    place = _PLACE.get(name, "errors")
    try:
        found = getattr(import_module(f"aded.{place}"), _CALLED.get(name, name))
    except ModuleNotFoundError as error:
        if place != "engines.transformers":
            raise
        raise ModuleNotFoundError(
            f'aded.{name} needs torch and transformers: pip install "aded[transformers]"'
        ) from error
    globals()[name] = found
    return found
