"""The llama.cpp engine."""

from aded.engines.llamacpp.certificate import certify
from aded.engines.llamacpp.draft_model import DraftModel
from aded.engines.llamacpp.entry import accelerate

__all__ = ["DraftModel", "accelerate", "certify"]
