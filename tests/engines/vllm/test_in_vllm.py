"""In vLLM itself; run by `make vllm-test`, in the environment that it sets up."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from support import paths
from support.vllm_engines import ADED, both, read, run_script

pytest.importorskip("vllm", reason="vLLM is not installed here: make vllm-test")
MODEL = os.environ.get("ADED_TEST_MODEL", "")
pytestmark = pytest.mark.skipif(not MODEL, reason="ADED_TEST_MODEL names no model: make vllm-test")

# float32: there a pass over several tokens agrees with one over one to six digits.
EXACT = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "gpu_memory_utilization": 0.3}
SAMPLES = int(os.environ.get("ADED_TEST_SAMPLES", "8000"))
PROMPTS = [json.loads(line)["turns"][0] for line in paths.PROMPTS.read_text().splitlines()][:16]


def run_engine(
    speculative: dict[str, Any] | None, prompts: list[str], model: str = MODEL, **arguments: Any
) -> subprocess.CompletedProcess[str]:
    return run_script("answers.py", model, speculative, {**EXACT, **arguments}, prompts)


def answers(
    speculative: dict[str, Any] | None, prompts: list[str] = PROMPTS, model: str = MODEL, **arguments: Any
) -> dict[str, Any]:
    return read(run_engine(speculative, prompts, model, **arguments))


@pytest.fixture(scope="module")
def greedy() -> tuple[dict[str, Any], dict[str, Any]]:
    """Without speculation, and with as many tokens drafted as pay."""
    return both("answers.py", MODEL, EXACT, PROMPTS, drafted="auto")


@pytest.fixture(scope="module")
def plain(greedy: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return greedy[0]


def test_a_name_is_enough_and_other_methods_are_left_alone(even: str) -> None:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs

    from aded.vllm_plugin import register

    def configured(speculative: dict[str, Any]) -> Any:
        arguments = EngineArgs(even, speculative_config=speculative, max_model_len=256)  # loads the plugins
        return arguments.create_engine_config().speculative_config

    ours, longer = configured({"model": "aded.vllm"}), configured({"model": "aded", "num_speculative_tokens": 12})
    assert (ours.method, ours.model, ours.num_speculative_tokens) == ("custom_class", "aded.vllm.AdedProposer", 8)
    assert (longer.model, longer.num_speculative_tokens) == ("aded.vllm.AdedProposer", 12)
    ngram = configured({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4})
    assert (ngram.method, ngram.num_speculative_tokens) == ("ngram", 3)
    wrapped = VllmConfig._get_v2_model_runner_unsupported_features
    register()
    assert VllmConfig._get_v2_model_runner_unsupported_features is wrapped


def test_greedy_answers_are_vllms_own_alone_and_together(greedy: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plain, ours = greedy
    assert ours["alone"] == plain["alone"]
    assert ours["together"] == plain["together"]
    assert ours["counts"]["vllm:spec_decode_num_accepted_tokens"] > 100


def test_prompts_in_pieces_prefixes_kept_and_requests_preempted_change_nothing(plain: dict[str, Any]) -> None:
    """Room for few tokens in a step, and for fewer in all than the requests grow to: 12 blocks of 32 tokens."""
    small = {"max_num_batched_tokens": 24, "enable_chunked_prefill": True, "enable_prefix_caching": True}
    ours = answers(ADED, **small, max_model_len=256, block_size=32, num_gpu_blocks_override=12)
    assert ours["counts"]["vllm:num_preemptions"] > 0
    assert ours["alone"] == plain["alone"]
    assert ours["together"] == plain["together"]


def test_two_workers_give_the_same(even: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # by itself it wants a memory node for each
    two = {"model": even, "tensor_parallel_size": 2, "most_tokens": 96}
    plain, ours = answers(None, PROMPTS[:6], **two), answers(ADED, PROMPTS[:6], **two)
    assert ours["alone"] == plain["alone"]
    assert ours["together"] == plain["together"]
    assert ours["counts"]["vllm:spec_decode_num_draft_tokens"] > 0


def test_pipeline_stages_are_refused_with_one_clear_line(even: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    run = run_engine(ADED, PROMPTS[:1], even, pipeline_parallel_size=2)
    assert run.returncode
    assert "cannot speculate over pipeline stages, and there are 2" in run.stdout + run.stderr


@pytest.fixture(scope="module")
def asked(even: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """All of cases.py without speculation and with drafts in every step, whatever they cost."""
    adapters = [lora(tmp_path_factory.mktemp("lora"), seed) for seed in (1, 2)]
    plain, ours = both("cases.py", even, [], drafted=5)
    plain_adapters, our_adapters = both("cases.py", even, adapters, drafted=5)
    return {**plain["cases"], **plain_adapters["cases"]}, {**ours["cases"], **our_adapters["cases"]}


def lora(folder: Path, seed: int) -> str:
    """A random adapter for the model of `even`."""
    import torch
    from safetensors.torch import save_file

    random, tensors = torch.Generator().manual_seed(seed), {}
    for layer in range(2):
        for name, size in (("q_proj", 128), ("v_proj", 64)):
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{key}.lora_A.weight"] = 0.2 * torch.randn(8, 128, generator=random)
            tensors[f"{key}.lora_B.weight"] = 0.2 * torch.randn(size, 8, generator=random)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none"}
    config |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "even"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


CASES = ("structured", "stops", "scores", "penalties", "length", "crowded", "sampled", "adapters")


@pytest.mark.parametrize("case", CASES)
def test_whatever_is_asked_is_answered_the_same(asked: tuple[dict[str, Any], dict[str, Any]], case: str) -> None:
    """Ids, texts, reasons to end, and every bit of the log-probabilities, with what was said before drafted."""
    plain, ours = asked
    first, again = ours[case]["turns"]
    assert first == again == plain[case]["turns"][0]
    assert ours[case]["accepted"] > 10
    if case == "crowded":
        assert ours[case]["preempted"] > 10


def test_not_all_drafts_of_those_cases_are_accepted(asked: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert set(asked[1]) == set(CASES)
    assert sum(case["drafted"] - case["accepted"] for case in asked[1].values()) > 100


def chi_square(one: Counter[str], other: Counter[str]) -> tuple[float, int]:
    """Pearson's statistic of two samples of one distribution, and its degrees of freedom; what is rare is one kind."""
    sizes = sum(one.values()), sum(other.values())
    least = min(sizes) / sum(sizes)
    frequent = [kind for kind in one | other if (one[kind] + other[kind]) * least >= 5]
    rows = [(one[kind], other[kind]) for kind in frequent]
    rest = sizes[0] - sum(row[0] for row in rows), sizes[1] - sum(row[1] for row in rows)
    if sum(rest) * least >= 5:
        rows.append(rest)
    parts = [(row[i] - (mean := sum(row) * sizes[i] / sum(sizes))) ** 2 / mean for row in rows for i in (0, 1)]
    return sum(parts), len(rows) - 1


