"""What the vLLM engine is made of, as far as it runs without vLLM. test_in_vllm.py runs it there."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded.engines.vllm import AdedProposer, api, served
from aded.engines.vllm.requests import Requests
from aded.engines.vllm.settings import Settings
from aded.errors import AdedError, SettingsError, StateFileError, UnsupportedError
from aded.representative import Corpus, Representative

ROWS, LENGTH = 6, 200


def config(longest: int = 4, **aded: Any) -> Any:
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=longest),
        parallel_config=SimpleNamespace(data_parallel_rank=0, pipeline_parallel_size=1),
        scheduler_config=SimpleNamespace(max_num_seqs=ROWS),
        model_config=SimpleNamespace(max_model_len=LENGTH, get_vocab_size=lambda: 1000),
        # Drafts whatever they cost: how long a step takes here says nothing.
        additional_config={"aded": {"memory_mb": 1, "sequence_mb": 0.2, "max_draft_tokens": longest, **aded}},
    )


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_first_rank", lambda: True)
    monkeypatch.setattr(served, "_fingerprint", lambda model: "tokenizer")
    monkeypatch.setattr(api, "repair_sampling", lambda: [])


class Engine:
    """vLLM's side: rows of tokens, to which `texts` are appended as far as drafts agree with them."""

    def __init__(self, proposer: AdedProposer) -> None:
        self.proposer = proposer
        self.tokens = np.zeros((ROWS, LENGTH), np.int32)
        self.lengths = np.zeros(ROWS, np.int32)
        self.texts: list[list[int]] = []
        self.drafts: list[list[int]] = []

    def add(self, text: list[int], prompt: int) -> None:
        self.tokens[len(self.texts), :prompt] = text[:prompt]
        self.lengths[len(self.texts)] = prompt
        self.texts.append(text)
        self.drafts.append([])

    def remove(self, row: int) -> None:
        """As vLLM does: the last row moves into the gap."""
        last = len(self.texts) - 1
        for kept in (self.tokens, self.lengths):
            kept[row] = kept[last]
        for held in (self.texts, self.drafts):
            held[row] = held[last]
            held.pop()

    def step(self, partial: tuple[int, ...] = ()) -> list[int]:
        """One step; `partial` rows emit nothing. How many tokens each row emitted."""
        sampled = []
        for row, text in enumerate(self.texts):
            at, n = int(self.lengths[row]), 0
            if row not in partial:
                true = text[at : at + 1 + len(self.drafts[row])]
                while n < len(self.drafts[row]) and n < len(true) - 1 and self.drafts[row][n] == true[n]:
                    n += 1
                n = min(n + 1, len(true))
                self.tokens[row, at : at + n] = true[:n]
                self.lengths[row] += n
            sampled.append(text[at : at + n])
        self.drafts = self.proposer.propose(sampled, self.lengths, self.tokens, slot_mappings=None)
        assert len(self.drafts) == len(self.texts)
        return [len(tokens) for tokens in sampled]


def cycle(first: int, length: int = LENGTH) -> list[int]:
    return [first + i % 7 for i in range(length)]


def test_what_repeats_is_drafted_whichever_row_it_is_in() -> None:
    engine = Engine(AdedProposer(config()))
    for first in (10, 30, 50):
        engine.add(cycle(first), 14)
    for _ in range(6):
        engine.step()
    engine.remove(0)  # row 2 becomes row 0
    emitted = [engine.step() for _ in range(6)]
    assert sum(map(sum, emitted[1:])) > 2 * 5, "drafts were accepted after the rows had moved"
    assert all(len(draft) <= 4 for draft in engine.drafts)


def test_a_prompt_in_parts_and_a_preempted_request_disturb_nobody() -> None:
    engine = Engine(AdedProposer(config()))
    engine.add(cycle(10), 14)
    engine.add(cycle(30), 50)
    for _ in range(8):
        engine.step(partial=(1,))
        assert engine.drafts[1] == []
    for _ in range(8):
        emitted = engine.step()
    assert sum(emitted) > 2
    away = engine.texts[1], int(engine.lengths[1])
    engine.remove(1)
    engine.step()
    engine.add(*away)
    engine.step()
    assert sum(sum(engine.step()) for _ in range(5)) > 10


def test_no_draft_goes_past_the_longest_a_model_takes() -> None:
    engine = Engine(AdedProposer(config()))
    engine.add(cycle(10, LENGTH + 10), 14)
    while engine.lengths[0] < LENGTH:
        engine.step()
        assert engine.lengths[0] + len(engine.drafts[0]) < LENGTH or not engine.drafts[0]


