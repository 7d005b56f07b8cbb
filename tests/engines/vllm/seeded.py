"""Greedy and seeded answers of a small model, as JSON: `seeded.py MODEL SPECULATIVE_CONFIG ARGUMENTS`.

The last two are JSON, and so is a third: which of the ways of sampling to ask for. More requests than run at once,
twice: what was said the first time is then drafted. (top_k and top_p of many rows have a kernel that Triton's
interpreter cannot run.)
"""

from __future__ import annotations

import json
import sys
from typing import Any

WANTED: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8},
    {"temperature": 0.8, "min_p": 0.05},
    {"temperature": 0.8, "logit_bias": {5: 4.0, 34: -100.0}},
    {"temperature": 0.8, "presence_penalty": 0.5, "repetition_penalty": 1.1},
]

if __name__ == "__main__":
    from vllm import LLM, SamplingParams

    model, (speculative, given, *only) = sys.argv[1], map(json.loads, sys.argv[2:])
    arguments = {"dtype": "float32", "max_model_len": 64, "enforce_eager": True, "gpu_memory_utilization": 0.3}
    arguments |= {"skip_tokenizer_init": True, "disable_log_stats": False, "max_num_seqs": 3, **given}
    llm = LLM(model, speculative_config=speculative, **arguments)
    prompts = [{"prompt_token_ids": ids} for ids in ([3, 1, 4, 1, 5], [2, 7, 1], [9] * 4, [5])]
    fixed: dict[str, Any] = {"seed": 5, "ignore_eos": True, "detokenize": False}
    said = []
    for _ in range(2):
        for wanted in WANTED if not only else [WANTED[n] for n in only[0]]:
            sampling = [SamplingParams(**fixed, **wanted, max_tokens=8 + 2 * i) for i in range(len(prompts))]
            answers = llm.generate(prompts, sampling, use_tqdm=False)
            said.append([list(answer.outputs[0].token_ids) for answer in answers])
    counts = {m.name: m.value for m in llm.get_metrics() if "spec_decode" in m.name and hasattr(m, "value")}
    print("\nANSWERS " + json.dumps({"said": said, "counts": counts}))
