"""llama-cpp-python's server driven by OpenAI's client, accelerated and as it is."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

for _name in ("llama_cpp", "sse_starlette", "openai"):
    pytest.importorskip(_name, reason="the extra `clients` installs it")

import openai  # noqa: E402

from support.gguf_models import llama_file, quantized  # noqa: E402

ASKED = [{"role": "user", "content": "one two three one two three one two"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 99}, "yes": {"type": "boolean"}},
            "required": ["a", "yes"],
        },
    },
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return quantized(llama_file(tmp_path_factory.mktemp("models") / "llama.gguf"))


@contextmanager
def served(module: str, file: str, log: Path) -> Iterator[openai.OpenAI]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "--model", file, "--port", str(port), "--n_ctx", "512", "--n_threads", "1"]
    command += ["--flash_attn", "true", "--logits_all", "true"]
    if module.startswith("aded"):
        command += ["--aded-max-draft-tokens", "6"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    try:
        for _ in range(600):
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def plainly(answer: Any) -> Any:
    """What does not differ from call to call."""
    found = answer.model_dump()
    for choice in found["choices"]:
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            del call["id"]
    return [found["choices"], found["usage"]]


def all_answers(client: openai.OpenAI) -> dict[str, Any]:
    found: dict[str, Any] = {}
    common: dict[str, Any] = {"model": "any", "messages": ASKED, "max_tokens": 40, "temperature": 0.0}

    def chat(name: str, **more: Any) -> None:
        asked = {**common, **more}
        found[name] = plainly(client.chat.completions.create(**{k: v for k, v in asked.items() if v is not None}))

    def streamed(name: str, **more: Any) -> None:
        with client.chat.completions.create(**common | more, stream=True) as chunks:
            found[name] = [chunk.choices[0].delta.content for chunk in chunks]

    chat("chat")
    streamed("stream")
    chat("tool", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "add"}})
    schema = {**TOOL["function"]["parameters"]}  # type: ignore[index]
    chat("schema", response_format={"type": "json_object", "schema": schema})
    chat("logprobs", logprobs=True, top_logprobs=3)
    chat("stop", stop=[found["chat"][0][0]["message"]["content"][9:12]])
    chat("without a limit", max_tokens=None)
    for seed in range(3):
        chat(f"sample {seed}", temperature=1.0, seed=seed, top_p=1.0)
    with client.chat.completions.create(**common, stream=True) as dropped:
        for _, _ in zip(range(3), dropped, strict=False):
            pass
    chat("after a dropped stream")
    chat("biased", extra_body={"logit_bias": {"500": 5}})
    found["completion"] = plainly(
        client.completions.create(model="any", prompt="one two three one", max_tokens=30, temperature=0.0, echo=True)
    )
    with ThreadPoolExecutor(6) as pool:
        prompts = ["one two", "three four five", "six", "seven eight nine ten", "one two", "ten nine eight"]
        ask = lambda text: client.completions.create(model="any", prompt=text, max_tokens=20, temperature=0.0)  # noqa: E731
        found["at once"] = [plainly(answer) for answer in pool.map(ask, prompts)]
    return found


def test_every_answer_is_the_servers_own(file: str, tmp_path: Path) -> None:
    with served("llama_cpp.server", file, tmp_path / "stock.log") as client:
        stock = all_answers(client)
    with served("aded.llamacpp.server", file, tmp_path / "ours.log") as client:
        ours = all_answers(client)
    for name, answer in stock.items():
        assert ours[name] == answer, name  # log probabilities too: in such a file chains change no bit
    assert stock["without a limit"][1]["total_tokens"] == 512
    said = re.search(r"ADED: [\d,]+ tokens in [\d,]+ passes, ([\d,]+) of ([\d,]+)", (tmp_path / "ours.log").read_text())
    assert said is not None, (tmp_path / "ours.log").read_text()[-2000:]
    accepted, drafted = (int(number.replace(",", "")) for number in said.groups())
    assert 0 < accepted < drafted
