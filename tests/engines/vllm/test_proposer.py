"""What the vLLM engine is made of, as far as it runs without vLLM. test_in_vllm.py runs it there."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded.drafters.base import create
from aded.engines.base import state_keeper
from aded.engines.base.asked import Asked
from aded.engines.base.settings import Settings
from aded.engines.base.slots import NamedSlots
from aded.engines.base.state_keeper import StateKeeper
from aded.engines.vllm import AdedProposer, api, served
from aded.engines.vllm.engine import StepDrafter
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
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[StateKeeper] = []
    watch = StateKeeper.watch
    monkeypatch.setattr(StateKeeper, "watch", lambda self, *given: (made.append(self), watch(self, *given)))
    monkeypatch.setattr(served, "_first_rank", lambda: True)
    monkeypatch.setattr(served, "_fingerprint", lambda model: "tokenizer")
    monkeypatch.setattr(api, "repair_sampling", lambda: [])
    monkeypatch.setattr(api, "_hear_of_steps", lambda: None)
    yield
    for keeper in made:  # what it says afterwards would stand among the output of other tests
        keeper.close()


class Engine:
    """vLLM's side: rows of tokens, to which `texts` are appended as far as drafts agree with them."""

    def __init__(self, proposer: AdedProposer) -> None:
        self.proposer = proposer
        self.tokens = np.zeros((ROWS, LENGTH), np.int32)
        self.lengths = np.zeros(ROWS, np.int32)
        self.texts: list[list[int]] = []
        self.drafts: list[list[int]] = []
        self.names: list[str] = []
        self.requests: dict[str, Any] = {}  # those that have not ended
        self.input_batch = SimpleNamespace(req_ids=self.names)
        self.cut: int | None = None  # tokens of a draft that are verified at most
        self.prompts = 0  # tokens of prompts in the next step

    def add(
        self, text: list[int], prompt: int, name: str | None = None, adapter: str | None = None, **extra: Any
    ) -> None:
        self.tokens[len(self.texts), :prompt] = text[:prompt]
        self.lengths[len(self.texts)] = prompt
        self.texts.append(text)
        self.drafts.append([])
        self.names.append(name or f"request {len(self.requests)} from {text[0]} of {prompt}")
        lora = None if adapter is None else SimpleNamespace(lora_name=adapter)
        sampling = SimpleNamespace(extra_args=extra or None)
        self.requests[self.names[-1]] = SimpleNamespace(lora_request=lora, sampling_params=sampling)

    def remove(self, row: int, *, ended: bool = True) -> str:
        """As vLLM does: the last row moves into the gap."""
        last, name = len(self.texts) - 1, self.names[row]
        for kept in (self.tokens, self.lengths):
            kept[row] = kept[last]
        for held in (self.texts, self.drafts, self.names):
            held[row] = held[last]  # type: ignore[index]
            held.pop()
        if ended:
            del self.requests[name]
        return name

    def step(self, partial: tuple[int, ...] = ()) -> list[int]:
        """One step; `partial` rows emit nothing. How many tokens each row emitted."""
        sampled, verified = [], {}
        for row, text in enumerate(self.texts):
            at, n = int(self.lengths[row]), 0
            if row not in partial:
                draft = self.drafts[row][: self.cut]
                verified[self.names[row]] = draft
                true = text[at : at + 1 + len(draft)]
                while n < len(draft) and n < len(true) - 1 and draft[n] == true[n]:
                    n += 1
                n = min(n + 1, len(true))
                self.tokens[row, at : at + n] = true[:n]
                self.lengths[row] += n
            sampled.append(text[at : at + n])
        total = len(verified) + sum(map(len, verified.values())) + self.prompts
        scheduled = SimpleNamespace(scheduled_spec_decode_tokens=verified, total_num_scheduled_tokens=total)
        self.proposer.ran = api.ran_of(self, scheduled)
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
    name = engine.remove(1, ended=False)
    engine.step()
    engine.add(*away, name)
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
    monkeypatch.setattr(state_keeper, "_QUIET_S", 0.1)
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
    engine = Engine(AdedProposer(config()))
    engine.add(cycle(10), 14)
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        engine.proposer.propose([[1]], engine.lengths, engine.tokens)
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        api.ran_of(engine, SimpleNamespace(scheduled_spec_decode_tokens={}))
    engine.proposer.ran = api.ran_of(
        engine, SimpleNamespace(scheduled_spec_decode_tokens={}, total_num_scheduled_tokens=1)
    )
    with pytest.raises(UnsupportedError, match=r"0\.32"):
        engine.proposer.propose(np.zeros((2, 1)), np.zeros(2), None)  # type: ignore[arg-type]


