"""Traces: recorded answers of a model, and drafters replayed against them."""

from aded.traces.prompts import Prompt, read_prompts
from aded.traces.trace import Trace, TracedSequence

__all__ = ["Prompt", "Trace", "TracedSequence", "read_prompts"]
