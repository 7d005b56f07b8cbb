"""Where the files lie that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
PROMPTS = DATA / "prompts.jsonl"
SHIPPED = DATA / "smollm2.trace.safetensors"