def test_drafts_change_no_distribution_and_top_k_alone_ends_nothing(small: str) -> None:
    """Four tokens at a temperature of 0.8, many times with drafts and without; fewer with top_k alone, and top_p."""
    plain, ours = both("sampled.py", small, SAMPLES, drafted=4)
    drafted, accepted = (ours["counts"][f"vllm:spec_decode_num_{what}_tokens"] for what in ("draft", "accepted"))
    assert accepted > 1000
    assert drafted - accepted > 1000
    for name in plain["seen"]:
        statistic, freedom = chi_square(Counter(plain["seen"][name]), Counter(ours["seen"][name]))
        print(f"{name}: chi-square {statistic:.1f} with {freedom} degrees of freedom")
        assert freedom > 50
        assert statistic < freedom + 3.1 * math.sqrt(2 * freedom), "one in a thousand is above, were they the same"


def test_a_wrong_setting_stops_the_start_with_one_clear_line() -> None:
    run = run_engine(ADED, PROMPTS[:1], additional_config={"aded": {"memry_mb": 8}})
    assert run.returncode
    assert "additional_config['aded'] takes state, start, save_every_s" in run.stdout + run.stderr


SERVED = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--served-model-name", "m"]
SERVED += ["--gpu-memory-utilization", "0.3", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]


@contextmanager
def serving(method: str, folder: Path, *arguments: str) -> Iterator[Any]:
    """A client of `vllm serve`."""
    openai = pytest.importorskip("openai")
    from benchmarks.serving import ENGINES, server

    with server(ENGINES["vllm"], MODEL, method, folder / f"{method}.log", [*SERVED, *arguments]) as port:
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    folder = tmp_path_factory.mktemp("served")
    state = folder / "learned.safetensors"
    # Drafts in every step, whatever they cost. Without the timeout vLLM kills its workers.
    kept = {"state": str(state), "max_draft_tokens": "5"}
    arguments = ["--shutdown-timeout", "20", "--additional-config", json.dumps({"aded": kept})]
    with serving("none", folder, "--speculative-config", json.dumps(ADED), *arguments) as client:
        yield client, state
    assert state.is_file(), "what was learned is saved when the server ends"
    from aded.representative import Representative

    table = Representative(memory_mb=64, successors=8)
    table.load(state)
    assert table.used > 100
    assert b"acme" not in state.read_bytes(), "tenants are not kept by their names"


