"""The transformers engine."""

from aded.engines.base.certificate import Certificate
from aded.engines.transformers.compat import check_release, unsupported

check_release()
try:
    from aded.engines.transformers.api import accelerate, generate, prepare, restore
    from aded.engines.transformers.certificate import certify
except ImportError as error:
    if (error.name or "").startswith("transformers."):
        raise unsupported(str(error)) from error
    raise

__all__ = ["Certificate", "accelerate", "certify", "generate", "prepare", "restore"]
