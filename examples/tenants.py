"""Two users of one model: what one is answered drafts for nobody else."""

from __future__ import annotations

import aded
from aded.engines.transformers.loading import load

loaded = load(None)
drafter = aded.create_drafter("adaptive")
ids = loaded.prompt_ids([{"role": "user", "content": "Count from one to twelve in words."}])
for tenant in ("anna", "ben", "anna"):
    stats = aded.Stats()
    loaded.model.generate(
        ids,
        max_new_tokens=60,
        do_sample=False,
        custom_generate=aded.generate,
        drafter=drafter,
        tenant=tenant,
        stats=stats,
    )
    print(f"{tenant}: {stats.tokens} tokens in {stats.steps} passes")
