"""What was learned is saved, and helps the next run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import aded
from aded.engines.transformers.loading import load

loaded = load(None)
ids = loaded.prompt_ids([{"role": "user", "content": "Count from one to twelve in words."}])


def answered(drafter: aded.Drafter) -> int:
    stats = aded.Stats()
    options = {"max_new_tokens": 60, "do_sample": False, "custom_generate": aded.generate}
    loaded.model.generate(ids, **options, drafter=drafter, stats=stats)
    return stats.steps


with tempfile.TemporaryDirectory() as folder:
    state = Path(folder) / "learned.safetensors"
    first = aded.create_drafter("adaptive")
    first.bind(loaded.vocab_size, loaded.fingerprint)  # a file of another vocabulary is refused
    print(f"first run: {answered(first)} passes")
    first.save(state)

    second = aded.create_drafter("adaptive")
    second.bind(loaded.vocab_size, loaded.fingerprint)
    second.load(state)
    print(f"next run: {answered(second)} passes")