def test_more_requests_than_slots_come_and_go() -> None:
    engine = Engine(AdedProposer(config()))
    for round_ in range(5):
        while len(engine.texts) < ROWS:
            engine.add(cycle(10 * (len(engine.texts) + 7 * round_)), 5 + round_)
        for _ in range(5):
            engine.step()
        for _ in range(3):
            engine.remove(1)


def test_what_was_learned_is_saved_and_serves_the_next_start(tmp_path: Any) -> None:
    file = tmp_path / "learned.safetensors"
    first = AdedProposer(config(state=str(file)))
    engine = Engine(first)
    engine.add(cycle(10), 2)
    for _ in range(60):
        engine.step()
    first.save()
    second = Engine(AdedProposer(config(state=str(file))))
    second.add(cycle(10), 3)
    second.step()
    assert sum(sum(second.step()) for _ in range(8)) > 8


def test_a_replica_starts_with_what_several_learned_and_saves_its_own(tmp_path: Any) -> None:
    start, named = tmp_path / "joined.safetensors", str(tmp_path / "{host}-{rank}.safetensors")
    before = Representative(memory_mb=1, successors=8, vocab_size=1000, fingerprint="tokenizer")
    for _ in range(3):
        before.learn_text(cycle(10, 60))
    before.save(start)
    kept = start.read_bytes()
    second = config(state=named, start=str(start))
    second.parallel_config.data_parallel_rank = 1
    proposer = AdedProposer(second)
    engine = Engine(proposer)
    engine.add(cycle(10), 3)
    engine.step()
    assert sum(sum(engine.step()) for _ in range(8)) > 8, "what it was given to start with is drafted"
    proposer.save()
    (own,) = (file for file in tmp_path.glob("*.safetensors") if file != start)
    assert own.name == f"{socket.gethostname()}-1.safetensors"
    assert start.read_bytes() == kept
    start.unlink()
    with pytest.raises(StateFileError, match="no state file"):
        AdedProposer(second)


def test_two_engines_with_one_state_file_lose_nothing_of_each_others(tmp_path: Any, caplog: Any) -> None:
    file = tmp_path / "learned.safetensors"
    proposers = [AdedProposer(config(state=str(file))) for _ in range(2)]
    for first, proposer in zip((10, 50), proposers, strict=True):
        engine = Engine(proposer)
        engine.add(cycle(first), 2)
        for _ in range(30):
            engine.step()
        proposer.save()
        proposer.save()
    (own,) = (found for found in tmp_path.glob("*.safetensors") if found != file)
    assert "another engine writes" in caplog.text
    for path, first in ((file, 10), (own, 50)):
        again = Engine(AdedProposer(config(state=str(path))))
        again.add(cycle(first), 3)
        again.step()
        assert sum(sum(again.step()) for _ in range(8)) > 8


def test_a_quiet_engine_saves_what_is_new(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_QUIET_S", 0.1)
    file = tmp_path / "learned.safetensors"
    engine = Engine(AdedProposer(config(state=str(file))))
    engine.add(cycle(10), 2)
    for _ in range(20):
        engine.step()
    until = time.monotonic() + 30
    while not file.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    assert file.is_file()


def test_a_damaged_state_or_one_of_another_tokenizer_is_refused(tmp_path: Any, monkeypatch: Any) -> None:
    file = tmp_path / "learned.safetensors"
    AdedProposer(config(state=str(file))).save()
    monkeypatch.setattr(served, "_fingerprint", lambda model: "another")
    with pytest.raises(StateFileError, match="tokenizer"):
        AdedProposer(config(state=str(file)))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StateFileError, match="damaged"):
        AdedProposer(config(state=str(file)))


def test_only_the_first_rank_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_first_rank", lambda: False)
    tokens = np.zeros((ROWS, LENGTH), np.int32)
    assert AdedProposer(config()).propose([[1], [2]], np.array([5, 5]), tokens) == [[], []]


def test_pipeline_stages_are_refused() -> None:
    two = config()
    two.parallel_config.pipeline_parallel_size = 2
    with pytest.raises(UnsupportedError, match="pipeline_parallel_size"):
        AdedProposer(two)


