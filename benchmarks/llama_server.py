"""llama.cpp's own server with its n-gram drafts, and ours over llama-cpp-python, each against its own plain decoding.

`python -m benchmarks.llama_server --prompts question.jsonl --per-category 1` needs the package `xllamacpp`, which holds
that server. Both decode greedily, with as many threads, from the same tokens of a prompt, in turns.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import aded
from aded.cli.options import Model, plain_table, words_of
from aded.cli.progress import progress_bar
from aded.engines.base.loaded import embedded_file
from aded.engines.base.runner import Answer
from aded.errors import AdedError
from aded.traces.prompts import Prompt, read_prompts
from benchmarks.command import new_app, run

if TYPE_CHECKING:
    from aded.engines.llamacpp.loading import LoadedLlama

__all__ = ["Row", "app", "compare"]

app = new_app()

TYPES = "ngram-simple,ngram-map-k,ngram-mod,ngram-cache"  # of `llama-server --spec-type`
_STOCK, _SERVER = "llama-cpp-python", "llama-server"


@dataclass(frozen=True)
class Row:
    """One request, decoded in one way.

    Attributes:
        baseline: the way that it is compared with.
        seconds: in all, the prompt's included.
        decoding: of them after the prompt.
        tokens, drafted, accepted: emitted, and of drafts.
    """

    prompt: str
    category: str
    way: str
    baseline: str
    seconds: float
    decoding: float
    tokens: int
    drafted: int
    accepted: int


Found = tuple[float, float, int, int, int]  # the last five fields of a Row
Way = Callable[[list[int]], Found]


def _server(file: str, kind: str, threads: int, context: int, static: Path | None = None) -> Any:
    """llama.cpp's server in this process, with drafts of a kind; `static` is a file of n-grams for its cache."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    name = "COMMON_SPECULATIVE_TYPE_" + kind.upper().replace("-", "_")
    if not hasattr(xllamacpp.common_speculative_type, name):
        raise AdedError(f"llama-server drafts in no way {kind!r}; choose none or some of {TYPES}")
    if static is not None:
        parameters.speculative.ngram_cache.lookup_cache_static = str(static)
    parameters.speculative.types = [getattr(xllamacpp.common_speculative_type, name)]
    return xllamacpp.Server(parameters)


def _ask(server: Any, ids: list[int], *, tokens: int) -> Found:
    asked = {"prompt": ids, "n_predict": tokens, "temperature": 0.0, "cache_prompt": False}
    began = time.perf_counter()
    answer = server.handle_completions(asked)
    seconds = time.perf_counter() - began
    answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
    timings = answer["timings"]
    counts = timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)
    return seconds, timings["predicted_ms"] / 1000, int(timings["predicted_n"]), *counts


def _found(answer: Answer) -> Found:
    stats = answer.stats
    return answer.seconds, answer.seconds - answer.first_s, answer.tokens, stats.drafted, stats.accepted


def compare(
    loaded: LoadedLlama,
    file: str,
    prompts: Sequence[Prompt],
    kinds: Sequence[str],
    *,
    threads: int,
    tokens: int,
    static: Path | None = None,
) -> list[list[Row]]:
    """The rows of each prompt; a prompt is answered in every way before the next.

    Args:
        kinds: of llama-server's drafts.
        tokens: of an answer at most.
        static: n-grams of `aded corpus export`, for one more way: its n-gram cache with them.
    """
    from aded.engines.llamacpp.runner import EngineRunner

    context, runner = int(loaded.llama.n_ctx()), EngineRunner(loaded, aded.create_drafter("adaptive"), "auto")
    settings: dict[str, Any] = {"max_new_tokens": tokens, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    ways: dict[str, tuple[str, Way]] = {
        _STOCK: (_STOCK, lambda ids: _found(runner.plain(ids, **settings))),
        "adaptive": (_STOCK, lambda ids: _found(runner.answer(ids, **settings))),
    }
    for kind in ("none", *kinds):
        name = _SERVER if kind == "none" else kind
        ways[name] = (_SERVER, partial(_ask, _server(file, kind, threads, context), tokens=tokens))
    if static is not None:
        named = _server(file, "ngram-cache", threads, context, static)
        ways["ngram-cache, static"] = (_SERVER, partial(_ask, named, tokens=tokens))
    for _, decode in ways.values():  # memory is fetched, and costs are measured
        decode(loaded.prompt_ids([{"role": "user", "content": "Count from one to ten."}])[:64])
    rows: list[list[Row]] = []
    with progress_bar("prompts", lines=True) as progress:
        for done, prompt in enumerate(prompts, 1):
            ids = loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}])
            rows.append(
                [
                    Row(prompt.name, prompt.category, name, baseline, *decode(ids))
                    for name, (baseline, decode) in ways.items()
                ]
            )
            progress(done, len(prompts))
    return rows


