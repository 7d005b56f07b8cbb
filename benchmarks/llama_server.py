"""llama.cpp's own server with its n-gram drafts, and ours over llama-cpp-python, each against its own plain decoding.

`python -m benchmarks.llama_server --prompts question.jsonl --per-category 2 --repeats 3 --record rows.jsonl` needs the
package `xllamacpp`, which holds that server. All decode greedily, with as many threads, from the same tokens of a
prompt, in turns. Results are written down as they come, and a later run goes on from there.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import aded
from aded.cli.options import Model, plain_table, table_console, words_of
from aded.cli.progress import progress_bar
from aded.engines.base.loaded import embedded_file
from aded.engines.base.runner import Answer
from aded.errors import AdedError
from aded.files import digest
from aded.traces.prompts import Prompt, read_prompts
from benchmarks.command import new_app, run
from benchmarks.edits import edits
from benchmarks.record import Record

if TYPE_CHECKING:
    from aded.engines.llamacpp.loading import LoadedLlama

__all__ = ["Row", "Ways", "app", "compare"]

app = new_app()

TYPES = "ngram-simple,ngram-map-k,ngram-mod,ngram-cache"  # of `llama-server --spec-type`
LOOKUP = "prompt lookup, 2"  # llama-cpp-python's own, with as many tokens as it advises on a processor
_STOCK, _SERVER, _STATIC = "llama-cpp-python", "llama-server", "ngram-cache, static"


@dataclass(frozen=True)
class Row:
    """One request, decoded in one way.

    Attributes:
        repeat: which time, from 1.
        baseline: the way that it is compared with.
        seconds: in all, the prompt's included.
        decoding: of them after the prompt.
        tokens, drafted, accepted: emitted, and of drafts.
    """

    repeat: int
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
Decode = Callable[[list[int]], Found]


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


class Ways:
    """All ways to decode, each with the one that it is compared with.

    Args:
        kinds: of llama-server's drafts; without any, that server is left out.
        tokens: of an answer at most.
        static: n-grams of `aded corpus export`, for one more way: its n-gram cache with them.
        lookup: whether llama-cpp-python's own prompt lookup is one.

    Attributes:
        decode: by name of the way.
        baseline: by name of the way, that of plain decoding.
    """

    def __init__(
        self,
        loaded: LoadedLlama,
        file: str,
        kinds: Sequence[str],
        *,
        threads: int,
        tokens: int,
        static: Path | None = None,
        lookup: bool = False,
    ) -> None:
        self._loaded = loaded
        self._settings: dict[str, Any] = {"max_new_tokens": tokens, "temperature": 0.0, "top_p": 1.0, "seed": 0}
        self.decode: dict[str, Decode] = {}
        self.baseline: dict[str, str] = {}
        self.begin()
        self._add(_STOCK, _STOCK, lambda ids: _found(self._runner.plain(ids, **self._settings)))
        self._add("adaptive", _STOCK, lambda ids: _found(self._runner.answer(ids, **self._settings)))
        if lookup:
            from aded.bench.contenders.llamacpp import EngineContender

            stock = EngineContender("llama-prompt-lookup-2", loaded, "auto").runner()
            self._add(LOOKUP, _STOCK, lambda ids: _found(stock.plain(ids, **self._settings)))
        context = int(loaded.llama.n_ctx())
        for kind in ("none", *kinds) if kinds else ():
            ask = partial(_ask, _server(file, kind, threads, context), tokens=tokens)
            self._add(_SERVER if kind == "none" else kind, _SERVER, ask)
        if static is not None:
            named = _server(file, "ngram-cache", threads, context, static)
            self._add(_STATIC, _SERVER, partial(_ask, named, tokens=tokens))
        for decode in self.decode.values():  # memory is fetched, and costs are measured
            decode(loaded.prompt_ids([{"role": "user", "content": "Count from one to ten."}])[:64])
        self.begin()

    def begin(self) -> None:
        """Forget what was learned: ours goes on learning from request to request."""
        from aded.engines.llamacpp.runner import EngineRunner

        self._runner = EngineRunner(self._loaded, aded.create_drafter("adaptive"), "auto")

    def _add(self, name: str, baseline: str, decode: Decode) -> None:
        self.decode[name], self.baseline[name] = decode, baseline


def compare(
    loaded: LoadedLlama, ways: Ways, prompts: Sequence[Prompt], record: Record[Row], *, repeats: int = 1
) -> Iterator[None]:
    """Answer prompts in every way, into `record`; yields after each. What `record` has is not answered again.

    A prompt is answered in every way before the next, each time beginning with another. Each repeat begins with nothing
    learned.
    """
    known = {(row.repeat, row.prompt, row.way) for row in record.rows}
    for repeat in range(1, repeats + 1):
        ways.begin()
        for number, prompt in enumerate(prompts):
            ids, names = loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}]), list(ways.decode)
            first = (number + repeat - 1) % len(names)
            for way in names[first:] + names[:first]:
                if (repeat, prompt.name, way) not in known:
                    found = ways.decode[way](ids)
                    record.add(Row(repeat, prompt.name, prompt.category, way, ways.baseline[way], *found))
            yield


@app.command()
def main(
    prompts: Annotated[
        Path | None, typer.Option(help="JSON lines or text lines; the first turn of each is answered.")
    ] = None,
    edit: Annotated[int, typer.Option("--edits", min=0, help="Requests to edit a file besides.")] = 0,
    model: Model = None,
    threads: Annotated[int, typer.Option(min=1, help="For one token and for many, of all.")] = 2,
    context: Annotated[int, typer.Option(min=64, help="Tokens there is room for.")] = 4096,
    types: Annotated[str, typer.Option(help="Of llama-server's drafts, comma-separated; or none.")] = TYPES,
    lookup: Annotated[bool, typer.Option("--lookup", help="Prompt lookup of llama-cpp-python as well.")] = False,
    static: Annotated[Path | None, typer.Option(help="N-grams of `aded corpus export`, for one way more.")] = None,
    per_category: Annotated[int | None, typer.Option(min=1, help="Prompts of each category.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts in all.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 128,
    least: Annotated[int, typer.Option(min=0, help="Tokens of an answer that is counted, at least.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Answer all so often; medians count.")] = 1,
    record: Annotated[Path | None, typer.Option(help="Write results to this file, and go on from those in it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every request as JSON and nothing else.")] = False,
) -> None:
    """Compare llama.cpp's own drafts with ours."""
    from aded.engines.llamacpp.loading import load

    asked = [] if prompts is None else read_prompts(prompts, limit=limit, per_category=per_category)
    asked += [Prompt(f"edit {number}", "edit", (one.asked,)) for number, one in enumerate(edits(edit))]
    if not asked:
        raise AdedError("there is nothing to ask; give --prompts FILE or --edits N")
    file = str(embedded_file() if model is None else model)
    kinds = [] if types == "none" else words_of(types, "--types")
    loaded = load(model, threads=threads, context=context)
    ways = Ways(loaded, file, kinds, threads=threads, tokens=max_new_tokens, static=static, lookup=lookup)
    settings = {"model": Path(file).name, "threads": threads, "context": context, "tokens": max_new_tokens}
    settings |= {"prompts": digest("\n".join(prompt.turns[0] for prompt in asked).encode())}
    kept = Record(Row, record, settings)
    with progress_bar("requests", lines=True) as progress:
        answered = compare(loaded, ways, asked, kept, repeats=repeats)
        for done, _ in enumerate(answered, 1):
            progress(done, len(asked) * repeats)
    rows = [row for row in kept.rows if row.tokens >= least]
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
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
    for way in ways.decode:
        table.add_row(*_shown(way, rows))
    console = table_console()
    console.print(table)
    if len({row.category for row in rows}) > 1:
        console.print(_by_category(list(ways.decode), rows))


