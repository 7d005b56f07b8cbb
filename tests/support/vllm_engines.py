"""Engines of vLLM's, each in a process of its own: tests/engines/vllm has the scripts that they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.paths import ROOT

ADED = {"model": "aded.vllm", "num_speculative_tokens": 6}
SCRIPTS = ROOT / "tests" / "engines" / "vllm"


def run_script(name: str, model: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with an engine. It has a process for itself only where several workers are asked for: a second one
    takes as long to start as all the rest. Servers have it, as they always do."""
    command = [sys.executable, str(SCRIPTS / name), model, *map(json.dumps, arguments)]
    several = any("parallel_size" in argument for argument in command)
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(several)), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def both(name: str, model: str, *arguments: Any, drafted: int | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A script's answers without speculation and with so many tokens drafted in every step; on a processor each."""

    def one(speculative: dict[str, Any] | None) -> dict[str, Any]:
        processor = "0" if speculative is None or os.cpu_count() == 1 else "1"
        environment = {"ADED_MAX_DRAFT_TOKENS": str(drafted), "VLLM_CPU_OMP_THREADS_BIND": processor}
        return read(run_script(name, model, speculative, *arguments, **environment))

    with ThreadPoolExecutor(2) as threads:
        plain, ours = threads.map(one, (None, ADED))
    return plain, ours


def read(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = [line for line in run.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert found, run.stdout[-3000:] + run.stderr[-3000:]
    answered: dict[str, Any] = json.loads(found[0].removeprefix("ANSWERS "))
    return answered
