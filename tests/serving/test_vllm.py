"""In vLLM itself; run by `make vllm-test`, in the environment that it sets up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import paths

pytest.importorskip("vllm", reason="vLLM is not installed here: make vllm-test")
MODEL = os.environ.get("ADED_TEST_MODEL", "")
pytestmark = pytest.mark.skipif(not MODEL, reason="ADED_TEST_MODEL names no model: make vllm-test")

ADED = {"method": "custom_class", "model": "aded.engines.vllm.AdedProposer", "num_speculative_tokens": 6}
# float32: there a pass over several tokens agrees with one over one to six digits.
EXACT = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "gpu_memory_utilization": 0.3}
PROMPTS = [json.loads(line)["turns"][0] for line in paths.PROMPTS.read_text().splitlines()][:16]


def run_engine(
    speculative: dict[str, Any] | None, prompts: list[str], model: str = MODEL, **arguments: Any
) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("answers.py")
    texts = [json.dumps(part) for part in (speculative, {**EXACT, **arguments}, prompts)]
    return subprocess.run([sys.executable, str(script), model, *texts], capture_output=True, text=True, check=False)


def answers(
    speculative: dict[str, Any] | None, prompts: list[str] = PROMPTS, model: str = MODEL, **arguments: Any
) -> dict[str, Any]:
    run = run_engine(speculative, prompts, model, **arguments)
    found = [line for line in run.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert found, run.stdout[-3000:] + run.stderr[-3000:]
    read: dict[str, Any] = json.loads(found[0].removeprefix("ANSWERS "))
    return read


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return answers(None)


def test_greedy_answers_are_vllms_own_alone_and_together(plain: dict[str, Any]) -> None:
    ours = answers(ADED)
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


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random model whose heads can be shared by two; its weights are large enough not to say one thing only."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = str(tmp_path_factory.mktemp("even"))
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(tokenizer), initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_two_workers_give_the_same(even: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # by itself it wants a memory node for each
    two = {"model": even, "tensor_parallel_size": 2, "most_tokens": 96}
    plain, ours = answers(None, PROMPTS[:6], **two), answers(ADED, PROMPTS[:6], **two)
    assert ours["alone"] == plain["alone"]
    assert ours["together"] == plain["together"]
    assert ours["counts"]["vllm:spec_decode_num_draft_tokens"] > 0


def test_a_wrong_setting_stops_the_start_with_one_clear_line() -> None:
    run = run_engine(ADED, PROMPTS[:1], additional_config={"aded": {"memry_mb": 8}})
    assert run.returncode
    assert "additional_config['aded'] takes state, save_every_s" in run.stdout + run.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    openai = pytest.importorskip("openai")
    from benchmarks.serving import METHODS, server

    folder = tmp_path_factory.mktemp("served")
    state, log = folder / "learned.safetensors", folder / "log"
    METHODS["saving"] = ADED
    arguments = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--served-model-name", "m"]
    arguments += ["--shutdown-timeout", "20"]  # without it vLLM kills its workers
    arguments += ["--gpu-memory-utilization", "0.3"]
    arguments += ["--additional-config", json.dumps({"aded": {"state": str(state)}})]
    with server(MODEL, "saving", log, arguments) as port:
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none"), state
    assert state.is_file(), "what was learned is saved when the server ends"
    from aded.representative import Representative

    table = Representative(memory_mb=64, successors=8)
    table.load(state)
    assert table.used > 100


def ask(client: Any, prompt: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="m", messages=messages, temperature=0, max_tokens=48, **options)


def test_openais_client_streams_and_asks_at_once(served: tuple[Any, Path]) -> None:
    client, _ = served
    whole = [ask(client, prompt).choices[0].message.content for prompt in PROMPTS[:6]]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda prompt: ask(client, prompt).choices[0].message.content, PROMPTS[:6]))
    assert together == whole
    for prompt, text in zip(PROMPTS[:3], whole, strict=False):
        pieces = [part.choices[0].delta.content or "" for part in ask(client, prompt, stream=True) if part.choices]
        assert "".join(pieces) == text
        assert len(pieces) > 2
