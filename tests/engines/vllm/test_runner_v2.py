"""Model Runner V2. What needs vLLM runs in the environment of `make vllm-test`; V2 itself in Triton's interpreter."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aded.budget import CalibratedBudget
from aded.engines.vllm import served
from aded.engines.vllm.verification import agreeing
from support.vllm_engines import SCRIPTS, read, run_script

ROWS, LENGTH, LONGEST = 6, 200, 4


def test_of_a_draft_what_agrees_is_emitted_and_one_token_more() -> None:
    drawn = torch.tensor([7, 8, 9, 1, 5, 5, 6, 2])  # requests of 4, 1 and 3 tokens
    drafted = torch.tensor([0, 7, 8, 3, 0, 0, 5, -1])
    said, count = agreeing(drawn, drafted, torch.tensor([0, 4, 5, 8]), 5)
    assert count.tolist() == [3, 1, 2]
    assert said[0, :3].tolist() == [7, 8, 9]
    assert said[1, :1].tolist() == [5]
    assert said[2, :2].tolist() == [5, 6]
    assert agreeing(drawn[:4], torch.tensor([0, 7, 8, 9]), torch.tensor([0, 4]), 5)[1].tolist() == [4]


class Runner:
    """V2's side of a speculator: slots of tokens, to which `texts` are appended as far as drafts agree with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        speculator = pytest.importorskip("aded.engines.vllm.speculator", reason="vLLM is not installed: make vllm-test")
        monkeypatch.setattr(served, "_first_rank", lambda: True)
        monkeypatch.setattr(served, "_fingerprint", lambda model: "tokenizer")
        monkeypatch.setattr(speculator, "get_tp_group", lambda: SimpleNamespace(world_size=1))
        monkeypatch.setattr(speculator, "draw_by_position", lambda: None)
        self.tokens = torch.zeros((ROWS, LENGTH), dtype=torch.int32)
        self.lengths = torch.zeros(ROWS, dtype=torch.int32)
        self.running: dict[str, tuple[int, list[int]]] = {}  # slot and text
        states = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=self.tokens),
            total_len=SimpleNamespace(gpu=self.lengths),
            req_id_to_index=self.running,
        )
        config = SimpleNamespace(
            speculative_config=SimpleNamespace(num_speculative_tokens=LONGEST, enable_adaptive_verification=True),
            parallel_config=SimpleNamespace(data_parallel_rank=0),
            scheduler_config=SimpleNamespace(max_num_seqs=ROWS),
            model_config=SimpleNamespace(max_model_len=LENGTH, get_vocab_size=lambda: 1000),
            additional_config={"aded": {"memory_mb": 1, "sequence_mb": 0.2}},
        )
        self.speculator = speculator.AdedSpeculator(config, torch.device("cpu"), states)
        self.drafts: dict[str, list[int]] = {}

    @property
    def budget(self) -> CalibratedBudget:
        budget: CalibratedBudget = self.speculator._served.step._speculator.budget
        return budget

    def add(self, name: str, slot: int, text: list[int], prompt: int, **extra: str) -> None:
        sampling = SimpleNamespace(extra_args=extra or None)
        request = SimpleNamespace(req_id=name, lora_request=None, sampling_params=sampling)
        self.speculator.added([request])
        self.tokens[slot, :prompt] = torch.tensor(text[:prompt])
        self.lengths[slot] = prompt
        self.running[name], self.drafts[name] = (slot, text), []

    def step(self, *, verified: int = LONGEST, waiting: tuple[str, ...] = ()) -> dict[str, int]:
        """One step that verifies at most so many tokens of each draft; how many each request emitted."""
        names, sampled, rejected = list(self.running), [], []
        for name in names:
            slot, text = self.running[name]
            at, draft = int(self.lengths[slot]), self.drafts[name][:verified]
            kept = next((i for i, token in enumerate(draft) if token != text[at + i]), len(draft))
            n = 0 if name in waiting else kept + 1
            self.tokens[slot, at : at + n] = torch.tensor(text[at : at + n])
            self.lengths[slot] += n
            sampled.append(n)
            rejected.append(len(draft) - kept if n else 0)
        slots = np.array([self.running[name][0] for name in names])
        batch = SimpleNamespace(
            num_reqs=len(names), req_ids=names, idx_mapping_np=slots, idx_mapping=torch.from_numpy(slots)
        )
        last = self.tokens.gather(1, (self.lengths.long() - 1).clamp(min=0)[:, None]).long()
        counts = (torch.tensor(x, dtype=torch.int32) for x in (sampled, rejected))
        nothing: tuple[Any, ...] = (None,) * 4
        drafts = self.speculator.propose(batch, *nothing, *counts, last, None, None, None)
        assert drafts.shape == (len(names), LONGEST)
        self.likely = self.speculator.draft_token_confidence_probs[: len(names)].clone()
        for i, name in enumerate(names):
            self.drafts[name] = drafts[i].tolist()
            at = int((self.likely[i] > 0).sum())
            assert self.drafts[name][at:] == [int(last[slots[i]])] * (LONGEST - at), "filled up with the last token"
        return dict(zip(names, sampled, strict=True))


