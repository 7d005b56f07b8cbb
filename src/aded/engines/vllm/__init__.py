"""The vLLM engine: a proposer that vLLM loads by name. vLLM itself verifies, schedules and samples."""

from aded.engines.vllm.api import AdedProposer

__all__ = ["AdedProposer"]
