"""ADED for vLLM: `AdedProposer`, which vLLM loads by name and runs in its own processes."""

from __future__ import annotations

from aded.engines.vllm import AdedProposer

__all__ = ["AdedProposer"]
