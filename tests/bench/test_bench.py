"""The live benchmark: what it reports must follow from what was run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aded import AdedError, UnknownDrafterError
from aded.bench import live
from aded.bench.contenders import Contender, contenders
from aded.bench.requests import lengthened
from aded.bench.summary import summarise
from aded.cli import app
from aded.engines.transformers.loading import Loaded
from aded.traces import Prompt
from aded.traces.replay import acceptance_by_depth
from support.models import build
from support.tokenizers import Words

NAMES = ["adaptive", "token-recycling", "hf-prompt-lookup", "none"]
PROMPTS = [Prompt("1", "talk", ("abcabcabc", "and more")), Prompt("2", "copy", ("xyxyxyxyxy",))]


@pytest.fixture(scope="module")
def entrants() -> list[Contender]:
    return contenders(NAMES, Loaded("tiny", build("llama"), Words()), 8)


@pytest.fixture(scope="module")
def runs(entrants: list[Contender]) -> list[live.Run]:
    groups = live.measure(entrants[0].loaded, entrants, PROMPTS, repeats=2, max_new_tokens=20)
    return [run for group in groups for run in group]


def test_every_contender_answers_every_turn_in_every_repeat(runs: list[live.Run]) -> None:
    seen = [(run.contender, run.prompt, run.repeat) for run in runs]
    wanted = {(c, p, r) for c in ["plain", *NAMES] for p in ("1", "1.2", "2") for r in (0, 1)}
    assert set(seen) == wanted
    assert len(seen) == len(wanted)


def test_in_float32_every_output_is_plain_decodings(runs: list[live.Run]) -> None:
    assert all(run.identical for run in runs)
    assert all(run.tokens == 20 for run in runs)
    assert all(run.steps == 20 for run in runs if run.contender in ("plain", "none"))
    assert all(0 < run.first_s < run.seconds for run in runs)


def test_steps_account_for_all_tokens(runs: list[live.Run]) -> None:
    for run in runs:
        if run.contender in ("adaptive", "token-recycling"):
            assert len(run.accepted) == run.steps - 1
            assert 0 <= run.tokens - run.steps - sum(run.accepted) + (1 if run.accepted[-1] else 0) <= 1


def test_samples_and_batches_are_plain_decodings_too(entrants: list[Contender]) -> None:
    ours = [entrant for entrant in entrants if entrant.name != "hf-prompt-lookup"]
    for options in ({"temperature": 1.0}, {"batch_size": 2}, {"temperature": 1.0, "batch_size": 2}):
        groups = live.measure(entrants[0].loaded, ours, PROMPTS, repeats=1, max_new_tokens=20, **options)
        runs = [run for group in groups for run in group]
        assert all(run.identical for run in runs)
        assert any(sum(run.accepted) for run in runs if run.contender == "adaptive")
        if "batch_size" in options:
            assert {run.prompt for run in runs} == {"1-2"}
            assert all(run.tokens == 40 for run in runs)
        else:
            assert {run.prompt for run in runs} == {"1", "1.2", "2"}


def test_prompts_are_lengthened_with_other_texts() -> None:
    texts = ["ab" * 8, "cd" * 5, "ef" * 30, PROMPTS[1].turns[0]]
    longer = lengthened(PROMPTS, texts, 60, len)
    for before, after in zip(PROMPTS, longer, strict=True):
        assert after.turns[0].endswith(before.turns[0])
        assert len(before.turns[0]) < len(after.turns[0]) <= 60
        assert after.turns[1:] == before.turns[1:]
        assert "\n\n".join([before.turns[0]] * 2) not in after.turns[0]


def test_a_repeat_begins_with_nothing_learned(runs: list[live.Run]) -> None:
    steps = [[run.steps for run in runs if run.contender == "adaptive" and run.repeat == r] for r in (0, 1)]
    assert steps[0] == steps[1]


def test_the_summary_pairs_each_answer_with_plain_decodings(runs: list[live.Run], entrants) -> None:
    results = summarise(runs, engine="transformers", state_mb={"adaptive": 64.0})
    assert [result["drafter"] for result in results] == ["plain", *NAMES]
    for result in results:
        assert result["speedup_low"] <= result["speedup"] <= result["speedup_high"]
        assert (result["prompts"], result["repeats"], result["identical"]) == (3, 2, True)
        assert (result["ties"], result["differences"]) == (0, 0)
        assert set(result["by_category"]) == {"talk", "copy"}
        assert result["peak_memory_mb"] > 10
    assert results[0]["speedup"] == results[0]["mat"] == 1.0
    assert results[1]["mat"] > 1.0
    assert results[1]["draft_share"] + results[1]["verify_share"] + results[1]["learn_share"] == pytest.approx(1.0)


def _run(prompt: str, repeat: int, **changes: Any) -> live.Run:
    values = {"contender": "plain", "category": "c", "tokens": 10, "steps": 10, "seconds": 1.0, "first_s": 0.1}
    values |= {"draft_s": 0.0, "verify_s": 0.0, "learn_s": 0.0, "drafted": 0, "accepted": [], "peak_mb": 1.0}
    return live.Run(**{**values, "prompt": prompt, "repeat": repeat, **changes})


def test_speedup_is_the_median_of_paired_ratios_and_differences_are_counted() -> None:
    runs = [_run(str(i), 0, seconds=float(i + 1)) for i in range(5)]  # a machine that slows down
    for i, ratio in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        odd = {"identical": i > 1, "tie": i == 0}
        runs.append(_run(str(i), 0, contender="x", seconds=(i + 1) / ratio, **odd))
    result = summarise(runs, engine="e", state_mb={})[1]
    assert (result["speedup_low"], result["speedup"], result["speedup_high"]) == pytest.approx((2.0, 3.0, 4.0))
    assert (result["identical"], result["ties"], result["differences"]) == (False, 1, 1)


def test_a_contender_promises_what_all_its_answers_do() -> None:
    runs = [_run("a", 0), *(_run("a", 0, contender="x", exact=exact) for exact in ("generate", "none", "generate"))]
    plain, ours = summarise(runs, engine="e", state_mb={})
    assert plain["exact"] is None
    assert ours["exact"] == "none"


def test_acceptance_by_depth_counts_steps_that_got_so_far() -> None:
    assert acceptance_by_depth([0, 1, 3, 0]) == [0.5, 0.25, 0.25]
    assert acceptance_by_depth([]) == []


def test_an_unknown_contender_is_refused() -> None:
    with pytest.raises(UnknownDrafterError, match="hf-prompt-lookup"):
        contenders(["nobody"], None, 8)  # type: ignore[arg-type]


@pytest.fixture
def command(monkeypatch, tmp_path: Path, entrants: list[Contender]) -> list[str]:
    """`aded bench` on the tiny model."""
    monkeypatch.setattr("aded.engines.transformers.loading.load", lambda *_, **__: entrants[0].loaded)
    monkeypatch.setattr("aded.bench.environment.metadata.version", lambda name: "1")
    (tmp_path / "p.txt").write_text("abcabcabc\nxyzxyz")
    words = ["bench", "--prompts", str(tmp_path / "p.txt"), "--drafters", "adaptive,hf-prompt-lookup"]
    return [*words, "--repeats", "1", "--max-new-tokens", "8", "--json", str(tmp_path / "out.json")]


def test_the_command_writes_figures_and_a_page_that_needs_no_network(command: list[str], tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, [*command, "--html", str(tmp_path / "out.html"), "--plot"])
    assert shown.exit_code == 0, shown.output
    assert "hf-prompt-lookup" in shown.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert [result["drafter"] for result in report["results"]] == ["plain", "adaptive", "hf-prompt-lookup"]
    assert report["environment"]["model"] == "tiny"
    assert len(report["runs"]) == 6
    page = (tmp_path / "out.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    for title in ("Speedup by category", "Tokens a step against nodes", "Where a step", "Cost of a step"):
        assert title in page


def test_an_interrupt_keeps_what_was_measured(command: list[str], tmp_path: Path, monkeypatch) -> None:
    whole = live.measure

    def stopped(*arguments: Any, **options: Any) -> Any:
        yield next(iter(whole(*arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "measure", stopped)
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 130, shown.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert [result["prompts"] for result in report["results"]] == [1, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--engine", "abacus"],
        ["--drafters", "nobody"],
        ["--json", "/no/such/folder/x.json"],
        ["--max-draft-tokens", "x"],
    ],
)
def test_what_cannot_be_run_is_one_clear_error(command: list[str], wrong: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, *wrong])
    assert shown.exit_code != 0
    assert isinstance(shown.exception, AdedError)
