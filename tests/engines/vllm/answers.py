"""Answers of one vLLM engine, as JSON: `answers.py MODEL SPECULATIVE_CONFIG ARGUMENTS PROMPTS`, the last three JSON.

Six prompts alone, each for itself, then all at once, each with another number of tokens.
"""

from __future__ import annotations

import json
import sys

if __name__ == "__main__":
    from vllm import LLM, SamplingParams

    model, (speculative, arguments, prompts) = sys.argv[1], map(json.loads, sys.argv[2:])
    most = arguments.pop("most_tokens", 48)
    llm = LLM(model, speculative_config=speculative, disable_log_stats=False, **arguments)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    greedy = SamplingParams(temperature=0, max_tokens=most)
    alone = [list(llm.chat(chat, greedy, use_tqdm=False)[0].outputs[0].token_ids) for chat in chats[:6]]
    mixed = [SamplingParams(temperature=0, max_tokens=most // 4 + 7 * i % most) for i in range(len(chats))]
    together = [list(answer.outputs[0].token_ids) for answer in llm.chat(chats, mixed, use_tqdm=False)]
    counts = {
        metric.name: metric.value
        for metric in llm.get_metrics()
        if ("spec_decode" in metric.name or "preempt" in metric.name) and hasattr(metric, "value")
    }
    print("\nANSWERS " + json.dumps({"alone": alone, "together": together, "counts": counts}))