def _pairs(way: str, rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Of each request's each repeat, what the way took and what plain decoding did."""
    named = {(row.repeat, row.prompt, row.way): row for row in rows}
    own = [(row, named.get((row.repeat, row.prompt, row.baseline))) for row in named.values() if row.way == way]
    return [(row, plain) for row, plain in own if plain is not None]


def _ratios(way: str, rows: Iterable[Row], *, whole: bool = True) -> dict[str, list[float]]:
    """By category the speedups of its requests, each the median of its repeats; of `whole` answers, or after the
    first token."""
    found: dict[tuple[str, str], list[float]] = {}
    for row, plain in _pairs(way, rows):
        a, b = (plain.seconds, row.seconds) if whole else (plain.decoding, row.decoding)
        found.setdefault((row.category, row.prompt), []).append((a / plain.tokens) / (b / row.tokens))
    ratios: dict[str, list[float]] = {}
    for (category, _), speedups in found.items():
        ratios.setdefault(category, []).append(statistics.median(speedups))
    return ratios


def _shown(way: str, rows: Sequence[Row]) -> list[str]:
    own = [row for row, _ in _pairs(way, rows)]
    categories, after = _ratios(way, rows), _ratios(way, rows, whole=False)
    speedups = [ratio for ratios in categories.values() for ratio in ratios]
    quartiles = statistics.quantiles(speedups, n=4) if len(speedups) > 1 else speedups * 3
    least = min((statistics.median(ratios), name) for name, ratios in categories.items())
    return [
        way,
        f"{sum(row.tokens for row in own) / sum(row.seconds for row in own):.1f}",
        f"{quartiles[1]:.2f}x ({quartiles[0]:.2f}-{quartiles[2]:.2f})",
        f"{statistics.median(ratio for ratios in after.values() for ratio in ratios):.2f}x",
        f"{least[0]:.2f}x ({least[1]})",
        f"{sum(row.accepted for row in own)} of {sum(row.drafted for row in own)}",
    ]


def _by_category(ways: Sequence[str], rows: Sequence[Row]) -> Any:
    """Speedups of each category, and after the first token."""
    table = plain_table()
    table.add_column("speedup (after the first token)", no_wrap=True)
    found = {way: (_ratios(way, rows), _ratios(way, rows, whole=False)) for way in ways}
    compared = [way for way in ways if way not in (_STOCK, _SERVER)]
    for way in compared:
        table.add_column(way.replace(", ", ",\n"), no_wrap=True, justify="right")
    for category in dict.fromkeys(row.category for row in rows):
        cells = []
        for way in compared:
            whole, after = (ratios.get(category, []) for ratios in found[way])
            cells.append(f"{statistics.median(whole):.2f}x ({statistics.median(after):.2f}x)" if whole else "")
        table.add_row(category, *cells)
    return table


if __name__ == "__main__":
    run(app)
