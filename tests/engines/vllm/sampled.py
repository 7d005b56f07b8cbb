"""How often vLLM samples what, as JSON: `sampled.py MODEL SPECULATIVE_CONFIG COUNT`, the last two JSON.

Tokens that follow one prompt: `COUNT` samples at a temperature alone, a quarter as many with top_k alone and top_p.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

LENGTH = 4  # tokens of a sample: the first is never drafted
WANTED: dict[str, dict[str, Any]] = {"temperature": {}, "top_k": {"top_k": 6}, "top_p": {"top_p": 0.9}}

if __name__ == "__main__":
    from vllm import LLM, SamplingParams

    model, speculative, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    arguments = {"dtype": "float32", "max_model_len": 64, "enforce_eager": True, "gpu_memory_utilization": 0.3}
    llm = LLM(
        model, skip_tokenizer_init=True, speculative_config=speculative, disable_log_stats=False, seed=1, **arguments
    )
    seen = {}
    for name, options in WANTED.items():
        sampling = SamplingParams(
            temperature=0.8, max_tokens=LENGTH, n=500, ignore_eos=True, detokenize=False, **options
        )
        samples: Counter[str] = Counter()
        for _ in range(count // (500 if name == "temperature" else 2000)):
            (answer,) = llm.generate([{"prompt_token_ids": [3, 1, 4, 1, 5]}], sampling, use_tqdm=False)
            samples.update(" ".join(map(str, output.token_ids)) for output in answer.outputs)
        seen[name] = samples
    counts = {m.name: m.value for m in llm.get_metrics() if "spec_decode" in m.name and hasattr(m, "value")}
    print("\nANSWERS " + json.dumps({"seen": seen, "counts": counts}))
