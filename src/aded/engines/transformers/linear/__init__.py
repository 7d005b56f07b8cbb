"""bfloat16 linear layers on CPUs, in kernels made for the few tokens of a verification step."""

from aded.engines.transformers.linear.dispatch import fast_linear, is_ours, library_linear

__all__ = ["fast_linear", "is_ours", "library_linear"]
