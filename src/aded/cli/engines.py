"""Which engine a command runs on."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from aded.engines.base.loaded import LoadedModel
from aded.engines.base.options import bind_drafter, create_drafter
from aded.engines.base.runner import Runner
from aded.errors import AdedError

__all__ = ["ENGINES", "load_model", "open_runner"]

ENGINES = ("transformers", "llamacpp")
_DTYPE = "bfloat16"  # of transformers' models, unless another is asked for


def open_runner(
    engine: str,
    *,
    model: str | None,
    drafter: str,
    max_draft_tokens: Any,
    compile: bool,
    dtype: str | None,
    threads: int | None,
    state: Path | None,
    corpus: Path | None,
    report: Callable[[str], None],
) -> Runner:
    """The engine's runner, with its model loaded.

    Raises:
        AdedError: there is no such engine, it is not installed, or it does not take an option.
    """
    made = create_drafter(drafter, state=state, corpus=corpus)  # a wrong name is known before the work begins
    loaded = load_model(engine, model, dtype=dtype, threads=threads, compile=compile, report=report)
    bind_drafter(made, loaded.vocab_size, loaded.fingerprint, state)
    module = _module(engine, "runner")
    runner: Runner = module.EngineRunner(loaded, made, max_draft_tokens, compile)
    return runner


def load_model(
    engine: str,
    model: str | None,
    *,
    dtype: str | None,
    threads: int | None,
    report: Callable[[str], None],
    compile: bool = False,
) -> LoadedModel:
    """A model for benchmarks and traces.

    Raises:
        AdedError: there is no such engine or model, or it does not take an option.
    """
    if engine == "transformers":
        if threads is not None:
            _module(engine, "loading").torch.set_num_threads(threads)
        loaded: LoadedModel = _module(engine, "loading").load(model, dtype=dtype or _DTYPE, report=report)
        return loaded
    _refuse(engine, compile=compile, dtype=dtype)
    loaded = _module(engine, "loading").load(model, threads=threads)
    return loaded


def _refuse(engine: str, *, compile: bool, dtype: str | None) -> None:
    if engine in ENGINES and (compile or dtype is not None):
        raise AdedError(
            "llama.cpp compiles nothing and takes the data type of the file; leave out --compile and --dtype"
        )


def _module(engine: str, name: str) -> Any:
    if engine not in ENGINES:
        raise AdedError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    try:
        return import_module(f"aded.engines.{engine}.{name}")
    except ModuleNotFoundError as error:
        raise AdedError(f'the engine {engine} needs {error.name}: pip install "aded[{engine}]"') from error