def step_drafter(engine: Engine) -> StepDrafter:
    found = engine.proposer._served.step
    assert found is not None
    return found


def test_what_was_not_verified_is_not_learned_as_refused() -> None:
    engine = Engine(AdedProposer(config(max_draft_tokens="auto")))
    engine.add(cycle(10), 30)
    evidence = step_drafter(engine)._speculator.budget.evidence
    assert evidence is not None
    engine.step()
    before = evidence.classes.copy()
    engine.drafts, engine.cut = [[9, 9, 9]], 0  # the scheduler had no room for them
    step_drafter(engine)._verified[:, :3] = 0.9
    engine.step()
    np.testing.assert_array_equal(evidence.classes, before)


def test_tokens_of_prompts_in_a_pass_are_known_to_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(AdedProposer(config()))
    engine.add(cycle(10), 30)
    told: list[Any] = []
    observe = step_drafter(engine)._speculator.observe
    monkeypatch.setattr(
        step_drafter(engine)._speculator,
        "observe",
        lambda *given, prompt_tokens: (told.append(prompt_tokens), observe(*given, prompt_tokens=prompt_tokens)),
    )
    engine.prompts = 29
    engine.step()  # its prompt: nobody else was there, so the time says nothing
    engine.prompts = 0
    for _ in range(3):
        engine.step()
    engine.add(cycle(30), 40)
    engine.prompts = 39
    engine.step()
    assert told == [None, 0, 0, 0, 40]  # a prompt's last token is among them


def test_the_same_name_again_is_another_request() -> None:
    engine = Engine(AdedProposer(config()))
    engine.add(cycle(10), 30, "a")
    for _ in range(4):
        engine.step()
    engine.remove(0)
    engine.add(cycle(50), 30, "a")
    engine.step()
    assert all(10 * 5 <= token < 57 for token in engine.drafts[0])
    assert engine.step() == [5]


def test_tenants_are_drafted_for_in_one_step_and_know_nothing_of_each_other() -> None:
    """What one tenant was answered is drafted for that tenant alone, and what nobody is to know for nobody."""
    secret, open_ = list(range(100, 160)), list(range(300, 360))
    engine = Engine(AdedProposer(config()))
    engine.add(secret, 2, aded_tenant="a")
    engine.add(open_, 2)
    engine.add(list(range(500, 560)), 2, aded_share="nothing")
    for _ in range(50):
        engine.step()
    for _ in range(3):
        engine.remove(0)

    def drafted(text: list[int], **extra: Any) -> bool:
        """Whether a request that begins so is drafted on to the end of what was said."""
        engine.add(text, 3, **extra)
        engine.step()
        found = engine.step()[-1] > 1
        engine.remove(len(engine.texts) - 1)
        engine.step()
        return found

    assert drafted(secret, aded_tenant="a")
    assert not drafted(secret, aded_tenant="b")
    assert not drafted(secret)
    assert drafted(open_)
    assert not drafted(open_, aded_tenant="a"), "a tenant's table is in place of the common one"
    assert not drafted(list(range(500, 560)))
    assert not drafted(list(range(500, 560)), aded_tenant="a")


