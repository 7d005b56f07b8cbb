"""Drafts and learning by the device's kernels against the host's, in Triton's interpreter (`make device-test`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aded.batch import ChainOutcomes, Chains, Limits
from aded.budget import Acceptance
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.adaptive_slots import AdaptiveSlots
from aded.engines.base.asked import Asked
from aded.representative import Corpus, Representative
from support.interpreted import device_module

LONGEST, LENGTH, VOCABULARY, LEAST = 3, 120, 30, 0.05
CPU = torch.device("cpu")
_PLAIN = Asked()
TABLE = ("keys", "counts", "successors", "weights")


def drafter(orders: tuple[int, ...] = (0, 1, 2, 3), **options: Any) -> AdaptiveDrafter:
    options["representative"] = Representative(memory_mb=0.05, successors=8, orders=orders)
    given = {"sequence_mb": 0.02, "sequence_successors": 4, "tenant_mb": 0.02}
    return AdaptiveDrafter(**{**given, "tenants_mb": 0.05, **options})


def on_device(made: AdaptiveDrafter, requests: int, **options: Any) -> Any:
    given = {"requests": requests, "max_length": LENGTH, "vocabulary": VOCABULARY, "longest": LONGEST, "most": LONGEST}
    given |= {"min_probability": LEAST, "device": CPU, "programs": 3}
    return device_module("drafter").DeviceDrafter(made, **{**given, **options})


def texts(requests: int, seed: int = 0) -> NDArray[np.int32]:
    """Texts that repeat themselves, but not always: int32 (requests, length)."""
    random = np.random.default_rng(seed)
    phrases = random.integers(0, VOCABULARY, (requests, 11))
    whole = np.tile(phrases, LENGTH // 11 + 1)[:, :LENGTH]
    return np.where(random.random(whole.shape) < 0.12, 5, whole).astype(np.int32)


class Both:
    """The same requests on the host and on the device, step by step."""

    def __init__(self, requests: int, host: AdaptiveDrafter, there: AdaptiveDrafter, **options: Any) -> None:
        self.tokens, self.ends = texts(requests), np.zeros(requests, np.int64)
        self.host, self.device = AdaptiveSlots(host, requests), on_device(there, requests, **options)
        self.acceptance = Acceptance(requests)
        self.paths = np.zeros((requests, LONGEST), np.float32)
        self.accepted = self.refused = 0
        self.drafts: NDArray[np.int32] = np.zeros((requests, LONGEST), np.int32)

    def start(self, slot: int, prompt: int, asked: Asked = _PLAIN) -> None:
        self.host.start(slot, self.tokens[slot, :prompt].tolist(), asked.drafter(self.host._drafter))
        self.device.start(slot, torch.from_numpy(self.tokens), prompt, asked)
        self.acceptance.start(slot)
        self.ends[slot], self.paths[slot] = prompt, 0

    def step(self, slots: list[int], emitted: list[int] | None = None) -> None:
        """These requests emit so many tokens, or as many as agree with what was drafted and one more."""
        rows, length = np.array(slots), LENGTH
        if emitted is None:
            emitted, verified = [], []
            for slot in slots:
                n = int((self.paths[slot] > 0).sum())
                end, draft = self.ends[slot], self.drafts[slot, :n]
                same = np.cumprod(self.tokens[slot, end : end + n] == draft).sum()
                emitted.append(int(same) + 1)
                verified.append(n)
        else:
            verified = [n - 1 for n in emitted]
            self.paths[rows] = 0.0
            self.device._paths[rows] = 0.0
        self.ends[rows] += emitted
        fresh, counts = np.array(emitted), np.array(verified)
        recent = np.full((len(rows), length), -1, np.int32)
        for i, slot in enumerate(slots):
            recent[i, length - self.ends[slot] :] = self.tokens[slot, : self.ends[slot]]
        self.accepted += int((fresh - 1).sum())
        self.refused += int((counts + 1 - fresh).sum())
        outcomes = ChainOutcomes(recent, fresh, self.paths[rows])
        self.acceptance.observe(rows, outcomes)
        self.host.observe(rows, outcomes)()
        given = [torch.from_numpy(array) for array in (rows, fresh, counts + 1 - fresh, self.ends[rows])]
        ids, likely = self.device.step(*given, torch.from_numpy(self.tokens))
        depth = np.minimum(LONGEST, LENGTH - self.ends[rows] - 1)
        chosen = self.host.draft(rows, LONGEST, Limits(depth, trees=False), LEAST)
        assert isinstance(chosen, Chains)
        self.check(rows, chosen if emitted == [1] else None, ids.numpy(), likely.numpy())
        self.drafts[rows], self.paths[rows] = ids.numpy(), self.device._paths[rows].numpy()

    def check(self, rows: Any, chosen: Chains | None, ids: Any, likely: Any) -> None:
        """Both drafted the same; of two tokens that are as likely, either. Of several emitted tokens it is judged at
        once what they teach the shares: then these differ, and with them drafts."""
        paths = self.device._paths[rows].numpy()
        corrected = self.acceptance.correct(rows, Chains(ids.astype(np.int32), paths).nodes())
        along = np.cumprod(likely.astype(np.float64), axis=1)
        np.testing.assert_allclose(along[paths > 0], corrected, rtol=1e-4)
        last = self.tokens[rows, self.ends[rows] - 1]
        for i in range(len(rows)):
            assert ids[i][paths[i] == 0].tolist() == [last[i]] * int((paths[i] == 0).sum())
            for j in range(LONGEST if chosen is not None else 0):
                assert chosen is not None
                assert paths[i, j] == pytest.approx(chosen.paths[i, j], rel=1e-5)
                if paths[i, j] == 0 or ids[i, j] != chosen.ids[i, j]:
                    break

    def same_tables(self, shares: bool) -> None:
        """What was learned is the same, bit by bit."""
        tables, drafter = self.device.tables, self.host._drafter
        own = self.host._pool
        assert own is not None
        for name in TABLE:
            kept = getattr(own, name).reshape(-1)
            np.testing.assert_array_equal(getattr(tables, name)[: len(kept)].numpy().view(kept.dtype), kept, name)
        mirror = Representative(memory_mb=0.05, successors=8)
        tables.get(0, mirror.arrays)
        for name in TABLE:
            np.testing.assert_array_equal(getattr(mirror.arrays, name), getattr(drafter.representative.arrays, name))
        if shares:
            weights = drafter.weights
            layers, orders, cells = weights.shares.shape
            for array, wanted, near in ((tables.seen, weights.seen, 0), (tables.shares, weights.shares, 1e-5)):
                by_place = array[0, : tables.count, :cells].numpy().reshape(orders, layers, cells)
                np.testing.assert_allclose(by_place.transpose(1, 0, 2)[:, ::-1], wanted, rtol=near)


def test_one_text_is_learned_and_drafted_as_on_the_host() -> None:
    both = Both(1, *(drafter(orders=(0, 1, 2, 3, 5, 8)) for _ in range(2)))
    both.start(0, 26)
    for _ in range(9):
        both.step([0], [1])
    both.same_tables(shares=True)
    assert (both.paths > 0).any()


def test_many_requests_are_learned_as_on_the_host_by_however_many_programs() -> None:
    made = [Both(3, drafter(), drafter(), programs=programs) for programs in (1, 3)]
    for both in made:
        for slot in range(3):
            both.start(slot, 12 + slot)
        for n in range(3):
            both.step([0, 1, 2] if n % 3 else [2, 1], [1 + (n + i) % 3 for i in range(3 if n % 3 else 2)])
        both.same_tables(shares=False)
    one, other = (both.device.tables for both in made)
    for name in (*TABLE, "shares", "seen"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_accepted_and_refused_drafts_correct_the_next_ones() -> None:
    both = Both(2, drafter(), drafter())
    for slot in range(2):
        both.start(slot, 30)
    for _ in range(7):
        both.step([0, 1])
    found, evidence = both.device.evidence(), both.acceptance.evidence
    np.testing.assert_allclose(found.classes, evidence.classes, rtol=1e-4)
    np.testing.assert_allclose(found.every, evidence.every, rtol=1e-4)
    np.testing.assert_allclose(both.device._sequences.numpy(), both.acceptance._sequences, rtol=1e-4)
    assert both.accepted > 6
    assert both.refused > 1
    facts = both.device.facts()
    assert facts["steps"]["drafted"] > 5
    assert facts["contexts"] == both.host._drafter.representative.used


def test_a_draft_ends_with_the_model_s_length_and_vocabulary() -> None:
    device = on_device(drafter(), 1, vocabulary=24, most=2)
    tokens = torch.tensor([[1, 2, 23, 24, 25] * 24], dtype=torch.int32)
    device.start(0, tokens, 60, Asked())
    one = torch.ones(1, dtype=torch.int32)

    def step(end: int, emitted: int = 1) -> list[int]:
        device.step(one * 0, one * emitted, one * 0, one * end, tokens)
        return [token for token, sure in zip(device.drafts[0].tolist(), device.likely[0].tolist(), strict=True) if sure]

    assert step(61) == [2, 23]
    assert step(62) == [23], "24 is no token of this model"
    assert step(65, emitted=0) == [], "its prompt is not done"
    assert step(LENGTH - 4) == [2, 23]
    assert step(LENGTH - 2) == [], "the step itself fills the length up"


def test_a_tenant_is_read_by_its_own_alone_and_who_shares_nothing_leaves_nothing() -> None:
    host, there = drafter(), drafter()
    device = on_device(there, 6)
    tokens = torch.from_numpy(np.tile(np.arange(10, 15, dtype=np.int32), (6, LENGTH // 5)))
    empty = device.tables.keys.clone()

    def answer(slot: int, asked: Asked) -> int:
        """A request asks one token and is answered by the text; how many tokens are then drafted in all."""
        device.start(slot, tokens, 1, asked)
        device._drafted.zero_()
        for end in range(2, 8):
            row = torch.tensor([slot], dtype=torch.int32)
            device.step(row, torch.ones_like(row), torch.zeros_like(row), torch.full_like(row, end), tokens)
        device.end([slot])
        return int(device._drafted[1])

    def shared() -> NDArray[np.int64]:
        first = device.tables._common.first
        found: NDArray[np.int64] = device.tables.keys[first:].numpy().copy()
        return found

    nothing = shared()
    assert answer(0, Asked(drafts=False)) == 0
    assert torch.equal(device.tables.keys, empty), "it left something behind"
    alone = answer(0, Asked(share="nothing"))
    np.testing.assert_array_equal(shared(), nothing)
    first = answer(1, Asked(tenant="one"))
    assert answer(2, Asked(tenant="one")) > first >= alone
    assert answer(3, Asked(tenant="two")) == first
    assert answer(5, Asked()) == first, "what tenants were answered is theirs"
    assert host.most_tenants == 2
    for name in ("three", "four"):  # the two before are forgotten for them
        device.start(3, tokens, 1, Asked(tenant=name))
        device.end([3])
    assert answer(2, Asked(tenant="one")) == first
    assert sorted(map(id, device._tenants.values())) == sorted(map(id, there.tenant_tables))


def test_a_tenant_too_many_has_no_table() -> None:
    device = on_device(drafter(), 4)
    tokens = torch.zeros((4, LENGTH), dtype=torch.int32)
    for slot, name in enumerate("abc"):
        device.start(slot, tokens, 1, Asked(tenant=name))
    last = device.tables.groups - 1
    assert device._group_of.tolist() == [1, 2, last, 0]
    assert device._asked.tolist() == [2, 2, 1, 0]
    device.end([0, 1, 2])
    device.start(3, tokens, 1, Asked(tenant="c"))
    assert device._group_of[3] in (1, 2)


def test_what_was_learned_is_saved_and_loaded(tmp_path: Path) -> None:
    both = Both(2, drafter(), drafter())
    both.start(0, 12)
    both.start(1, 12, Asked(tenant="somebody"))
    for _ in range(5):
        both.step([0, 1], [2, 1])
    before = both.device.clock
    both.device.save(tmp_path / "there")
    both.host._drafter.save(tmp_path / "here")
    here, there = drafter(), drafter()
    here.load(tmp_path / "here")
    again = on_device(there, 2)
    again.load(tmp_path / "there")
    for a, b in zip([here, *here.tenant_tables], [there, *there.tenant_tables], strict=True):
        a, b = (table.representative if isinstance(table, AdaptiveDrafter) else table for table in (a, b))
        for name in TABLE:
            np.testing.assert_array_equal(getattr(a.arrays, name), getattr(b.arrays, name), name)
    assert again.clock == before
    mirror = Representative(memory_mb=0.05, successors=8)
    again.tables.get(0, mirror.arrays)
    for name in ("stamps", *TABLE):
        np.testing.assert_array_equal(getattr(mirror.arrays, name), getattr(here.representative.arrays, name), name)


def test_stamps_keep_their_order_when_the_clock_is_turned_back() -> None:
    both = Both(1, drafter(), drafter())
    both.start(0, 12)
    both.device._clock = 2**31 - 2
    before = both.device._clock
    both.step([0], [1])
    both.step([0], [2])
    assert both.device.clock == before // 2 + 2
    stamps = both.device.tables.stamps
    assert int(stamps.max()) == both.device.clock
    both.same_tables(shares=False)


def test_a_corpus_is_read_after_what_was_learned(tmp_path: Path) -> None:
    source = Representative(memory_mb=0.1, orders=(1, 2, 4), successors=3)
    source.learn_text(np.tile(np.arange(20, 27), 6))
    source.save(tmp_path / "state")
    corpus = tmp_path / "corpus"
    Corpus.write(source, corpus, {})
    both = Both(1, drafter(corpus=str(corpus)), drafter(corpus=str(corpus)))
    both.tokens[0, 10:] = np.tile(np.arange(20, 27), 20)[: LENGTH - 10]
    both.start(0, 12)
    for _ in range(4):
        both.step([0])
    assert both.drafts[0].tolist()[0] in range(20, 27)
    assert both.ends[0] > 12 + 2 * 4, "the first drafts come of the corpus"


def test_the_trial_finds_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, drafting = device_module("trial"), device_module("drafting")
    assert trial.why_not(CPU) == ""
    learning = device_module("learning")
    monkeypatch.setattr(learning, "learn", drafting.draft)
    assert "Error" in trial.why_not(CPU)


def test_all_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: make device-test")
    script = Path(__file__).with_name("compiled.py")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    ran = subprocess.run(
        [sys.executable, str(script), "90"], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("COMPILED "))
    assert sorted(json.loads(line.removeprefix("COMPILED "))) == ["calibrate", "draft", "judge", "learn", "observe"]
