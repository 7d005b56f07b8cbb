"""What people ask of vLLM, in one engine, as JSON: `cases.py MODEL SPECULATIVE_CONFIG ADAPTERS`, the last two JSON.

Each case is asked once, and with speculation once more: what was said the first time is then drafted. ADAPTERS are the
folders of LoRA adapters: with them, their case alone is asked, as vLLM's processor backend cannot score prompts beside
any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

Case = Callable[[Any], list[Any]]
ARGUMENTS = {"dtype": "float32", "max_model_len": 256, "enforce_eager": True, "gpu_memory_utilization": 0.3}
# Room for 700 tokens: requests are preempted where there are forty.
ARGUMENTS |= {"max_num_seqs": 40, "block_size": 32, "num_gpu_blocks_override": 22, "max_logprobs": 10}
ARGUMENTS |= {"enable_prefix_caching": True}
PROMPTS = [f"Tell me {what} {number}." for number in range(7) for what in ("of the river", "why not", "all about")]
ADAPTERS: list[str] = []
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "kind": {"enum": ["a", "bc"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= "select " word (", " word){3} " from " word\nword ::= "cat" | "dog" | "the horse"'


def params(**options: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"temperature": 0, "max_tokens": 32, **options})


def told(output: Any) -> list[Any]:
    """Everything a request was answered; log-probabilities as numbers in the order of their tokens."""

    def numbers(positions: Any) -> Any:
        return positions and [
            at and [[token, at[token].logprob, at[token].rank] for token in sorted(at)] for at in positions
        ]

    answer = output.outputs[0]
    facts = [list(answer.token_ids), answer.text, answer.finish_reason, answer.stop_reason]
    return [*facts, numbers(answer.logprobs), numbers(output.prompt_logprobs)]


def ask(llm: Any, wanted: list[Any], prompts: list[str] = PROMPTS, **options: Any) -> list[Any]:
    return [told(output) for output in llm.generate(prompts[: len(wanted)], wanted, use_tqdm=False, **options)]


def structured(llm: Any) -> list[Any]:
    """Fourteen at once, some of them free, one cut."""
    from vllm.sampling_params import StructuredOutputsParams as Structure

    kinds: list[dict[str, Any]] = [
        {"json": SCHEMA},
        {"regex": r"[a-f]{6}-[0-9]{3}(, [a-f]{6}){2}"},
        {"choice": ["yes, it is", "no, it is not", "nobody knows"]},
        {"grammar": GRAMMAR},
    ]
    wanted = [params(max_tokens=48, structured_outputs=Structure(**kinds[i % 4])) for i in range(11)]
    wanted += [params(), params(max_tokens=7, structured_outputs=Structure(json=SCHEMA)), params(max_tokens=20)]
    return ask(llm, wanted)


def stops(llm: Any) -> list[Any]:
    """Strings out of the answers themselves, each cut off and kept."""
    found = []
    free = ask(llm, [params()] * 4)
    for kept in (False, True):
        texts = [[answer[1][8:11]] for answer in free]
        found += ask(llm, [params(stop=text, include_stop_str_in_output=kept, logprobs=2) for text in texts])
    return found + ask(llm, [params(stop_token_ids=[answer[0][9]]) for answer in free])


def scores(llm: Any) -> list[Any]:
    """Log-probabilities of answers and prompts, then with the prompts' beginnings kept."""
    wanted = [params(logprobs=5), params(logprobs=0), params(logprobs=3, prompt_logprobs=3), params()]
    return ask(llm, wanted) + ask(llm, wanted)


def penalties(llm: Any) -> list[Any]:
    options: list[dict[str, Any]] = [
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -0.7},
        {"presence_penalty": 0.9},
        {"presence_penalty": -0.9},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
        {"min_tokens": 20},
        {"bad_words": ["the", " river"]},
        {"allowed_token_ids": list(range(300, 700))},
        {"ignore_eos": True},
        {"frequency_penalty": 0.4, "presence_penalty": 0.4, "repetition_penalty": 1.1, "min_tokens": 5},
        {
            "repetition_penalty": 1.2,
            "allowed_token_ids": list(range(300, 900, 2)),
            "bad_words": ["of"],
            "ignore_eos": True,
        },
    ]
    return ask(llm, [params(**each) for each in options])