def test_a_fixed_draft_is_drafted_whatever_it_costs() -> None:
    engine = Engine(AdedProposer(config(max_draft_tokens=3)))
    engine.add(cycle(10), 30)
    emitted = [engine.step() for _ in range(8)]
    assert all(len(draft) == 3 for draft in engine.drafts)
    assert [n for (n,) in emitted[1:]] == [4] * 7
    engine = Engine(AdedProposer(config(max_draft_tokens=0)))
    engine.add(cycle(10), 30)
    assert [engine.step() for _ in range(3)] == [[1]] * 3


def test_another_interface_is_one_error_that_names_the_versions() -> None:
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        AdedProposer(SimpleNamespace())
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        AdedProposer(config()).propose(np.zeros((2, 1)), np.zeros(2), None)  # type: ignore[arg-type]


def test_the_number_of_tokens_in_a_pass_is_read_from_where_they_lie() -> None:
    layer = {"layers.0": np.zeros(24), "layers.1": np.zeros(24)}
    assert api._scheduled(layer) == 24
    assert api._scheduled([layer, {"layers.0": np.zeros(8)}]) == 32
    assert api._scheduled(None) is None
    assert api._scheduled({}) is None


def test_two_engines_read_one_corpus_and_neither_changes_it(tmp_path: Any) -> None:
    file = tmp_path / "shared.corpus"
    table = Representative(memory_mb=1, vocab_size=1000, fingerprint="tokenizer")
    for _ in range(3):
        table.learn_text(range(100, 160))
    Corpus.write(table, file, {})
    before = file.read_bytes()
    engines = [Engine(AdedProposer(config(corpus=str(file)))) for _ in range(2)]
    for first, engine in zip((100, 120), engines, strict=True):
        engine.add(list(range(first, first + 40)), 10)
        engine.step()
        engine.step()  # plain ones, to learn what they cost
    steps = [[sum(engine.step()) for _ in range(4)] for engine in engines]
    assert min(map(sum, steps)) > 8, "what neither was told stands in the corpus"
    assert file.read_bytes() == before
    other = Representative(memory_mb=1, vocab_size=1000, fingerprint="another")
    Corpus.write(other, tmp_path / "other.corpus", {})
    with pytest.raises(AdedError, match="tokenizer"):
        AdedProposer(config(corpus=str(tmp_path / "other.corpus")))


def test_settings_come_from_the_configuration_or_the_environment() -> None:
    environment = {"ADED_MEMORY_MB": "8", "ADED_STATE": "kept"}
    assert Settings.read({"memory_mb": 16}, environment) == Settings(memory_mb=16.0, state="kept")
    for given_, environment in (
        ({"memry_mb": 1}, {}),
        ({}, {"ADED_MIN_PROBABILITY": "much"}),
        ({"min_probability": 2}, {}),
        ({"share": "all"}, {}),
        ({"max_draft_tokens": "-1"}, {}),
        ({"max_draft_tokens": "many"}, {}),
        ({"sequence_mb": 0}, {}),
        ("state", {}),
    ):
        with pytest.raises(SettingsError):
            Settings.read(given_, environment)
    assert issubclass(SettingsError, AdedError)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_requests_keep_their_slots_in_any_order(data: st.DataObject) -> None:
    """Rows are moved at will between steps: each request that goes on finds its slot, and no two share one."""
    requests, draw = Requests(ROWS), data.draw
    tokens = np.zeros((ROWS, LENGTH), np.int32)
    texts = {name: np.random.default_rng(name).integers(1, 999, LENGTH) for name in range(20)}
    running: dict[int, int] = {}  # name -> length
    slot_of: dict[int, int] = {}
    for _ in range(draw(st.integers(1, 8))):
        for name in draw(st.lists(st.sampled_from(sorted(texts)), max_size=3)):
            if len(running) < ROWS and name not in running and name not in slot_of:
                running[name] = draw(st.integers(1, 30))
        order = draw(st.permutations(sorted(running)))
        fresh = [1 if name not in slot_of else draw(st.integers(1, 3)) for name in order]
        for row, (name, n) in enumerate(zip(order, fresh, strict=True)):
            running[name] += n
            tokens[row] = texts[name]
        lengths = np.array([running[name] for name in order], np.int64)
        slots, new = requests.find(tokens, np.arange(len(order)), lengths, np.array(fresh, np.int64))
        assert len(set(slots.tolist())) == len(order)
        for name, slot, is_new in zip(order, slots.tolist(), new.tolist(), strict=True):
            assert is_new == (name not in slot_of)
            assert slot_of.setdefault(name, slot) == slot
        for name in draw(st.lists(st.sampled_from(order), unique=True)) if order else []:
            del running[name]
