"""`aded corpus`: make, join, inspect and export what drafters know beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from aded.cli import options
from aded.cli.progress import progress_bar
from aded.errors import CorpusFileError
from aded.files import check_writable, locked, whole
from aded.representative import Corpus, Representative
from aded.representative.storage import CORPUS

app = typer.Typer(no_args_is_help=True, help="Make, join and inspect what drafters know beforehand.")

# What comes anywhere (length 0) is better learned live; eight tokens of context rarely come again in other text.
_ORDERS = (1, 2, 3, 5)

Out = Annotated[Path, typer.Option(help="File to write.")]
Memory = Annotated[
    float, typer.Option(min=1, max=options.MOST_MB, callback=options.finite, help="MiB of the table, and of the file.")
]


@app.command()
def build(
    context: typer.Context,
    out: Out,
    text: Annotated[list[Path] | None, typer.Option(help="A text file or a folder of them; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts whose answers, by the model, are learned.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A hub data set or a folder of one, by `datasets`.")] = None,
    field: Annotated[str, typer.Option(help="The data set's column of text.")] = "text",
    vocabulary: Annotated[
        bool, typer.Option("--vocabulary", help="Also ask the model what follows each token of its vocabulary.")
    ] = False,
    model: options.Model = None,
    memory_mb: Memory = 256.0,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that tokenise.")] = 2,
    limit: options.Limit = None,
    per_category: options.PerCategory = None,
    skip: options.Skip = 0,
    max_new_tokens: options.NewTokens = 256,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Prompts decoded together.")] = 16,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Learn texts, the model's own answers, or both. Stopped, it goes on next time."""
    from aded.corpus.model import learn_trace, learn_vocabulary
    from aded.corpus.text import blocks_of_files, blocks_of_texts, learn_blocks, text_files

    if not (text or prompts or dataset or vocabulary) or (text and dataset):
        raise CorpusFileError("give --text, --prompts, --vocabulary or several; --dataset takes the place of --text")
    files = text_files(text) if text else []
    CORPUS.check_writable(out)
    notes = Console(stderr=True, highlight=False, quiet=quiet)
    loaded: Any = options.load_model("transformers", model, device=device, notes=notes)
    context.with_resource(locked(out, "building"))
    sources = {"text": [str(file) for file in files], "dataset": dataset, "memory_mb": memory_mb}
    identity = {"vocab_size": loaded.vocab_size, "fingerprint": loaded.fingerprint}
    table = Representative(memory_mb=memory_mb, orders=_ORDERS, forgetting=0.0, **identity)
    partial, done = out.with_name(out.name + ".partial"), 0
    if partial.is_file():
        begun = Corpus.open(partial)
        theirs = {"sources": begun.about.get("sources"), **begun.identity(), "blocks": begun.about.get("blocks")}
        if theirs["sources"] != sources:
            raise CorpusFileError(f"{partial} holds an unfinished corpus of other texts; finish that, or delete it")
        if {name: theirs[name] for name in identity} != identity or not whole(theirs["blocks"], 0, 2**62):
            raise CorpusFileError(f"{partial} holds an unfinished corpus of another model; finish that, or delete it")
        table, done = begun.thaw(), theirs["blocks"]
        notes.print(f"[dim]going on after {done} blocks[/dim]")
    made: dict[str, Any] = {"model": loaded.name, "sources": sources}
    if files or dataset:
        blocks = blocks_of_texts(_rows(dataset, field)) if dataset else blocks_of_files(files)
        started = time.perf_counter()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=notes, transient=True) as spinner:
            task = spinner.add_task("learning texts")

            def tell(size: int, tokens: int) -> None:
                spinner.update(task, description=f"{size / 1e6:.0f} MB, {tokens / 1e6:.1f} million tokens")

            resume: dict[str, Any] = {"partial": partial, "about": made, "done": done}
            size, tokens = learn_blocks(table, blocks, loaded.tokenizer, processes=processes, progress=tell, **resume)
        seconds = time.perf_counter() - started
        made |= {"text_mb": round(size / 1e6, 3), "text_tokens": tokens}
        notes.print(f"{size / 1e6:.1f} MB of text, {tokens} tokens, {size / 1e6 / seconds:.2f} MB/s")
    if prompts is not None:
        from aded.traces import read_prompts
        from aded.traces.record import record

        chosen = read_prompts(prompts, limit=limit, per_category=per_category, skip=skip)
        answers = out.with_name(out.name + ".answers.safetensors")
        with progress_bar("answers", quiet=quiet, lines=True) as bar:
            trace = record(loaded, chosen, answers, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=bar)
        made["answer_tokens"] = learn_trace(table, trace)
        answers.unlink()
    if vocabulary:
        with progress_bar("vocabulary", quiet=quiet) as progress:
            made["vocabulary"] = learn_vocabulary(table, loaded, progress=progress)
    Corpus.write(table, out, made)
    partial.unlink(missing_ok=True)
    notes.print(f"{table.used} contexts, {table.nbytes / 2**20:.0f} MiB, in {out}")


def _rows(name: str, field: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise CorpusFileError("--dataset needs the package datasets: pip install datasets") from error
    try:
        rows = load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError) as error:
        raise CorpusFileError(f"cannot open the data set {name}: {str(error).strip().splitlines()[0]}") from error
    for row in rows:
        if field not in row:
            raise CorpusFileError(f"the data set {name} has no column {field!r}; give --field one of {', '.join(row)}")
        yield str(row[field])


@app.command()
def merge(
    corpora: Annotated[list[Path], typer.Argument(help="Corpora of one model.")],
    out: Out,
    memory_mb: Memory = 256.0,
) -> None:
    """Join corpora, weighing what they say of a context by how often each saw it."""
    CORPUS.check_writable(out)
    opened = [Corpus.open(path) for path in corpora]
    first = opened[0]
    alike: dict[str, Any] = {**first.identity(), "orders": first.orders, "successors": first.about["successors"]}
    table = Representative(memory_mb=memory_mb, forgetting=0.0, **alike)
    for corpus in opened:
        table.merge(corpus)
    Corpus.write(table, out, {"model": first.about.get("model"), "merged": [str(path) for path in corpora]})
    Console(stderr=True, highlight=False).print(f"{table.used} contexts, in {out}")


@app.command()
def export(
    corpus: Annotated[Path, typer.Argument(help="A corpus.")],
    llamacpp: Annotated[Path, typer.Option(help="File for `llama-server --lookup-cache-static`.")],
) -> None:
    """Write what a corpus knows of pairs of tokens for llama.cpp's own n-gram drafts."""
    from aded.corpus.export import write_llamacpp

    check_writable(llamacpp, "the n-gram cache", CorpusFileError)
    count = write_llamacpp(Corpus.open(corpus), llamacpp)
    Console(stderr=True, highlight=False).print(f"{count} n-grams, in {llamacpp}")


@app.command()
def info(corpus: Annotated[Path, typer.Argument(help="A corpus.")], as_json: options.AsJson = False) -> None:
    """Say what a corpus is and what it was made of."""
    opened = Corpus.open(corpus)
    facts = {**opened.about, "mb": opened.nbytes / 2**20, "contexts": opened.used}
    facts["filled"] = opened.used / len(opened.arrays.keys)
    options.show_facts(facts, as_json, width=12)
