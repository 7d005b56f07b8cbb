"""Ways to speculate in vLLM, compared in one run by vLLM's own benchmark client: `python -m aded.bench.serving`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aded.errors import AdedError, PromptFileError, UnknownDrafterError
from aded.traces.prompts import read_prompts

__all__ = ["METHODS", "Measured", "compare", "main"]

METHODS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "ngram": {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4},
    "suffix": {"method": "suffix", "num_speculative_tokens": 32},
    "aded": {"method": "custom_class", "model": "aded.engines.vllm.AdedProposer", "num_speculative_tokens": 8},
}
_START_S = 600  # for a server to load, compile and listen


@dataclass(frozen=True)
class Measured:
    """What vLLM's client measured of one way at one number of requests at once; times in milliseconds.

    Attributes:
        tokens_per_second: emitted by all requests together.
        token_ms: mean time per output token after the first.
        first_ms: mean time to the first token.
        acceptance_length: tokens a step with a draft emits, the free one included; None without drafts.
        drafted, accepted: tokens.
    """

    method: str
    concurrency: int
    tokens_per_second: float
    token_ms: float
    first_ms: float
    acceptance_length: float | None
    drafted: int
    accepted: int

    @classmethod
    def read(cls, method: str, concurrency: int, result: dict[str, Any]) -> Measured:
        """From the file the client writes.

        Raises:
            AdedError: a request failed.
        """
        if result["completed"] < result["num_prompts"]:
            raise AdedError(f"{method}: {result['num_prompts'] - result['completed']} requests failed; see its output")
        return cls(
            method,
            concurrency,
            result["output_throughput"],
            result["mean_tpot_ms"],
            result["mean_ttft_ms"],
            result.get("spec_decode_acceptance_length"),
            result.get("spec_decode_draft_tokens", 0),
            result.get("spec_decode_accepted_tokens", 0),
        )


@contextmanager
def server(model: str, method: str, log: Path, arguments: list[str]) -> Iterator[int]:
    """A running `vllm serve`; gives its port.

    Raises:
        AdedError: it ended, or did not listen in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [_vllm(), "serve", model, "--host", "127.0.0.1", "--port", str(port), *arguments]
    if (speculative := METHODS[method]) is not None:
        command += ["--speculative-config", json.dumps(speculative)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + _START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise AdedError(f"vLLM with {method} did not start:\n{''.join(log.open().readlines()[-15:])}")
                time.sleep(1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def compare(
    model: str,
    prompts: list[str],
    *,
    methods: list[str],
    concurrencies: list[int],
    requests: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    arguments: list[str],
    logs: Path,
) -> Iterator[Measured]:
    """Serve `model` in each way, one after the other, and send it the same prompts.

    Each concurrency has prompts of its own: what was learned from an answer must not help to give it again.

    Args:
        requests: to be sent at each concurrency, and no fewer than three times as many as are sent at once.
        arguments: further ones for `vllm serve`.
        logs: folder for the servers' and clients' output.

    Raises:
        AdedError: too few prompts, or a server or client that fails.
    """
    counts = [max(requests, 3 * c) for c in concurrencies]
    if sum(counts) > len(prompts):
        raise PromptFileError(f"{sum(counts)} prompts are needed and there are {len(prompts)}; ask for fewer requests")
    # Every category everywhere: each concurrency takes its prompts evenly from the whole file.
    spread = [prompts[i * len(prompts) // sum(counts)] for i in range(sum(counts))]
    turns = [c for at in range(max(counts)) for c, n in enumerate(counts) if at < n]
    for method in methods:
        with server(model, method, logs / f"{method}.log", arguments) as port:
            for c, concurrency in enumerate(concurrencies):
                own = [prompt for prompt, turn in zip(spread, turns, strict=True) if turn == c]
                result = _client(model, port, own, concurrency, max_new_tokens, temperature, logs, method)
                yield Measured.read(method, concurrency, result)


def _client(
    model: str,
    port: int,
    prompts: list[str],
    concurrency: int,
    max_new_tokens: int,
    temperature: float,
    logs: Path,
    method: str,
) -> dict[str, Any]:
    data, result = logs / f"prompts-{concurrency}.jsonl", logs / f"{method}-{concurrency}.json"
    data.write_text("".join(json.dumps({"category": "", "turns": [prompt]}) + "\n" for prompt in prompts))
    command = [_vllm(), "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--model", model, "--dataset-name", "spec_bench"]
    command += ["--dataset-path", str(data), "--num-prompts", str(len(prompts)), "--max-concurrency", str(concurrency)]
    command += ["--spec-bench-output-len", str(max_new_tokens), "--temperature", str(temperature), "--disable-shuffle"]
    command += ["--disable-tqdm", "--save-result", "--result-dir", str(logs), "--result-filename", result.name]
    log = logs / f"{method}-{concurrency}.log"
    with log.open("w") as out:
        ended = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if ended.returncode or not result.is_file():
        raise AdedError(f"vLLM's benchmark client failed with {method}:\n{''.join(log.open().readlines()[-15:])}")
    read: dict[str, Any] = json.loads(result.read_text())
    return read


def _vllm() -> str:
    return str(Path(sys.executable).with_name("vllm"))


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _table(results: list[Measured]) -> Table:
    table = Table("at once", "way", "tokens/s", "against none", "ms a token", "ms to the first", "accepted", "length")
    for column in table.columns[2:]:
        column.justify = "right"
    plain = {result.concurrency: result for result in results if result.method == "none"}
    for result in sorted(results, key=lambda result: result.concurrency):
        base = plain.get(result.concurrency)
        table.add_row(
            str(result.concurrency),
            result.method,
            f"{result.tokens_per_second:.1f}",
            f"{result.tokens_per_second / base.tokens_per_second:.2f}x" if base else "",
            f"{result.token_ms:.1f}",
            f"{result.first_ms:.0f}",
            f"{result.accepted / result.drafted:.0%}" if result.drafted else "",
            f"{result.acceptance_length:.2f}" if result.acceptance_length else "",
        )
    return table


def main(
    prompts: Annotated[Path, typer.Option(help="Spec-Bench or other JSON lines with turns.")],
    model: Annotated[str, typer.Option(help="What vLLM is to serve.")],
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(METHODS),
    concurrency: Annotated[str, typer.Option(help="Requests at once, comma-separated.")] = "1,4,16",
    requests: Annotated[int, typer.Option(min=1, help="At each concurrency, or thrice as many as at once.")] = 24,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 decodes greedily.")] = 0.0,
    serve: Annotated[str, typer.Option(help="Further arguments of vllm serve.")] = "--dtype bfloat16",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Compare ways to speculate in vLLM."""
    console, results = Console(), []
    chosen = methods.split(",")
    try:
        if unknown := [name for name in chosen if name not in METHODS]:
            raise UnknownDrafterError(f"there is no way {', '.join(unknown)}; choose of {', '.join(METHODS)}")
        with TemporaryDirectory() as folder:
            for result in compare(
                model,
                [prompt.turns[0] for prompt in read_prompts(prompts)],
                methods=chosen,
                concurrencies=[int(number) for number in concurrency.split(",")],
                requests=requests,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                arguments=serve.split(),
                logs=Path(folder),
            ):
                results.append(result)
                console.print(f"{result.method}, {result.concurrency} at once: {result.tokens_per_second:.1f} tokens/s")
    except AdedError as error:
        Console(stderr=True).print(f"aded: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    console.print(_table(results))
    if json_out is not None:
        threads = os.environ.get("OMP_NUM_THREADS")
        json_out.write_text(json.dumps({"threads": threads, "results": [vars(result) for result in results]}, indent=1))


if __name__ == "__main__":
    typer.run(main)
