"""What several commands share: options, how what they give is read, the model they ask for, and the look of a table."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from aded import drafters
from aded.engines.base.drafter_files import bind_drafter, create_drafter
from aded.engines.base.loaded import LoadedModel
from aded.engines.base.runner import Runner
from aded.errors import AdedError

ENGINES = ("transformers", "llamacpp")
_DTYPE = "bfloat16"  # of transformers' models, unless another is asked for

# Far more than is ever useful, and no more than every library below us takes.
_MOST_TOKENS = 10**9
_MOST_NODES = 1 << 16
_MOST_SEED = 2**32 - 1
MOST_MB = 1e7  # MiB
_WIDE = 250  # columns, of a table that is read from a file


def finite(value: float | None) -> float | None:
    """What a number has to be; click takes nan and inf for numbers in any range."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number to use.")
    return value


def _temperature(value: float) -> float:
    if 0 < value < 1e-5 or value > 1e5:
        raise typer.BadParameter(f"{value} is neither 0 nor between 0.00001 and 100000.")
    return float(finite(value) or 0.0)


def _among(*words: str) -> Any:
    """What the shell completes an option's value from."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


Engine = Annotated[str, typer.Option(help="transformers, or llamacpp for GGUF files.", autocompletion=_among(*ENGINES))]
Model = Annotated[str | None, typer.Option(help="Hub id, folder or GGUF file. Default: the embedded SmolLM2-135M.")]
DrafterName = Annotated[
    str,
    typer.Option(
        "--drafter", help="Who drafts: adaptive, paper, prompt-lookup, ...", autocompletion=_among(*drafters.names())
    ),
]
MaxDraftTokens = Annotated[str, typer.Option(help="Most draft tokens verified a step, or auto: as many as pay here.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile our steps: slow at first, faster from then on.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, max=_MOST_TOKENS, help="Most tokens to generate.")]
Temperature = Annotated[float, typer.Option(min=0.0, callback=_temperature, help="0 decodes greedily; above, samples.")]
TopP = Annotated[
    float, typer.Option(min=0.0, max=1.0, callback=finite, help="Sample from the likeliest tokens of this total.")
]
Seed = Annotated[int, typer.Option(min=0, max=_MOST_SEED, help="Seed of sampling.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="transformers: float32, bfloat16 (default) or float16.",
        autocompletion=_among("bfloat16", "float16", "float32"),
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads. Default: the engine's.")]
Device = Annotated[
    str,
    typer.Option(
        help="auto (a GPU where there is one), cpu, or a device by name, as cuda:1; llamacpp: gpu.",
        autocompletion=_among("auto", "cpu", "cuda", "gpu"),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what was asked for.")]
State = Annotated[Path | None, typer.Option(help="Keep what is learned in this file between runs.")]
Share = Annotated[
    str | None,
    typer.Option(
        help="What other turns and --state get: answers (default), nothing, or all, prompts too.",
        autocompletion=_among("answers", "nothing", "all"),
    ),
]
CorpusFile = Annotated[Path | None, typer.Option("--corpus", help="A corpus to draft from besides what is learned.")]
ShowDrafts = Annotated[bool, typer.Option("--show-drafts", help="Colour the tokens that came from drafts.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")]
PerCategory = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts of each category.")]
Skip = Annotated[int, typer.Option(min=0, help="Leave out the first so many prompts of each category.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Commands(TyperGroup):
    """A group of commands that still knows options by their old names."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        for i, word in enumerate(given):
            if word.split("=")[0] == "--nodes":
                print("aded: --nodes is called --max-draft-tokens now, and will go", file=sys.stderr)
                given[i] = word.replace("--nodes", "--max-draft-tokens", 1)
        return super().main(given, *others, **more)


def plain_table() -> Table:
    """The look of the commands' tables."""
    return Table(box=SIMPLE, show_edge=False, padding=(0, 1))