def test_adapters_have_a_table_each() -> None:
    engine = Engine(AdedProposer(config()))
    said = {None: list(range(100, 160)), "x": [101, *range(200, 260)], "y": [101, *range(400, 460)]}
    for adapter, text in said.items():
        engine.add(text, 1, adapter=adapter)
    for _ in range(50):
        engine.step()
    for _ in said:
        engine.remove(0)
    for adapter, text in said.items():
        engine.add(text, 3, adapter=adapter)
    engine.step()
    assert [n > 1 for n in engine.step()] == [True] * 3
    assert [draft[0] // 100 for draft in engine.drafts] == [1, 2, 4]


def test_a_request_can_do_without_drafts_and_leaves_nothing_behind() -> None:
    engine = Engine(AdedProposer(config()))
    engine.add(cycle(10), 30, aded_drafts="off")
    engine.add(cycle(30), 30)
    engine.add(cycle(50), 30, aded_unknown="a request of an older client")
    for _ in range(20):
        engine.step()
        assert not engine.drafts[0]
        assert not engine.drafts[2], "what it asks is not known, so it gets the least"
    assert engine.drafts[1]
    table = engine.proposer._served.drafter.representative  # type: ignore[attr-defined]
    known = set(table.arrays.successors[table.arrays.weights > 0].tolist())
    assert 30 in known
    assert not known & {10, 50}


def test_the_tables_of_tenants_are_bounded_however_many_run_at_once() -> None:
    engine = Engine(AdedProposer(config(tenant_mb=1, tenants_mb=2)))
    for i in range(6):
        engine.add(cycle(10 * i + 10), 30, aded_tenant=str(i))
    for _ in range(12):
        engine.step()
    assert all(engine.drafts), "each is drafted for from what it says itself"
    shared = step_drafter(engine)._speculator._drafts._shared  # type: ignore[attr-defined]
    assert len({id(one.drafter.representative) for one in shared.values()}) <= 1 + 2 + 2 + 2
    sizes = {id(one.drafter.representative): one.drafter.representative.nbytes for one in shared.values()}
    assert sum(sizes.values()) < (1 + 2 * 2 + 1) * 2**20
    del shared
    for _ in range(6):
        engine.remove(0)
    left = engine.proposer._served.drafter._tenants._left  # type: ignore[attr-defined]
    engine.step()
    assert not len(left), "their tables went with their requests"


def test_a_thousand_requests_stay_within_the_memory_that_is_set() -> None:
    many = config(sequence_mb=2, sequences_mb=64)
    many.scheduler_config.max_num_seqs = 1024
    proposer = AdedProposer(many)
    pool = proposer._served.step._speculator._drafts._pool  # type: ignore[union-attr,attr-defined]
    assert 48 * 2**20 < pool.nbytes <= 64 * 2**20
    assert len(pool.keys) == 1024
    few = AdedProposer(config(sequence_mb=2, sequences_mb=64))._served.step
    assert few._speculator._drafts._pool.nbytes <= ROWS * 2 * 2**20  # type: ignore[union-attr,attr-defined]


def test_what_a_request_asks_is_read_or_refused() -> None:
    assert Asked.read({"aded_tenant": "a", "aded_share": "nothing", "other": 1}) == Asked("a", "nothing")
    assert Asked.read(None, "x") == Asked(adapter="x")
    for wrong in ({"aded_tenant": ""}, {"aded_tenant": 3}, {"aded_share": "all"}, {"aded_drafts": 0}, {"aded": "a"}):
        with pytest.raises(SettingsError, match="aded_"):
            Asked.read(wrong)
        assert Asked.or_nothing(wrong) == Asked(drafts=False)
    one_for_all = create("token-recycling")
    assert Asked().drafter(one_for_all) is None
    assert Asked("a").drafter(one_for_all).start([1, 2, 1]).draft(4).tokens.tolist() == []  # type: ignore[union-attr]


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


def test_the_plugin_brings_nothing_heavy_into_servers_that_do_not_ask_for_it() -> None:
    """vLLM's processor backend cannot start a worker once llvmlite, which numba brings, is imported."""
    check = (
        "import sys, aded.vllm_plugin, aded.sglang_plugin; assert not {'numba', 'llvmlite', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


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
@given(st.lists(st.tuples(st.sampled_from(["run", "end"]), st.sets(st.integers(0, 12), max_size=4)), max_size=20))
def test_requests_keep_their_slots_while_there_is_room(events: list[tuple[str, set[int]]]) -> None:
    slots, held = NamedSlots(ROWS), dict[str, int]()
    for what, numbers in events:
        names = [str(number) for number in numbers]
        if what == "end":
            assert sorted(slots.release(names)) == sorted(held.pop(name) for name in names if name in held)
            continue
        found = {name: slots.find(name) for name in names}
        assert all(slot == held.get(name) for name, slot in found.items())
        for name in [name for name, slot in found.items() if slot is None]:
            slot = slots.give(name)
            held = {other: kept for other, kept in held.items() if kept != slot} | {name: slot}
        assert len({held[name] for name in names}) == len(names), "none of them was given another's"
    assert sorted(slots) == sorted(held)
    assert sorted(slots.clear()) == sorted(held.values())
