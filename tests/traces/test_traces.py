"""Prompts, recorded traces and their replay."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import benchmarks.peers  # noqa: F401 - registers them
from aded import PromptFileError, TraceFileError, create_drafter
from aded.cli import app
from aded.engines.transformers.loading import Loaded
from aded.traces import Trace, TracedSequence, read_prompts
from aded.traces.record import record
from aded.traces.replay import replay
from support.models import build
from support.paths import SHIPPED
from support.tokenizers import Words

IDS = st.lists(st.integers(0, 70_000), min_size=1, max_size=12)


@st.composite
def traces(draw: Any) -> Trace:
    scored = draw(st.booleans())
    sequences = []
    for number in range(draw(st.integers(0, 4))):
        prompt, output = np.array(draw(IDS), np.int32), np.array(draw(IDS), np.int32)
        ids = np.stack([output, output + 1], 1).astype(np.int32) if scored else None
        probs = np.tile(np.array([[0.5, 0.25]], np.float32), (len(output), 1)) if scored else None
        sequences.append(TracedSequence(str(number), draw(st.sampled_from("ab")), prompt, output, ids, probs))
    return Trace(sequences, {"model": "m"})


def same_trace(one: Trace, other: Trace) -> None:
    assert one.about == other.about
    assert one.tokens == other.tokens
    for a, b in zip(one.sequences, other.sequences, strict=True):
        assert (a.name, a.category) == (b.name, b.category)
        for name in ("prompt", "output", "top_ids", "top_probs"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None and y is None) or np.array_equal(x, y)


@given(trace=traces())
def test_a_trace_is_read_back_as_it_was_written(tmp_path_factory, trace: Trace) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.safetensors"
    trace.save(path)
    same_trace(Trace.load(path), trace)


def test_a_damaged_missing_or_foreign_trace_is_refused(tmp_path: Path) -> None:
    content = bytearray(SHIPPED.read_bytes())
    content[len(content) // 2] ^= 1
    for name, data in (("flipped", bytes(content)), ("cut", bytes(content[:5000])), ("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        says = "record it again" if len(data) > 100 else "is not an ADED trace; choose another file"
        with pytest.raises(TraceFileError, match=says):
            Trace.load(tmp_path / name)
    with pytest.raises(TraceFileError, match="there is no trace"):
        Trace.load(tmp_path / "none")
    create_drafter("adaptive", memory_mb=1).save(tmp_path / "state")
    with pytest.raises(TraceFileError):
        Trace.load(tmp_path / "state")


@pytest.mark.parametrize(
    ("keep", "nodes", "recorded"),
    [(False, 8, 2.673), (False, 24, 3.232), (False, 64, 3.610), (True, 24, 3.397)],
)
def test_adaptive_drafts_as_well_as_it_did(keep: bool, nodes: int, recorded: float) -> None:
    """Replay is deterministic: a fall of 2% below the recorded figure is a change for the worse, not noise."""
    trace = Trace.load(SHIPPED)
    result = replay(trace, "adaptive", lambda: create_drafter("adaptive"), nodes, keep_state=keep)
    assert result.tokens == trace.tokens
    assert result.mat >= 0.98 * recorded


def test_replaying_twice_prints_the_same(tmp_path: Path) -> None:
    Trace(Trace.load(SHIPPED).sequences[:4]).save(tmp_path / "t")
    command = ["trace", "replay", str(tmp_path / "t"), "--json", "--max-draft-tokens", "4,16"]
    command += ["--drafters", "adaptive,paper,prompt-lookup,token-recycling,ngram-trie-frequency,ngram-trie-recency"]
    for state in ("--fresh", "--keep-state"):
        runs = []
        for _ in range(2):
            shown = CliRunner().invoke(app, [*command, state])
            assert shown.exit_code == 0, shown.output
            results = json.loads(shown.stdout)
            assert len(results) == 12
            for result in results:
                assert result.pop("draft_ms") >= 0
                assert result.pop("learn_ms") >= 0
                assert result["mat"] >= 1.0
                assert result["nodes_used"] <= result["max_draft_tokens"]
                assert result["acceptance_by_depth"] == sorted(result["acceptance_by_depth"], reverse=True)
            runs.append(json.dumps(results))
        assert runs[0] == runs[1]


def test_what_was_learned_before_helps() -> None:
    trace = Trace.load(SHIPPED)
    some = Trace(trace.sequences[:20])
    options = {"make": lambda: create_drafter("adaptive"), "max_draft_tokens": 16}
    alone = replay(some, "adaptive", **options)
    warm = replay(some, "adaptive", **options, warm=some)
    assert warm.mat > 1.5 * alone.mat
    assert set(warm.by_category) == {sequence.category for sequence in some.sequences}


def test_a_text_only_trace_replays() -> None:
    texts = [TracedSequence(s.name, s.category, s.prompt, s.output) for s in Trace.load(SHIPPED).sequences[:8]]
    result = replay(Trace(texts), "adaptive", lambda: create_drafter("adaptive"), 16)
    assert result.mat > 1.2


@pytest.mark.parametrize("command", [["--max-draft-tokens", "many"], ["--drafters", "nobody"], ["--drafters", ","]])
def test_a_replay_that_cannot_be_is_one_clear_error(command: list[str]) -> None:
    shown = CliRunner().invoke(app, ["trace", "replay", str(SHIPPED), *command])
    assert shown.exit_code != 0
    assert shown.stdout == ""


def test_prompt_files_of_every_kind(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    rows = [{"question_id": i, "category": "abc"[i % 3], "turns": [f"q{i}", f"r{i}"]} for i in range(9)]
    bench.write_text("\n".join(map(json.dumps, rows)))
    assert [p.name for p in read_prompts(bench, limit=2)] == ["0", "1"]
    assert [p.name for p in read_prompts(bench, per_category=1, skip=2)] == ["6", "7", "8"]
    assert read_prompts(bench)[4].turns == ("q4", "r4")
    (tmp_path / "plain.txt").write_text("one\n\ntwo\n")
    assert [(p.turns, p.category) for p in read_prompts(tmp_path / "plain.txt")] == [
        (("one",), "plain"),
        (("two",), "plain"),
    ]
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "output": "o", "category": "c"}\n')
    assert read_prompts(tmp_path / "pairs.jsonl")[0].output == "o"


def test_prompts_of_other_suites_are_read_as_they_come(tmp_path: Path) -> None:
    human = tmp_path / "HumanEval.jsonl.gz"
    row = {"task_id": "HumanEval/0", "prompt": 'def f():\n    """a\u2028b"""\n', "canonical_solution": "    pass"}
    human.write_bytes(gzip.compress((json.dumps(row, ensure_ascii=False) + "\r\n").encode()))
    (prompt,) = read_prompts(human)
    assert (prompt.name, prompt.category, prompt.turns) == ("HumanEval/0", "HumanEval", (row["prompt"],))
    speed = tmp_path / "qualitative.jsonl"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    speed.write_text(json.dumps({"category": "coding", "messages": [*said, {"role": "user", "content": "c"}]}))
    assert read_prompts(speed)[0].turns == ("a", "c")
    assert read_prompts(speed)[0].category == "coding"


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": ',
        '{"turns": []}',
        '{"prompt": 3}',
        '{"prompt": "a", "output": 1}',
        '{"messages": "a"}',
        '{"messages": ["a"]}',
        '{"messages": [{"role": "system", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": 3}]}',
        "",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(PromptFileError):
        read_prompts(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl.gz").write_text(line)
    with pytest.raises(PromptFileError):
        read_prompts(tmp_path / "bad.jsonl.gz")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded("tiny", build("llama"), Words())


def test_a_recording_is_plain_decoding_with_the_likeliest_tokens(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("first\na second one\nthird")
    prompts = read_prompts(tmp_path / "p.txt")
    trace = record(loaded, prompts, tmp_path / "folder", max_new_tokens=9, top_k=3, batch_size=2)
    assert (tmp_path / "folder" / "trace.safetensors").is_file()
    for prompt, sequence in zip(prompts, trace.sequences, strict=True):
        ids = loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}])
        plain = loaded.model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)
        assert sequence.output.tolist() == plain[0, ids.shape[1] :].tolist()
        logits = loaded.model(plain).logits[0, ids.shape[1] - 1 : -1].softmax(-1)
        assert sequence.top_ids is not None
        assert sequence.top_ids[:, 0].tolist() == sequence.output.tolist()
        assert np.allclose(sequence.top_probs, logits.topk(3).values.detach().numpy(), atol=1e-3)


def test_a_stopped_recording_goes_on_and_is_the_same(loaded: Loaded, tmp_path: Path) -> None:
    prompts = read_prompts(_turns(tmp_path))
    settings: dict[str, Any] = {"max_new_tokens": 6, "top_k": 2, "batch_size": 2, "temperature": 1.0, "seed": 3}
    whole = record(loaded, prompts, tmp_path / "whole.safetensors", **settings)

    class Stop(Exception): ...

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise Stop

    out = tmp_path / "part.safetensors"
    with pytest.raises(Stop):
        record(loaded, prompts, out, **settings, progress=stop)
    assert not out.exists()
    with pytest.raises(TraceFileError, match="other settings"):
        record(loaded, prompts, out, **{**settings, "seed": 4})
    seen: list[int] = []
    record(loaded, prompts, out, **settings, progress=lambda done, total: seen.append(done))
    same_trace(Trace.load(out), Trace.load(tmp_path / "whole.safetensors"))
    assert seen[-1] == len(whole.sequences) == 10
    assert [p.name for p in tmp_path.iterdir() if "parts" in p.name] == []


def _turns(folder: Path) -> Path:
    path = folder / "turns.jsonl"
    path.write_text("\n".join(json.dumps({"turns": [f"say {i}", "more"]}) for i in range(5)))
    return path