def ask(client: Any, prompt: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="m", messages=messages, temperature=0, max_tokens=48, **options)


def test_what_cannot_be_had_with_speculation_is_one_clear_answer(served: tuple[Any, Path]) -> None:
    client, _ = served
    refused = {"min_p": 0.1}, {"logit_bias": {"5": 1.0}}
    for extra in refused:
        with pytest.raises(Exception, match="not yet supported with speculative decoding") as error:
            client.completions.create(model="m", prompt="a", max_tokens=4, temperature=0.5, extra_body=extra)
        assert error.value.status_code == 400  # type: ignore[attr-defined]
    for wrong in ({"aded_share": "all"}, {"aded_tenant": 3}, {"aded_draft": "off"}):
        with pytest.raises(Exception, match="aded_") as error:
            client.completions.create(model="m", prompt="a", max_tokens=4, extra_body={"vllm_xargs": wrong})
        assert error.value.status_code == 400  # type: ignore[attr-defined]
    assert client.completions.create(model="m", prompt="a", max_tokens=4, extra_body={"top_k": 5}).choices[0].text


def metrics(client: Any) -> dict[str, float]:
    with urlopen(str(client.base_url).replace("/v1/", "/metrics")) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(("aded_", "vllm:spec_decode")))
    return {name: float(value) for name, value in pairs}


def accepted(client: Any) -> float:
    found = [
        value
        for name, value in metrics(client).items()
        if name.startswith("vllm:spec_decode_num_accepted_tokens_total")
    ]
    return sum(found)


def test_openais_client_streams_and_asks_at_once(served: tuple[Any, Path]) -> None:
    client, _ = served
    whole = [ask(client, prompt).choices[0].message.content for prompt in PROMPTS[:6]]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda prompt: ask(client, prompt).choices[0].message.content, PROMPTS[:6]))
    assert together == whole
    shown = metrics(client)
    assert shown['aded_steps_total{drafts="drafted",engine="0"}'] > 10
    assert shown['aded_table_contexts{engine="0"}'] > 100
    for prompt, text in zip(PROMPTS[:3], whole, strict=False):
        pieces = [part.choices[0].delta.content or "" for part in ask(client, prompt, stream=True) if part.choices]
        assert "".join(pieces) == text
        assert len(pieces) > 2


def test_a_tenants_answers_are_drafted_for_that_tenant_alone(served: tuple[Any, Path]) -> None:
    client, _ = served

    def gained(**extra: str) -> tuple[str, float]:
        before = accepted(client)
        text = ask(client, "Tell me about a lighthouse.", extra_body={"vllm_xargs": extra}).choices[0].message.content
        return text, accepted(client) - before

    first, again = gained(aded_tenant="acme"), gained(aded_tenant="acme")
    other, out = gained(aded_tenant="others"), gained(aded_drafts="off")
    assert {first[0]} == {again[0], other[0], out[0]}
    assert again[1] > 30, "it was said before"
    assert other[1] == first[1] < again[1]
    assert out[1] == 0


TOOL = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


def called(client: Any, choice: Any) -> tuple[Any, Any]:
    """What is answered, whole and in a stream put together: the text, the calls, and the reason to end."""
    asked = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": choice}
    answer = ask(client, "How will the weather be in Paris?", **asked).choices[0]
    calls = [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or []]
    text, pieces, reason = "", dict[int, list[str]](), None
    for part in ask(client, "How will the weather be in Paris?", **asked, stream=True):
        for piece in part.choices:
            text, reason = text + (piece.delta.content or ""), piece.finish_reason or reason
            for call in piece.delta.tool_calls or []:
                pair = pieces.setdefault(call.index, ["", ""])
                pair[0] += call.function.name or ""
                pair[1] += call.function.arguments or ""
    streamed = [tuple(pair) for _, pair in sorted(pieces.items())]
    return (answer.message.content or "", calls, answer.finish_reason), (text, streamed, reason)


def test_tools_are_called_as_by_a_plain_server(served: tuple[Any, Path], tmp_path: Path) -> None:
    client, _ = served
    choices = ["auto", "required", {"type": "function", "function": {"name": "weather"}}]
    before = accepted(client)
    ours = [[called(client, choice) for choice in choices] for _ in range(2)]
    assert accepted(client) - before > 50
    with serving("none", tmp_path) as plain:
        theirs = [called(plain, choice) for choice in choices]
    assert ours == [theirs, theirs]
    assert all(answer[1] for answer, _ in theirs[1:]), "a call was asked for"
