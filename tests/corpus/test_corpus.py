"""Corpora: built from texts, answers and the vocabulary; joined, opened read-only and drafted from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from aded import Corpus, CorpusFileError, Outcome, Representative, create_drafter
from aded.cli import app
from aded.corpus import text as corpus_text
from aded.corpus.model import learn_trace, learn_vocabulary
from aded.corpus.text import Block, blocks_of_files, blocks_of_texts, learn_blocks, text_files
from aded.engines.transformers.loading import Loaded, load
from aded.representative import Interpolation
from aded.traces import Trace
from support.models import build
from support.paths import SHIPPED
from support.tokenizers import WORDS, word_level


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_level()


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    """A model on disk that the command line can load."""
    path = tmp_path_factory.mktemp("model")
    build("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(*command: object) -> Any:
    return CliRunner().invoke(app, ["corpus", *map(str, command)])


def table() -> Representative:
    return Representative(memory_mb=0.5, orders=(1, 2, 3), forgetting=0.0)


def same(one: Corpus, other: Corpus) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.arrays, other.arrays, strict=True))


def continuation(corpus: Corpus, tokenizer: Any, words: str) -> str:
    """What `adaptive` drafts first from the corpus after some words."""
    session = create_drafter("adaptive", memory_mb=1, corpus=corpus).start(tokenizer(words)["input_ids"])
    tree = session.draft(1)
    return tokenizer.decode(tree.tokens.tolist())


def test_a_corpus_of_a_folder_of_texts_is_drafted_from(folder: Path, tokenizer, tmp_path: Path) -> None:
    texts = tmp_path / "texts" / "deep"
    texts.mkdir(parents=True)
    (texts / "one.txt").write_text("the cat sat on a mat\n" * 50)
    (texts / "two.txt").write_text("a dog ran home\n" * 50)
    (texts / "picture").write_bytes(b"mat mat\0mat mat")
    out = tmp_path / "c.corpus"
    command = ["build", "--model", folder, "--text", texts.parent, "--memory-mb", 1, "--processes", 1, "--out", out]
    shown = run(*command)
    assert shown.exit_code == 0, shown.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.corpus", "texts"]
    corpus = Corpus.open(out)
    assert corpus.about["text_tokens"] == 50 * (6 + 4)
    assert continuation(corpus, tokenizer, "cat sat on") == "a"
    assert continuation(corpus, tokenizer, "a dog ran") == "home"
    facts = json.loads(run("info", out, "--json").stdout)
    assert facts["model"] == str(folder)
    assert facts["contexts"] == corpus.used > 0
    assert facts["mb"] <= 1.0
    assert "contexts" in run("info", out).stdout


def test_a_corpus_of_answers_knows_what_the_model_says(folder: Path, tokenizer, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("the cat\na dog ran\n")
    out = tmp_path / "c.corpus"
    command = ["build", "--model", folder, "--prompts", tmp_path / "p.txt", "--max-new-tokens", 12, "--memory-mb", 1]
    shown = run(*command, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.corpus", "p.txt"]
    loaded = load(str(folder), dtype="bfloat16")
    ids = loaded.prompt_ids([{"role": "user", "content": "a dog ran"}])
    answer = loaded.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    session = create_drafter("adaptive", memory_mb=1, corpus=out).start(ids[0].tolist())
    assert answer[0] in session.draft(8).children(-1)


def test_the_vocabulary_teaches_what_follows_each_token(tokenizer) -> None:
    loaded = Loaded("tiny", build("llama"), tokenizer)
    learned = Representative(memory_mb=1, orders=(1, 2), successors=8)
    assert learn_vocabulary(learned, loaded, batch=7) == loaded.model.config.vocab_size
    start = loaded.prompt_ids([{"role": "user", "content": "Hello"}])
    for token in (0, 5, loaded.model.config.vocab_size - 1):
        logits = loaded.model(torch.cat([start, torch.tensor([[token]])], 1)).logits[0, -1]
        assert Interpolation([learned]).predict([token])[0][0] == int(logits.argmax())


def test_a_trace_is_learned_with_and_without_distributions() -> None:
    whole = Trace.load(SHIPPED).sequences[:3]
    bare = [type(s)(s.name, s.category, s.prompt, s.output) for s in whole]
    tables = []
    for sequences in (whole, bare):
        learned = Representative(memory_mb=4, orders=(1, 2, 3), forgetting=0.0)
        assert learn_trace(learned, Trace(sequences)) == sum(len(s.prompt) + len(s.output) for s in sequences)
        tables.append(learned)
    entries = [int(np.count_nonzero(t.arrays[4])) for t in tables]
    assert entries[0] > entries[1]  # distributions name more successors than the one chosen


@pytest.mark.parametrize("every", [0.0, 1e9])  # kept at each block, or only when it is stopped
def test_a_stopped_build_goes_on_and_is_the_same(tokenizer, tmp_path: Path, monkeypatch, every: float) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 200)) for _ in range(8)]
    blocks = [Block(text, number, len(text)) for number, text in enumerate(texts, 1)]
    options: dict[str, Any] = {"processes": 1, "about": {}}
    whole = table()
    learn_blocks(whole, blocks, tokenizer, partial=tmp_path / "unused", **options)
    monkeypatch.setattr(corpus_text, "_CHECKPOINT_S", every)

    def stop(size: int, tokens: int) -> None:
        if tokens >= 800:
            raise KeyboardInterrupt

    partial = tmp_path / "p.partial"
    with pytest.raises(KeyboardInterrupt):
        learn_blocks(table(), blocks, tokenizer, partial=partial, progress=stop, **options)
    begun = Corpus.open(partial)
    done = begun.about["blocks"]
    assert 0 < done < 8
    resumed = begun.thaw()
    _, tokens = learn_blocks(resumed, blocks, tokenizer, partial=partial, done=done, **options)
    assert tokens == (8 - done) * 200
    assert all(np.array_equal(a, b) for a, b in zip(whole.arrays, resumed.arrays, strict=True))


def test_an_unfinished_corpus_of_other_texts_is_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat\n")
    learned = Representative(memory_mb=1, orders=(1, 2), forgetting=0.0)
    Corpus.write(learned, tmp_path / "c.corpus.partial", {"sources": "others", "blocks": 1})
    command = ["build", "--model", folder, "--text", tmp_path / "t.txt", "--out", tmp_path / "c.corpus"]
    shown = run(*command)
    assert isinstance(shown.exception, CorpusFileError)
    assert "unfinished" in str(shown.exception)
    assert (tmp_path / "c.corpus.partial").exists()


def test_merging_joins_what_both_know(tmp_path: Path) -> None:
    one, other = table(), table()
    one.learn_text([1, 2, 3])
    other.learn_text([7, 8, 9])
    for name, learned in (("one", one), ("other", other)):
        Corpus.write(learned, tmp_path / name, {"model": "m"})
    shown = run("merge", tmp_path / "one", tmp_path / "other", "--memory-mb", 1, "--out", tmp_path / "both")
    assert shown.exit_code == 0, shown.output
    corpus = Corpus.open(tmp_path / "both")
    for context, following in (([1, 2], 3), ([7, 8], 9)):
        session = create_drafter("adaptive", memory_mb=1, corpus=corpus).start(context)
        assert session.draft(1).tokens.tolist() == [following]


def test_corpora_of_two_models_are_not_merged(tmp_path: Path) -> None:
    for size in (100, 200):
        Corpus.write(Representative(memory_mb=1, vocab_size=size), tmp_path / str(size), {})
    shown = run("merge", tmp_path / "100", tmp_path / "200", "--out", tmp_path / "both")
    assert "vocabulary size" in str(shown.exception)
    assert not (tmp_path / "both").exists()


def test_drafting_and_learning_leave_the_file_as_it_is(tmp_path: Path) -> None:
    learned = table()
    learned.learn_text(list(range(50)))
    Corpus.write(learned, tmp_path / "c", {})
    (tmp_path / "c").chmod(0o444)
    before = (tmp_path / "c").read_bytes()
    session = create_drafter("adaptive", memory_mb=1, corpus=tmp_path / "c").start([3, 4])
    for _ in range(20):
        tree = session.draft(8)
        assert len(tree) > 0
        session.observe(Outcome([4], tree))
    assert (tmp_path / "c").read_bytes() == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "text", "state", "missing"])
def test_a_damaged_or_foreign_corpus_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c"
    learned = table()
    learned.learn_text(list(range(50)))
    Corpus.write(learned, path, {})
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        content = content[:3000]
    elif damage == "text":
        content = bytearray(b"hello")
    path.write_bytes(content)
    if damage == "state":
        learned.save(path)
    elif damage == "missing":
        path.unlink()
    with pytest.raises(CorpusFileError):
        create_drafter("adaptive", corpus=path)


def test_a_corpus_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    Corpus.write(Representative(memory_mb=1, vocab_size=7), tmp_path / "c", {})
    shown = CliRunner().invoke(app, ["generate", "the cat", "--model", str(folder), "--corpus", str(tmp_path / "c")])
    assert isinstance(shown.exception, CorpusFileError)
    assert "vocabulary size is 7" in str(shown.exception)
    shown = CliRunner().invoke(app, ["trace", "replay", str(SHIPPED), "--corpus", str(tmp_path / "c")])
    assert isinstance(shown.exception, CorpusFileError)
    wrong = ["generate", "a", "--model", str(folder), "--drafter", "paper", "--corpus", str(tmp_path / "c")]
    assert "reads no corpus" in str(CliRunner().invoke(app, wrong).exception)


@given(st.lists(st.text(max_size=30), max_size=20), st.integers(1, 40))
def test_blocks_hold_every_byte_of_the_files_once(tmp_path_factory, lines: list[str], block: int) -> None:
    whole = "\n".join(line.replace("\0", "").replace("\r", "") for line in lines).encode()
    path = tmp_path_factory.mktemp("text") / "t"
    path.write_bytes(whole)
    old, corpus_text._BLOCK = corpus_text._BLOCK, block
    try:
        blocks = list(blocks_of_files([path]))
    finally:
        corpus_text._BLOCK = old
    assert sum(b.size for b in blocks) == len(whole)
    assert [b.position for b in blocks] == list(range(1, len(blocks) + 1))


def test_a_stray_zero_byte_costs_no_text(tmp_path: Path) -> None:
    whole = b"a line of text\n" * 40_000
    (tmp_path / "t").write_bytes(whole[:400_000] + b"\0" + whole[400_000:])
    assert "".join(block.text for block in blocks_of_files([tmp_path / "t"])).encode() == whole


def test_texts_are_gathered_into_blocks() -> None:
    blocks = list(blocks_of_texts(["word " * 30_000] * 5))
    assert [b.position for b in blocks] == [1, 2, 3]
    assert sum(b.text.count("word") for b in blocks) == 150_000


def test_texts_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusFileError, match="there is no text"):
        text_files([tmp_path / "nothing"])
    with pytest.raises(CorpusFileError, match="no files"):
        text_files([tmp_path])
    assert "give --text" in str(run("build", "--out", tmp_path / "c").exception)


def test_a_corpus_is_exported_for_llama_cpp(tmp_path: Path) -> None:
    """Read as llama.cpp does: four tokens, how many follow, each with its count."""
    table = Representative(memory_mb=1.0, orders=(1, 2), forgetting=0.0, vocab_size=100, fingerprint="x")
    text = [5, 6, 7, 5, 6, 7, 5, 6, 8, 9, 6, 7, 11]
    table.learn_text(np.array(text, np.int32), start=0)
    Corpus.write(table, tmp_path / "corpus", {})
    shown = CliRunner().invoke(app, ["corpus", "export", str(tmp_path / "corpus"), "--llamacpp", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    numbers, found, place = np.fromfile(tmp_path / "out", np.int32).tolist(), {}, 0
    while place < len(numbers):
        *ngram, count = numbers[place : place + 5]
        assert ngram[2:] == [-1, -1]
        pairs = numbers[place + 5 : place + 5 + 2 * count]
        found[tuple(ngram[:2])] = dict(zip(pairs[::2], pairs[1::2], strict=True))
        place += 5 + 2 * count
    expected: dict[tuple[int, int], dict[int, int]] = {}
    for a, b, c in zip(text, text[1:], text[2:], strict=False):
        expected.setdefault((a, b), {}).setdefault(c, 0)
        expected[a, b][c] += 1
    assert found == expected
    other = Representative(memory_mb=1.0, orders=(3,), forgetting=0.0, vocab_size=100, fingerprint="x")
    Corpus.write(other, tmp_path / "other", {})
    refused = CliRunner().invoke(app, ["corpus", "export", str(tmp_path / "other"), "--llamacpp", str(tmp_path / "o")])
    assert isinstance(refused.exception, CorpusFileError)
