"""Tiny models of both engines, their servers, and what they say plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve brings it")
pytest.importorskip("gguf", reason="the extra cli brings it")

from support.gguf_files import write_tiny_gguf
from support.servers import served

TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools, please') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
)


@pytest.fixture(scope="session", params=["transformers", "llamacpp"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A loaded model, and its completer."""
    if request.param == "llamacpp":
        pytest.importorskip("llama_cpp", reason="make llamacpp-build builds it")
    folder: Path = tmp_path_factory.mktemp("served")
    write_tiny_gguf(folder / "tiny.gguf", template=TEMPLATE, layers=2)
    options: dict[str, Any] = {"dtype": "float32"} if request.param == "transformers" else {"threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADED_CACHE", str(folder / "cache"))
        loaded = import_module(f"aded.engines.{request.param}.loading").load(str(folder / "tiny.gguf"), **options)
    completer = import_module(f"aded.engines.{request.param}.completion").EngineCompleter(loaded)
    return loaded, completer


@pytest.fixture(scope="session")
def address(tiny: tuple[Any, Any]) -> Iterator[str]:
    """Where the tiny model is served."""
    with served(*tiny) as where:
        yield where


@pytest.fixture(scope="session")
def plain(tiny: tuple[Any, Any]) -> Callable[..., list[int]]:
    """What the engine without us answers: (prompt ids, tokens, temperature, seed) -> ids."""
    from aded.engines.base.completion import Sampling, Steps

    _, completer = tiny

    def answered(prompt: list[int], count: int, temperature: float = 0.0, seed: int = 0) -> list[int]:
        said: list[int] = []
        steps = Steps(lambda emitted, outcome: said.extend(emitted))
        sampling = Sampling(count, temperature, seed=seed)
        completer.complete(prompt, sampling, drafter=None, max_draft_tokens=0, steps=steps)
        return said

    return answered