@app.command()
def main(
    prompts: Annotated[Path, typer.Option(help="JSON lines or text lines; the first turn of each is answered.")],
    model: Model = None,
    threads: Annotated[int, typer.Option(min=1, help="For one token and for many, of all.")] = 2,
    context: Annotated[int, typer.Option(min=64, help="Tokens there is room for.")] = 4096,
    types: Annotated[str, typer.Option(help="Of llama-server's drafts, comma-separated.")] = TYPES,
    static: Annotated[Path | None, typer.Option(help="N-grams of `aded corpus export`, for one way more.")] = None,
    per_category: Annotated[int | None, typer.Option(min=1, help="Prompts of each category.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts in all.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print every request as JSON and nothing else.")] = False,
) -> None:
    """Compare llama.cpp's own drafts with ours."""
    from aded.engines.llamacpp.loading import load

    asked = read_prompts(prompts, limit=limit, per_category=per_category)
    file = str(embedded_file() if model is None else model)
    loaded = load(model, threads=threads, context=context)
    rows = compare(
        loaded, file, asked, words_of(types, "--types"), threads=threads, tokens=max_new_tokens, static=static
    )
    if as_json:
        print(json.dumps([asdict(row) for prompt in rows for row in prompt]))
        return
    table = plain_table()
    for name in (
        "decoding",
        "tokens\n/s",
        "speedup\n(quartiles)",
        "after the\nfirst",
        "least of\na category",
        "accepted\ndrafts",
    ):
        table.add_column(name, no_wrap=True)
    for way in (row.way for row in rows[0]):
        table.add_row(*_shown(way, rows))
    Console(highlight=False, width=100).print(table)


def _shown(way: str, rows: Sequence[Sequence[Row]]) -> list[str]:
    pairs = []
    for prompt in rows:
        named = {row.way: row for row in prompt}
        pairs.append((named[way], named[named[way].baseline]))
    own = [row for row, _ in pairs]
    per_token = [(plain.seconds / plain.tokens) / (row.seconds / row.tokens) for row, plain in pairs]
    after = [(plain.decoding / plain.tokens) / (row.decoding / row.tokens) for row, plain in pairs]
    categories: dict[str, list[float]] = {}
    for (row, _), ratio in zip(pairs, per_token, strict=True):
        categories.setdefault(row.category, []).append(ratio)
    quartiles = statistics.quantiles(per_token, n=4) if len(per_token) > 1 else [per_token[0]] * 3
    least = min((statistics.median(ratios), name) for name, ratios in categories.items())
    return [
        way,
        f"{sum(row.tokens for row in own) / sum(row.seconds for row in own):.1f}",
        f"{quartiles[1]:.2f}x ({quartiles[0]:.2f}-{quartiles[2]:.2f})",
        f"{statistics.median(after):.2f}x",
        f"{least[0]:.2f}x ({least[1]})",
        f"{sum(row.accepted for row in own)} of {sum(row.drafted for row in own)}",
    ]


if __name__ == "__main__":
    run(app)
