"""The transformers engine."""

from aded.engines.certificate import Certificate
from aded.engines.transformers.certificate import certify
from aded.engines.transformers.entry import accelerate, generate, undo

__all__ = ["Certificate", "accelerate", "certify", "generate", "undo"]
