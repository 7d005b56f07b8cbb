"""Compiled arithmetic that knows no model, and the one place where it is compiled and kept."""

from aded.kernels.jit import compiled_sources

__all__ = ["compiled_sources"]
