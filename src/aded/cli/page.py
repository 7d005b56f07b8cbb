"""`aded generate --html`: the server's page with one answer in it."""

from __future__ import annotations

from pathlib import Path

from aded.engines.base.runner import Answer, Runner
from aded.errors import AdedError
from aded.files import replace
from aded.serve.page import page
from aded.serve.tracing import StepRecorder, facts_of


def write_page(
    path: Path,
    runner: Runner,
    drafter: str,
    prompt: str,
    recorder: StepRecorder,
    answer: Answer,
    plain_rate: float | None,
) -> None:
    """Write an answer as the server's page shows it.

    Args:
        drafter: the name of who drafted.
        plain_rate: tokens a second without us; None where that was not measured.

    Raises:
        AdedError: the file cannot be written.
    """
    stats, loaded = answer.stats, runner.loaded
    cost = loaded.step_cost() if runner.max_draft_tokens == "auto" else None  # measured by now
    info = facts_of(loaded, drafter, [drafter], cost)
    figures = {name: getattr(stats, name) for name in ("steps", "drafted", "accepted", "exact")}
    figures |= {"tokens": answer.tokens, "seconds": answer.seconds}
    shown = {"info": info, "prompt": prompt, "steps": recorder.steps, "figures": figures}
    try:
        replace(path, page(shown | {"plain_tokens_per_second": plain_rate}).encode())
    except OSError as error:
        raise AdedError(f"cannot write the page {path}: {error.strerror}; choose another place") from error
