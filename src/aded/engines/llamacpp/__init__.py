"""The llama.cpp engine."""

from aded.engines.llamacpp.api import accelerate, patch, prepare, restore, unpatch
from aded.engines.llamacpp.certificate import certify
from aded.engines.llamacpp.draft_model import DraftModel

__all__ = ["DraftModel", "accelerate", "certify", "patch", "prepare", "restore", "unpatch"]
