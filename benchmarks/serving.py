"""Ways to speculate in a server, compared in one run by the engine's own benchmark client."""

from __future__ import annotations

import importlib.util
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
from typing import Any, Protocol

from aded.errors import AdedError, PromptFileError
from benchmarks.record import Record

__all__ = ["ENGINES", "Engine", "Measured", "Summary", "Wanted", "compare", "server", "summarise"]

_VLLM: dict[str, dict[str, Any] | None] = {
    "none": None,
    "ngram": {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4},
    "suffix": {"method": "suffix", "num_speculative_tokens": 32},
    "aded": {"model": "aded.vllm"},
    "aded-v2": {"model": "aded.vllm", "enable_adaptive_verification": True},  # needs a GPU
}
_SGLANG = {"none": None, "ngram": "NGRAM", "aded": "ADED"}
_START_S = 600  # for a server to load, compile and listen


@dataclass(frozen=True)
class Measured:
    """What an engine's own client measured of one way at one number of requests at once; times in milliseconds.

    Attributes:
        turn: which time it was, from 0.
        tokens_per_second: emitted by all requests together.
        token_ms: mean time per output token after the first.
        first_ms: mean time to the first token.
        acceptance_length: tokens a step with a draft emits, the free one included; None without drafts.
        drafted, accepted: tokens; 0 where the engine does not say.
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
    def read(cls, turn: int, method: str, concurrency: int, count: int, result: dict[str, Any]) -> Measured:
        """From the file that an engine's client writes of so many requests.

        Raises:
            AdedError: a request failed.
        """
        if (failed := count - result["completed"]) > 0:
            raise AdedError(f"{method}: {failed} requests failed; see its output")
        return cls(
            turn,
            method,
            concurrency,
            result["output_throughput"],
            result["mean_tpot_ms"],
            result["mean_ttft_ms"],
            result.get("spec_decode_acceptance_length") or result.get("accept_length"),
            result.get("spec_decode_draft_tokens", 0),
            result.get("spec_decode_accepted_tokens", 0),
        )


@dataclass(frozen=True)
class Wanted:
    """What a client is to send.

    Attributes:
        prompts: in order.
        concurrency: requests at once.
        max_new_tokens: of an answer.
        temperature: of sampling.
        result: where it writes what it measured, as JSON.
    """

    prompts: list[str]
    concurrency: int
    max_new_tokens: int
    temperature: float
    result: Path


class Engine(Protocol):
    """A server with speculation, and its own benchmark client.

    Attributes:
        name: what people call it.
        methods: ways to speculate in it.
    """

    name: str
    methods: tuple[str, ...]

    def installed(self) -> bool:
        """Whether it is, in this environment."""
        ...

    def serve(self, model: str, port: int, method: str) -> list[str]:
        """The command of a server."""
        ...

    def client(self, model: str, port: int, wanted: Wanted) -> list[str]:
        """The command of its client."""
        ...


class Vllm:
    """vLLM, by its command `vllm`."""

    name, methods = "vLLM", tuple(_VLLM)

    @staticmethod
    def _command() -> str:
        return str(Path(sys.executable).with_name("vllm"))

    def installed(self) -> bool:
        return Path(self._command()).is_file()

    def serve(self, model: str, port: int, method: str) -> list[str]:
        command = [self._command(), "serve", model, "--host", "127.0.0.1", "--port", str(port)]
        if (speculative := _VLLM[method]) is not None:
            command += ["--speculative-config", json.dumps(speculative)]
        return command

    def client(self, model: str, port: int, wanted: Wanted) -> list[str]:
        asked = wanted.result.with_suffix(".prompts.jsonl")
        lines = [json.dumps({"category": "", "turns": [prompt]}) + "\n" for prompt in wanted.prompts]
        asked.write_text("".join(lines))
        command = [self._command(), "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--model", model]
        command += ["--dataset-name", "spec_bench", "--dataset-path", str(asked), "--disable-shuffle", "--disable-tqdm"]
        command += ["--num-prompts", str(len(lines)), "--spec-bench-output-len", str(wanted.max_new_tokens)]
        command += ["--max-concurrency", str(wanted.concurrency), "--temperature", str(wanted.temperature)]
        result = wanted.result
        return [*command, "--save-result", "--result-dir", str(result.parent), "--result-filename", result.name]


class Sglang:
    """SGLang; every way of speculation has trees of 12 rows."""

    name, methods = "SGLang", tuple(_SGLANG)

    def installed(self) -> bool:
        return importlib.util.find_spec("sglang") is not None

    def serve(self, model: str, port: int, method: str) -> list[str]:
        command = [sys.executable, "-m", "sglang.launch_server", "--model-path", model]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        if (algorithm := _SGLANG[method]) is not None:
            command += ["--speculative-algorithm", algorithm, "--speculative-num-draft-tokens", "12"]
        return command

    def client(self, model: str, port: int, wanted: Wanted) -> list[str]:
        asked, about = wanted.result.with_suffix(".prompts.jsonl"), {"temperature": wanted.temperature}
        lines = [
            json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": wanted.max_new_tokens} | about)
            for prompt in wanted.prompts
        ]
        asked.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "sglang.benchmark.serving", "--backend", "sglang-oai-chat", "--model", model]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--dataset-name",
            "openai",
            "--dataset-path",
            str(asked),
        ]
        command += ["--num-prompts", str(len(lines)), "--max-concurrency", str(wanted.concurrency), "--disable-tqdm"]
        return [*command, "--disable-ignore-eos", "--output-file", str(wanted.result)]


ENGINES: dict[str, Engine] = {"vllm": Vllm(), "sglang": Sglang()}


@contextmanager
def server(engine: Engine, model: str, method: str, log: Path, arguments: list[str]) -> Iterator[int]:
    """A running server; gives its port.

    Raises:
        AdedError: it ended, or did not listen in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as out:
        command = [*engine.serve(model, port, method), *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + _START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > until:
                    last = "".join(log.open().readlines()[-15:])
                    raise AdedError(f"{engine.name} with {method} did not start:\n{last}")
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
    engine: Engine,
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
        arguments: further ones for the server.
        logs: folder for the servers' and clients' output.
        record: what is measured is added to it. A server that it has all of in a turn is not started again.

    Raises:
        AdedError: the engine is not here, too few prompts, or a server or client that fails.
    """
    if not engine.installed():
        raise AdedError(f"{engine.name} is not installed here; install it with: pip install aded {engine.name.lower()}")
    counts = [max(requests, 3 * c) for c in concurrencies]
    if sum(counts) > len(prompts):
        raise PromptFileError(f"{sum(counts)} prompts are needed and there are {len(prompts)}; ask for fewer requests")
    # Every category everywhere: each concurrency takes its prompts evenly from the whole file.
    spread = [prompts[i * len(prompts) // sum(counts)] for i in range(sum(counts))]
    owners = [c for at in range(max(counts)) for c, n in enumerate(counts) if at < n]
    own = [[one for one, owner in zip(spread, owners, strict=True) if owner == c] for c in range(len(counts))]
    known = {(row.turn, row.method, row.concurrency) for row in record.rows}
    for turn in range(repeats):
        for method in methods:
            if all((turn, method, concurrency) in known for concurrency in concurrencies):
                continue
            rows = list[Measured]()
            with server(engine, model, method, logs / f"{method}.log", arguments) as port:
                for concurrency, asked in zip(concurrencies, own, strict=True):
                    result = logs / f"{method}-{concurrency}.json"
                    wanted = Wanted(asked, concurrency, max_new_tokens, temperature, result)
                    found = _measured(engine, model, port, wanted)
                    rows.append(Measured.read(turn, method, concurrency, len(asked), found))
                    yield rows[-1]
            for row in rows:  # whole servers alone: what one learned at first helps it later
                record.add(row)


def _measured(engine: Engine, model: str, port: int, wanted: Wanted) -> dict[str, Any]:
    """Run an engine's client; what it found."""
    result, log = wanted.result, wanted.result.with_suffix(".log")
    result.unlink(missing_ok=True)
    with log.open("w") as out:
        command = engine.client(model, port, wanted)
        ended = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if ended.returncode or not result.is_file():
        last = "".join(log.open().readlines()[-15:])
        raise AdedError(f"the benchmark client of {engine.name} failed with {result.stem}:\n{last}")
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


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
