"""Engines: the only rooms that import an inference package, each of them optional."""
