"""The exceptions a user of ADED can meet. Each message says what to do about it."""

from __future__ import annotations

__all__ = [
    "AdedError",
    "BusyError",
    "ContextFullError",
    "CorpusFileError",
    "DraftTreeError",
    "ModelLoadError",
    "PromptFileError",
    "SettingsError",
    "StateFileError",
    "TraceFileError",
    "UnknownDrafterError",
    "UnsupportedError",
]


class AdedError(Exception):
    """Base of every error ADED raises on purpose."""


class BusyError(AdedError):
    """Another process is writing the same file."""


class DraftTreeError(AdedError, ValueError):
    """A draft tree whose arrays do not describe a tree."""


class UnknownDrafterError(AdedError, ValueError):
    """A drafter was asked for by a name that nothing is registered under."""


class StateFileError(AdedError):
    """A saved state is missing, damaged, or belongs to another vocabulary or version."""


class TraceFileError(AdedError):
    """A trace is missing, damaged, or made for another model than it is used with."""


class CorpusFileError(AdedError):
    """A corpus is missing, damaged, or belongs to another vocabulary or version; or a text it is made of is."""


class ContextFullError(AdedError):
    """A sequence has reached the length that its context was made for."""


class PromptFileError(AdedError):
    """A file of prompts is missing or cannot be understood."""


class SettingsError(AdedError, ValueError):
    """A setting by a name that is none, or with a value it cannot have."""


class ModelLoadError(AdedError):
    """A model or its tokenizer cannot be loaded."""


class UnsupportedError(AdedError):
    """This model or generation mode cannot be verified with drafts; the message names the reason."""