def table_console() -> Console:
    """Where tables are printed: as wide as they need where no terminal is, in a file or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console


def show_facts(facts: Mapping[str, Any], as_json: bool, *, width: int) -> None:
    """Print facts, a line each with its name in so many columns, or all as JSON."""
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        shown = f"{value:.3f}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' '):<{width}} {shown}")


def most_of(text: str) -> Any:
    """ "auto" or a number of draft tokens."""
    if text == "auto":
        return "auto"
    if _is_number(text):
        return int(text)
    raise AdedError(f'--max-draft-tokens takes a whole number up to {_MOST_NODES} or "auto", not {text!r}')


def text_of(given: str, what: str) -> str:
    """A text that was given, as it can be tokenised.

    Raises:
        AdedError: it is empty, or not UTF-8.
    """
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise AdedError(f"{what} is not valid UTF-8; convert it") from error
    if not given.strip():
        raise AdedError(f"{what} is empty; give a text")
    return given


def read_stdin() -> str:
    """All of standard input.

    Raises:
        AdedError: it is not UTF-8, or there is none.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AdedError(f"standard input is not valid UTF-8 ({error}); convert it") from error
    except AttributeError as error:
        raise AdedError("there is no standard input to read the prompt from; give the prompt itself") from error


def _is_number(text: str) -> bool:
    # Other digits than these are digits to Python, too.
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= _MOST_NODES


def words_of(text: str, option: str) -> list[str]:
    """The parts of a comma-separated list."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise AdedError(f"{option} takes a comma-separated list, not {text!r}")
    return words


def numbers_of(text: str, option: str) -> list[int]:
    """The whole numbers of a comma-separated list."""
    words = words_of(text, option)
    if not all(map(_is_number, words)):
        raise AdedError(f"{option} takes whole numbers up to {_MOST_NODES} separated by commas, not {text!r}")
    return [int(word) for word in words]


def open_runner(
    engine: str,
    model: str | None,
    drafter: str,
    max_draft_tokens: str,
    compile: bool,
    dtype: str | None,
    threads: int | None,
    device: str,
    state: Path | None,
    corpus: Path | None,
    share: str | None,
    notes: Console,
) -> Runner:
    """The engine's runner, with its model loaded; the arguments are the options as they were typed.

    Raises:
        AdedError: there is no such engine, it is not installed, or it does not take an option.
    """
    most = most_of(max_draft_tokens)
    # What is wrong with these is known before the work begins.
    made = create_drafter(drafter, state=state, corpus=corpus, share=share)
    chosen: dict[str, Any] = {"dtype": dtype, "threads": threads, "device": device, "compile": compile}
    loaded = load_model(engine, model, **chosen, notes=notes)
    bind_drafter(made, loaded.vocab_size, loaded.fingerprint, state)
    runner: Runner = engine_module(engine, "runner").EngineRunner(loaded, made, most, compile)
    return runner


def load_model(
    engine: str,
    model: str | None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    compile: bool = False,
    notes: Console,
) -> LoadedModel:
    """A model for benchmarks and traces; slow work is announced on `notes`.

    Raises:
        AdedError: there is no such engine or model, or it does not take an option.
    """
    if engine == "llamacpp" and (compile or dtype is not None):
        raise AdedError(
            "llama.cpp compiles nothing and takes the data type of the file; leave out --compile and --dtype"
        )
    loading = engine_module(engine, "loading")
    options: dict[str, Any] = {"threads": threads}
    if engine == "transformers":
        if threads is not None:
            loading.torch.set_num_threads(threads)
        options = {"dtype": dtype or _DTYPE}
    report = lambda text: notes.print(f"[dim]{text}[/dim]")  # noqa: E731
    loaded: LoadedModel = loading.load(model, device=device, report=report, **options)
    return loaded


def engine_module(engine: str, name: str) -> Any:
    if engine not in ENGINES:
        raise AdedError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    try:
        return import_module(f"aded.engines.{engine}.{name}")
    except ModuleNotFoundError as error:
        raise AdedError(f'the engine {engine} needs {error.name}: pip install "aded[{engine}]"') from error