def adapters(llm: Any) -> list[Any]:
    """None and each alone, then both mixed. (vLLM's processor backend answers a request without an adapter by the last
    one, where others of the batch have any: with speculation and without.)"""
    from vllm.lora.request import LoRARequest

    requests = [None, *(LoRARequest(f"adapter-{i}", i, folder) for i, folder in enumerate(ADAPTERS, 1))]
    alone = [ask(llm, [params()], lora_request=one)[0] for one in requests]
    return alone + ask(llm, [params()] * 9, [PROMPTS[0]] * 9, lora_request=[requests[1 + i % 2] for i in range(9)])


def length(llm: Any) -> list[Any]:
    """Prompts of all lengths up to the longest, answered to the end; then one that is too long."""
    from vllm.exceptions import VLLMValidationError

    longest = ARGUMENTS["max_model_len"]
    prompts = [{"prompt_token_ids": [300 + i % 50 for i in range(longest - rest)]} for rest in (1, 2, 3, 5, 9, 40)]
    found = ask(llm, [params(max_tokens=60, ignore_eos=True)] * len(prompts), prompts)  # type: ignore[arg-type]
    try:
        ask(llm, [params()], [{"prompt_token_ids": [300] * (longest + 1)}])  # type: ignore[list-item]
    except VLLMValidationError as error:
        return [*found, str(error)]
    return [*found, "nothing was said of a prompt that is too long"]


def crowded(llm: Any) -> list[Any]:
    """Forty at once and little room; every third and sixth is left at step 5 and 7."""
    engine = llm.llm_engine
    names = [str(i) for i in range(40)]
    done: dict[str, list[Any]] = {}
    for i, name in enumerate(names):
        engine.add_request(name, PROMPTS[i % 21] + " again" * i, params(max_tokens=60 + i, ignore_eos=True))
    step = 0
    while engine.has_unfinished_requests():
        step += 1
        if step in (5, 7):
            engine.abort_request([name for i, name in enumerate(names) if i % 6 == (3 if step == 5 else 0)])
        for output in engine.step():
            if output.finished:
                done[output.request_id] = told(output)
    return [[name, done[name]] for name in sorted(done, key=int) if int(name) % 3]


def sampled(llm: Any) -> list[Any]:
    """Requests with all that a sampler can be told, among greedy ones; what the greedy ones said."""
    options: list[dict[str, Any]] = [{}, {"top_k": 6}, {"top_p": 0.8}, {"top_k": 9, "top_p": 0.9}, {"seed": 3}]
    wanted = [params(temperature=0.7, **each) for each in options]
    mixed = [each for one in wanted for each in (one, params())]
    return ask(llm, mixed)[1::2]


CASES: list[Case] = [structured, stops, scores, penalties, length, crowded, sampled]


def counts(llm: Any) -> dict[str, int]:
    found = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    ends = {"drafted": "spec_decode_num_draft_tokens", "accepted": "spec_decode_num_accepted_tokens"}
    return {name: int(found.get(f"vllm:{end}", 0)) for name, end in {**ends, "preempted": "num_preemptions"}.items()}


if __name__ == "__main__":
    from vllm import LLM

    model, speculative = sys.argv[1], json.loads(sys.argv[2])
    ADAPTERS[:] = json.loads(sys.argv[3])
    if ADAPTERS:
        CASES, ARGUMENTS = [adapters], {**ARGUMENTS, "enable_lora": True, "max_loras": len(ADAPTERS)}
    llm = LLM(model, speculative_config=speculative, disable_log_stats=False, **ARGUMENTS)
    answers: dict[str, Any] = {}
    for case in CASES:
        turns = [case(llm)]
        before = counts(llm)
        if speculative is not None:
            turns.append(case(llm))
        after = counts(llm)
        answers[case.__name__] = {"turns": turns, **{name: after[name] - before[name] for name in after}}
    print("\nANSWERS " + json.dumps({"cases": answers, "counts": counts(llm)}))