def cycle(first: int) -> list[int]:
    return [first + i % 7 for i in range(2 * LENGTH)]


def test_requests_are_known_by_name_in_whatever_slot_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch)
    runner.add("a", 4, cycle(10), 20)
    runner.add("b", 2, cycle(30), 20)
    assert runner.step(waiting=("b",))["b"] == 0
    assert not runner.likely[1].any(), "a prompt that is not done gets no draft"
    emitted = [runner.step() for _ in range(5)]
    assert [step["a"] for step in emitted] == [LONGEST + 1] * 5
    del runner.running["a"]
    runner.add("c", 4, cycle(50), 20)  # in the slot of one that ended
    runner.step()
    assert runner.step() == {"b": LONGEST + 1, "c": LONGEST + 1}


def test_confidences_are_the_calibrated_acceptance_of_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, random = Runner(monkeypatch), np.random.default_rng(0)
    for i, slot in enumerate((3, 0, 5)):  # texts that repeat themselves, but not always
        text = [10 * i + int(n % 7) + 100 * int(random.random() < 0.15) for n in range(2 * LENGTH)]
        runner.add(str(i), slot, text, 30)
    for _ in range(12):
        runner.step()
    drafted = (runner.likely > 0).numpy()
    assert drafted.sum() > 4
    along = np.cumprod(runner.likely.numpy().astype(np.float64), axis=1)
    np.testing.assert_allclose(along[drafted], runner.budget.likely, rtol=1e-5)
    evidence = runner.budget.evidence.every
    assert 0 < evidence[0] < evidence[1] or evidence[0] > 16, "what was accepted and what was not was learned"
    assert not np.allclose(runner.budget.likely, runner.speculator._served.step._verified[[3, 0, 5]][drafted])


def test_what_was_not_verified_is_not_learned_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch)
    runner.add("a", 1, cycle(10), 30)
    before = runner.budget.evidence.classes.copy()
    for _ in range(6):
        runner.step(verified=0)
    assert (runner.likely > 0).any()
    np.testing.assert_array_equal(runner.budget.evidence.classes, before)
    runner.step(verified=1)
    assert runner.budget.evidence.classes[0].sum() == pytest.approx(before[0].sum() + 1)


def test_what_requests_ask_is_heeded_and_those_that_ended_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(monkeypatch)
    runner.add("a", 4, cycle(10), 20, aded_drafts="off")
    runner.add("b", 2, cycle(30), 20, aded_tenant="somebody")
    runner.add("c", 3, cycle(50), 20, aded_tenant=3)  # not readable, and too late to refuse
    emitted = [runner.step() for _ in range(6)]
    assert [step["a"] for step in emitted] == [1] * 6
    assert [step["c"] for step in emitted] == [1] * 6
    assert emitted[-1]["b"] == LONGEST + 1
    drafts = runner.speculator._served.step._speculator._drafts
    assert len(drafts._shared) == 3
    runner.running.clear()
    runner.add("d", 0, cycle(70), 20)
    runner.step()
    assert not drafts._which.any()
    assert list(runner.speculator._asked) == ["d"]


def test_greedy_and_seeded_texts_are_those_of_v2_without_drafts(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """min_p and logit_bias, which vLLM refuses with speculation, and penalties too; two ranks, of which one drafts."""
    pytest.importorskip("vllm", reason="vLLM is not installed here: make vllm-test")
    path = os.pathsep.join([str(SCRIPTS / "interpreted"), os.environ.get("PYTHONPATH", "")])

    def answer(speculative: dict[str, Any] | None, given: dict[str, Any], processors: str) -> dict[str, Any]:
        environment = {"PYTHONPATH": path, "VLLM_CPU_OMP_THREADS_BIND": processors}
        return read(run_script("seeded.py", small, speculative, given, **environment))

    with ThreadPoolExecutor(2) as threads:
        plain = threads.submit(answer, None, {}, "0")
        ours = threads.submit(
            answer, {"model": "aded.vllm", "num_speculative_tokens": 4}, {"tensor_parallel_size": 2}, "0|1"
        )
        assert ours.result()["said"] == plain.result()["said"]
    counts = ours.result()["counts"]
    accepted = counts["vllm:spec_decode_num_accepted_tokens"]
    assert 50 < accepted < counts["vllm:spec_decode_num_draft_tokens"] - 50
