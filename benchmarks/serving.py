"""Ways to speculate in vLLM, compared in one run by vLLM's own benchmark client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from aded.errors import AdedError, PromptFileError
from benchmarks.record import Record

__all__ = ["METHODS", "Measured", "Summary", "compare", "server", "summarise"]

METHODS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "ngram": {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4},
    "suffix": {"method": "suffix", "num_speculative_tokens": 32},
    "aded": {"model": "aded.vllm"},
    "aded-v2": {"model": "aded.vllm", "enable_adaptive_verification": True},  # needs a GPU
}
_START_S = 600  # for a server to load, compile and listen


@dataclass(frozen=True)
class Measured:
    """What vLLM's client measured of one way at one number of requests at once; times in milliseconds.

    Attributes:
        turn: which time it was, from 0.
        tokens_per_second: emitted by all requests together.
        token_ms: mean time per output token after the first.
        first_ms: mean time to the first token.
        acceptance_length: tokens a step with a draft emits, the free one included; None without drafts.
        drafted, accepted: tokens.
    """

    turn: int
    method: str
    concurrency: int
    tokens_per_second: float
    token_ms: float
    first_ms: float
    acceptance_length: float | None
    drafted: int
    accepted: int

    @classmethod
    def read(cls, turn: int, method: str, concurrency: int, result: dict[str, Any]) -> Measured:
        """From the file the client writes.

        Raises:
            AdedError: a request failed.
        """
        if result["completed"] < result["num_prompts"]:
            raise AdedError(f"{method}: {result['num_prompts'] - result['completed']} requests failed; see its output")
        return cls(
            turn,
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
    repeats: int = 1,
    temperature: float = 0.0,
    arguments: list[str],
    logs: Path,
    record: Record[Measured],
) -> Iterator[Measured]:
    """Serve `model` in each way, one after the other, and send it the same prompts; all of it `repeats` times.

    Each concurrency has prompts of its own, and each server starts anew: what was learned from an answer must not help
    to give it again.

    Args:
        requests: to be sent at each concurrency, and no fewer than three times as many as are sent at once.
        arguments: further ones for `vllm serve`.
        logs: folder for the servers' and clients' output.
        record: what is measured is added to it. A server that it has all of in a turn is not started again.

    Raises:
        AdedError: no vLLM here, too few prompts, or a server or client that fails.
    """
    if not Path(_vllm()).is_file():
        raise AdedError("vLLM is not installed here; install it with: pip install aded vllm")
    counts = [max(requests, 3 * c) for c in concurrencies]
    if sum(counts) > len(prompts):
        raise PromptFileError(f"{sum(counts)} prompts are needed and there are {len(prompts)}; ask for fewer requests")
    # Every category everywhere: each concurrency takes its prompts evenly from the whole file.
    spread = [prompts[i * len(prompts) // sum(counts)] for i in range(sum(counts))]
    owners = [c for at in range(max(counts)) for c, n in enumerate(counts) if at < n]
    for c, concurrency in enumerate(concurrencies):
        own = [prompt for prompt, owner in zip(spread, owners, strict=True) if owner == c]
        lines = [json.dumps({"category": "", "turns": [prompt]}) + "\n" for prompt in own]
        (logs / f"prompts-{concurrency}.jsonl").write_text("".join(lines))
    known = {(row.turn, row.method, row.concurrency) for row in record.rows}
    for turn in range(repeats):
        for method in methods:
            if all((turn, method, concurrency) in known for concurrency in concurrencies):
                continue
            rows = list[Measured]()
            with server(model, method, logs / f"{method}.log", arguments) as port:
                for concurrency, count in zip(concurrencies, counts, strict=True):
                    options = {"--host": "127.0.0.1", "--port": port, "--model": model, "--num-prompts": count}
                    options |= {"--dataset-path": logs / f"prompts-{concurrency}.jsonl"}
                    options |= {"--max-concurrency": concurrency, "--temperature": temperature}
                    options |= {"--spec-bench-output-len": max_new_tokens}
                    result = _client(options, logs, f"{method}-{concurrency}")
                    measured = Measured.read(turn, method, concurrency, result)
                    rows.append(measured)
                    yield measured
            for row in rows:  # whole servers alone: what one learned at first helps it later
                record.add(row)


def _client(options: dict[str, Any], logs: Path, name: str) -> dict[str, Any]:
    """Run vLLM's benchmark client; what it found."""
    result, log = logs / f"{name}.json", logs / f"{name}.log"
    command = [_vllm(), "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--dataset-name", "spec_bench", "--disable-shuffle", "--disable-tqdm"]
    command += ["--save-result", "--result-dir", str(logs), "--result-filename", result.name]
    command += [str(part) for option in options.items() for part in option]
    result.unlink(missing_ok=True)
    with log.open("w") as out:
        ended = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if ended.returncode or not result.is_file():
        raise AdedError(f"vLLM's benchmark client failed with {name}:\n{''.join(log.open().readlines()[-15:])}")
    read: dict[str, Any] = json.loads(result.read_text())
    return read


@dataclass(frozen=True)
class Summary:
    """One way at one number of requests at once, over all turns.

    Attributes:
        tokens_per_second, token_ms, first_ms: medians.
        against_none: median over the turns of its tokens a second over no speculation's in the same turn; None
            without that.
        least, most: the least and most of those.
        accepted: of drafted tokens, in all; None without drafts.
        acceptance_length: mean.
    """

    method: str
    concurrency: int
    tokens_per_second: float
    token_ms: float
    first_ms: float
    against_none: float | None
    least: float | None
    most: float | None
    accepted: float | None
    acceptance_length: float | None


def summarise(results: list[Measured]) -> list[Summary]:
    """All ways at each number of requests at once, in the order they were measured."""
    plain = {(r.turn, r.concurrency): r.tokens_per_second for r in results if r.method == "none"}
    groups: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    for result in results:
        groups[result.concurrency, result.method].append(result)
    found = []
    for (concurrency, method), group in sorted(groups.items(), key=lambda item: item[0][0]):
        turns = [(r, plain.get((r.turn, concurrency))) for r in group]
        ratios = [r.tokens_per_second / base for r, base in turns if base]
        drafted, lengths = sum(r.drafted for r in group), [r.acceptance_length for r in group if r.acceptance_length]
        found.append(
            Summary(
                method,
                concurrency,
                median(r.tokens_per_second for r in group),
                median(r.token_ms for r in group),
                median(r.first_ms for r in group),
                median(ratios) if ratios else None,
                min(ratios, default=None),
                max(ratios, default=None),
                sum(r.accepted for r in group) / drafted if drafted else None,
                mean(lengths) if lengths else None,
            )
        )
    return found


def _vllm() -> str:
    return str(Path(sys.executable).with_name("vllm"))


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
