"""The llama.cpp engine."""

from aded.engines.llamacpp.api import DraftModel, accelerate, prepare, restore
from aded.engines.llamacpp.certificate import certify

__all__ = ["DraftModel", "accelerate", "certify", "prepare", "restore"]
