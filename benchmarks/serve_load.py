"""Clients that ask a server all at once, each answer compared with the engine's own without us.

`python -m benchmarks.serve_load --clients 50 --seconds 60` serves the embedded model and asks it. It exits
with 1 if an answer is lost, failed or another than plain decoding's.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Annotated, Any

import openai
import typer
import uvicorn

import aded
from aded.cli.options import DrafterName, Engine, Model
from aded.engines.base.completion import Sampling, Steps
from aded.serve.app import create_app
from aded.serve.drafting import Drafters
from aded.serve.service import Limits, Service
from benchmarks.command import new_app, run

__all__ = ["Kind", "Load", "app", "drive"]

app = new_app()

_ASKED = (
    "Count from one to ten in words.",
    "Name three rivers.",
    "Write a Python function that adds two numbers.",
    "Repeat three times: apple, banana, cherry.",
    "Say hello in French.",
)


@dataclass(frozen=True)
class Kind:
    """A request, and the text that plain decoding gives."""

    prompt: str
    answer: str
    tokens: int
    temperature: float
    seed: int


@dataclass
class Load:
    """What came of all requests.

    Attributes:
        right, wrong, failed: answers that were plain decoding's, were not, or were none.
        seconds: each answer took.
    """

    right: int = 0
    wrong: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)


def drive(address: str, model: str, kinds: Sequence[Kind], *, clients: int, seconds: float) -> Load:
    """Let clients ask one after the other for some time; every other request is streamed."""
    return asyncio.run(_drive(address, model, kinds, clients, seconds))


async def _drive(address: str, model: str, kinds: Sequence[Kind], clients: int, seconds: float) -> Load:
    found, end = Load(), time.perf_counter() + seconds
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def one(number: int) -> None:
            while time.perf_counter() < end:
                kind, stream = kinds[number % len(kinds)], bool(number % 2)
                number += 1
                began = time.perf_counter()
                try:
                    text = await _text(client, model, kind, stream)
                except openai.OpenAIError:
                    found.failed += 1
                    continue
                found.seconds.append(time.perf_counter() - began)
                found.right += text == kind.answer
                found.wrong += text != kind.answer

        await asyncio.gather(*map(one, range(clients)))
    return found


async def _text(client: openai.AsyncOpenAI, model: str, kind: Kind, stream: bool) -> str:
    asked: dict[str, Any] = {"model": model, "prompt": kind.prompt, "max_tokens": kind.tokens, "seed": kind.seed}
    reply: Any = await client.completions.create(**asked, temperature=kind.temperature, stream=stream)
    if not stream:
        return str(reply.choices[0].text)
    return "".join([part.choices[0].text async for part in reply])


@app.command()
def main(
    clients: Annotated[int, typer.Option(min=1)] = 50,
    seconds: Annotated[float, typer.Option(min=0.1)] = 60.0,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 16,
    parallel: Annotated[int, typer.Option(min=1)] = 4,
    engine: Engine = "transformers",
    model: Model = None,
    drafter: DrafterName = "adaptive",
) -> None:
    """Ask a server over a model from many clients at once; prints JSON."""
    loaded: Any = import_module(f"aded.engines.{engine}.loading").load(model)
    completer = import_module(f"aded.engines.{engine}.completion").EngineCompleter(loaded)
    kinds = []
    for number, text in enumerate(_ASKED):
        said: list[int] = []
        sampling = Sampling(tokens, 0.8 * (number % 2), seed=number)
        steps = Steps(lambda emitted, outcome: said.extend(emitted))  # noqa: B023
        completer.complete(loaded.text_tokens(text), sampling, drafter=None, max_draft_tokens=0, steps=steps)
        answer = loaded.decode([token for token in said if token not in loaded.ends])
        kinds.append(Kind(text, answer, tokens, sampling.temperature, number))
    made = aded.create_drafter(drafter)
    drafters, limits = Drafters(drafter, made, None, None, 1e9), Limits(parallel, most_waiting=10 * clients)
    service = Service(loaded, completer, drafters, "auto", limits)
    service.warm_up()
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="error"))
    bound = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    found = drive(address, loaded.name, kinds, clients=clients, seconds=seconds)
    server.should_exit = True
    thread.join()
    figures = asdict(found)
    figures["answers_a_second"] = len(found.seconds) / seconds
    figures["median_s"] = statistics.median(figures.pop("seconds") or [0.0])
    print(json.dumps(figures | {"clients": clients, "asked_for_s": seconds}))
    if found.wrong or found.failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
