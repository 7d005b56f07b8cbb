"""The transformers engine."""

from aded.engines.base.certificate import Certificate
from aded.engines.transformers.api import accelerate, generate, prepare, restore
from aded.engines.transformers.certificate import certify

__all__ = ["Certificate", "accelerate", "certify", "generate", "prepare", "restore"]
