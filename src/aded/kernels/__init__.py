"""Compiled arithmetic that knows no model, and the one place where it is compiled and kept."""
