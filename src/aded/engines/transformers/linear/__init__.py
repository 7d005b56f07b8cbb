"""bfloat16 linear layers on CPUs, run the way that is fastest for the few tokens of a verification step."""

from aded.engines.transformers.linear.dispatch import fast_linear

__all__ = ["fast_linear"]
