"""What the vLLM engine is made of, as far as it runs without vLLM. tests/serving/ runs it in vLLM."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded.engines.vllm import AdedProposer, proposer
from aded.engines.vllm.acceptance import Acceptance
from aded.engines.vllm.requests import Requests
from aded.engines.vllm.settings import Settings
from aded.engines.vllm.sharing import SharedBudget
from aded.engines.vllm.times import StepTimes
from aded.errors import AdedError, SettingsError, StateFileError, UnsupportedError
from aded.representative import Corpus, Representative

ROWS, LENGTH = 6, 200


def config(longest: int = 4, **aded: Any) -> Any:
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=longest),
        parallel_config=SimpleNamespace(data_parallel_rank=0),
        scheduler_config=SimpleNamespace(max_num_seqs=ROWS),
        model_config=SimpleNamespace(max_model_len=LENGTH, get_vocab_size=lambda: 1000),
        additional_config={"aded": {"memory_mb": 1, "sequence_mb": 0.2, **aded}},
    )


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "_first_rank", lambda: True)
    monkeypatch.setattr(proposer, "_fingerprint", lambda model: "tokenizer")


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


def test_more_requests_than_places_come_and_go() -> None:
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


def test_a_quiet_engine_saves_what_is_new(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "_QUIET_S", 0.1)
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
    monkeypatch.setattr(proposer, "_fingerprint", lambda model: "another")
    with pytest.raises(StateFileError, match="tokenizer"):
        AdedProposer(config(state=str(file)))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StateFileError, match="damaged"):
        AdedProposer(config(state=str(file)))


def test_only_the_first_rank_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "_first_rank", lambda: False)
    tokens = np.zeros((ROWS, LENGTH), np.int32)
    assert AdedProposer(config()).propose([[1], [2]], np.array([5, 5]), tokens) == [[], []]


def test_another_interface_is_one_error_that_names_the_versions() -> None:
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        AdedProposer(SimpleNamespace())
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        AdedProposer(config()).propose(np.zeros((2, 1)), np.zeros(2), None)  # type: ignore[arg-type]


def test_the_number_of_tokens_in_a_pass_is_read_from_where_they_lie() -> None:
    layer = {"layers.0": np.zeros(24), "layers.1": np.zeros(24)}
    assert proposer._scheduled(layer) == 24
    assert proposer._scheduled([layer, {"layers.0": np.zeros(8)}]) == 32
    assert proposer._scheduled(None) is None
    assert proposer._scheduled({}) is None


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
        ({}, {"ADED_LEAST": "much"}),
        ({"least": 2}, {}),
        ({"sequence_mb": 0}, {}),
        ("state", {}),
    ):
        with pytest.raises(SettingsError):
            Settings.read(given_, environment)
    assert issubclass(SettingsError, AdedError)


def cost(times: StepTimes, requests: int, drafted: int) -> float:
    """Of a step, where nothing drafted is accepted."""
    return float(times.each(np.full(drafted + 1, float(requests)))[drafted]) * requests


def test_step_times_follow_the_machine() -> None:
    times = StepTimes()
    assert not times.knows(4)
    for _ in range(20):
        times.learn(4, 0, 0, 4, 0.010)
        times.learn(4, 8, 0, 4, 0.030)
    assert times.knows(4)
    assert [round(cost(times, 4, n), 3) for n in (0, 4, 8, 36)] == [0.010, 0.020, 0.030, 0.030]
    for _ in range(60):
        times.learn(4, 0, 0, 4, 0.020)
    assert cost(times, 4, 0) == pytest.approx(0.020, rel=0.05)
    for _ in range(600):
        times.learn(4, 8, 0, 4, 0.030)
    assert not times.knows(4)


def test_a_plain_step_is_not_mistaken_for_one_with_few_drafts() -> None:
    times = StepTimes()
    for _ in range(20):
        times.learn(16, 0, 0, 16, 0.044)
        times.learn(16, 1, 0, 16, 0.058)
        times.learn(16, 2, 0, 17, 0.064)
    assert cost(times, 16, 0) == pytest.approx(0.044)
    assert cost(times, 16, 2) > 0.058


def test_a_size_that_was_fast_by_chance_is_not_sought() -> None:
    times = StepTimes()
    for _ in range(10):
        for drafted, seconds in ((0, 0.050), (2, 0.058), (8, 0.070), (12, 0.082)):
            times.learn(16, drafted, 0, 16, seconds)
    times.learn(16, 5, 0, 16, 0.030)
    costs = [cost(times, 16, n) for n in range(13)]
    assert costs == sorted(costs)
    assert costs[5] > 0.050


def test_two_disturbed_steps_are_not_believed_for_long() -> None:
    times = StepTimes()
    for seconds in (0.140, 0.120):
        times.learn(4, 0, 0, 4, seconds)
    for _ in range(31):
        times.learn(4, 8, 0, 8, 0.070)
    assert times.knows(4)
    times.learn(4, 8, 0, 8, 0.070)
    assert not times.knows(4), "so it is tried again"
    for _ in range(2):
        times.learn(4, 0, 0, 4, 0.050)
    for _ in range(40):
        times.learn(4, 8, 0, 8, 0.070)
    assert times.knows(4), "what was tried again is believed longer"
    assert cost(times, 4, 0) == pytest.approx(0.050)


def test_drafts_that_are_free_by_themselves_are_not_where_steps_are_full_of_prompts() -> None:
    """To 64 tokens a step costs the same, and beyond in proportion."""
    quiet, busy = StepTimes(), StepTimes()
    for _ in range(40):
        for times, full in ((quiet, 0), (busy, 1)):
            times.learn(16, 0, 0, 16, 0.010)
            for drafted, prompts in ((8, 100 * full), (16, 400 * full), (32, 1600 * full)):
                times.learn(16, drafted, prompts, 16 + drafted // 2, 0.010 * max(16 + drafted + prompts, 64) / 64)
    one_in_ten = 16 + 0.1 * np.arange(33)
    assert np.argmin(quiet.each(one_in_ten)) == 32
    assert np.argmin(busy.each(one_in_ten)) < 8


def test_sure_drafts_are_verified_and_unlikely_ones_only_where_they_are_free() -> None:
    places, paths = np.array([0, 1]), np.array([[0.95, 0.9, 0.85], [0.3, 0.1, 0.0]], np.float32)
    flat, steep = SharedBudget(2, 3), SharedBudget(2, 3)
    for _ in range(10):
        for tokens in (2, 3, 5, 7):
            flat.times.learn(2, tokens - 2, 0, 2, 0.010)
            steep.times.learn(2, tokens - 2, 0, 2, 0.010 + 0.003 * (tokens - 2))
    assert flat.choose(places, paths).tolist() == [3, 2]
    assert steep.choose(places, paths).tolist() == [3, 0]
    for _ in range(200):  # the surest is never accepted
        steep.learn(places, np.array([0, 0]))
    assert steep.choose(places, paths).tolist() == [0, 0]


def test_equal_tokens_are_taken_draft_by_draft_and_as_many_as_pay() -> None:
    budget, places = SharedBudget(2, 4), np.arange(2)
    for _ in range(10):
        for drafted, seconds in ((0, 0.010), (3, 0.010), (4, 0.090)):
            budget.times.learn(2, drafted, 0, 2, seconds)
    assert budget.choose(places, np.full((2, 4), 0.7, np.float32)).tolist() == [3, 0]


def test_acceptance_follows_what_came_of_drafts() -> None:
    acceptance, places, verified = Acceptance(3, 4), np.arange(2), np.full(3, 4)
    # Of the first request's drafts the first token is always right and the rest never; the second's are all wrong.
    paths = np.array([[0.4, 0.4, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4]], np.float32)
    assert acceptance.correct(places, paths) == pytest.approx(paths)
    for _ in range(300):
        acceptance.correct(places, paths)
        acceptance.learn(places, np.array([1, 0]), verified)
    first, second = acceptance.correct(places, paths)
    assert first[0] > 2 * first[1]
    assert first[0] > 5 * second[0]
    assert (np.diff(first) <= 0).all()
    # A third is like both together: the first token right half of the time.
    acceptance.begin(2)
    assert acceptance.correct(np.array([2]), paths[:1])[0, 0] == pytest.approx(0.5, abs=0.15)
    # And who was wrong is tried again in the end.
    for _ in range(500):
        acceptance.doubt(places)
    assert acceptance.correct(places, paths)[1, 0] > 2 * second[0]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_corrected_path_is_a_probability_and_never_rises(data: st.DataObject) -> None:
    acceptance, rows = Acceptance(4, 5), np.arange(4)
    for _ in range(data.draw(st.integers(1, 30))):
        steps = data.draw(st.lists(st.lists(st.floats(0.05, 1.0), max_size=5), min_size=4, max_size=4))
        paths = np.zeros((4, 5), np.float32)
        for i, probabilities in enumerate(steps):
            paths[i, : len(probabilities)] = np.cumprod(probabilities)
        corrected = acceptance.correct(rows, paths)
        assert ((corrected >= 0) & (corrected <= 1)).all()
        assert (np.diff(corrected, axis=1) <= 0).all()
        assert ((corrected > 0) == (paths > 0)).all()
        verified = np.array([data.draw(st.integers(0, len(probabilities))) for probabilities in steps])
        accepted = np.array([data.draw(st.integers(0, n)) for n in verified.tolist()])
        acceptance.learn(rows, accepted, verified)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_requests_keep_their_places_in_any_order(data: st.DataObject) -> None:
    """Rows are moved at will between steps: each request that goes on finds its place, and no two share one."""
    requests, draw = Requests(ROWS), data.draw
    tokens = np.zeros((ROWS, LENGTH), np.int32)
    texts = {name: np.random.default_rng(name).integers(1, 999, LENGTH) for name in range(20)}
    running: dict[int, int] = {}  # name -> length
    place_of: dict[int, int] = {}
    for _ in range(draw(st.integers(1, 8))):
        for name in draw(st.lists(st.sampled_from(sorted(texts)), max_size=3)):
            if len(running) < ROWS and name not in running and name not in place_of:
                running[name] = draw(st.integers(1, 30))
        order = draw(st.permutations(sorted(running)))
        fresh = [1 if name not in place_of else draw(st.integers(1, 3)) for name in order]
        for row, (name, n) in enumerate(zip(order, fresh, strict=True)):
            running[name] += n
            tokens[row] = texts[name]
        lengths = np.array([running[name] for name in order], np.int64)
        places, new = requests.find(tokens, np.arange(len(order)), lengths, np.array(fresh, np.int64))
        assert len(set(places.tolist())) == len(order)
        for name, place, is_new in zip(order, places.tolist(), new.tolist(), strict=True):
            assert is_new == (name not in place_of)
            assert place_of.setdefault(name, place) == place
        for name in draw(st.lists(st.sampled_from(order), unique=True)) if order else []:
            del running[name]
