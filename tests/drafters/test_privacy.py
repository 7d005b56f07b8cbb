"""What one sequence was asked changes neither what another is drafted, nor its steps, nor what a file holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import LogitsProcessor

import aded
from aded import Outcome, create_drafter
from aded.batch import ChainOutcomes
from aded.drafters.adaptive import AdaptiveDrafter
from aded.representative.tenants import tenant_key
from support.models import build

SECRET = [11, 12, 13, 21, 22, 23, 24, 25, 26, 27, 28]  # "the vault code is" and what it is
ANSWER = [31, 32, 33, 31, 32, 33]


def asked(drafter: AdaptiveDrafter, prompt: Sequence[int], answer: Sequence[int] = ANSWER) -> None:
    """A sequence whose drafts come from its prompt, are verified, and are not accepted.

    The target thinks the prompt's own continuation likely at every place, and says something else.
    """
    session, top_k = drafter.start(prompt), drafter.top_k
    for token in answer:
        tree = session.draft(8)
        ids = np.tile(np.array([*prompt[3 : 3 + top_k - 1], 39], np.int32), (len(tree) + 1, 1))
        probs = np.full(ids.shape, 0.9 / ids.shape[1], np.float32)
        session.observe(Outcome([token], tree, ids, probs))


def drafted(drafter: AdaptiveDrafter, prompt: Sequence[int]) -> list[Any]:
    tree = drafter.start(prompt).draft(16)
    return [tree.tokens.tolist(), tree.parents.tolist(), tree.log_probs.tolist()]


def state(drafter: AdaptiveDrafter, path: Path) -> bytes:
    drafter.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("prompt", [SECRET, [1, 2, 3, 4], SECRET[:3]])
def test_two_prompts_with_one_answer_leave_the_same_behind(prompt: list[int], tmp_path: Path) -> None:
    one, other = create_drafter("adaptive"), create_drafter("adaptive")
    asked(one, SECRET)
    asked(other, prompt)
    assert state(one, tmp_path / "one") == state(other, tmp_path / "other")
    for context in (SECRET[:3], [1, 2, 3], ANSWER[:2]):
        assert drafted(one, context) == drafted(other, context)
    secret = set(SECRET[3:])
    assert not secret & set(drafted(one, SECRET[:3])[0])
    assert not secret & set(one.representative.arrays.successors.ravel().tolist())


def test_answers_are_shared_unless_nothing_is(tmp_path: Path) -> None:
    empty = state(create_drafter("adaptive"), tmp_path / "empty")
    for share, learns in (("answers", True), ("all", True), ("nothing", False)):
        drafter = create_drafter("adaptive", share=share)
        asked(drafter, SECRET)
        assert (32 in drafted(drafter, [31])[0]) == learns
        assert (state(drafter, tmp_path / share) != empty) == learns
        assert drafter.representative.holds_prompts == (share == "all")
        with safe_open(tmp_path / share, "numpy") as file:
            assert ('"prompts": true' in str(file.metadata()).replace("\\", "")) == (share == "all")
    drafter = create_drafter("adaptive", share="all")
    asked(drafter, SECRET)
    assert 21 in drafted(drafter, SECRET[:3])[0]
    again = create_drafter("adaptive")
    again.load(tmp_path / "all")
    assert again.representative.holds_prompts


def test_chains_of_a_server_leave_the_same_behind(tmp_path: Path) -> None:
    states = []
    for number, prompt in enumerate((SECRET, [1, 2, 3, 4, 5])):
        drafter = AdaptiveDrafter(memory_mb=1, sequence_mb=0.2)
        many, said = drafter.open(1), list(prompt)
        many.start(0, np.array(prompt))
        for token in ANSWER:
            said.append(token)
            recent = np.full((1, 16), -1, np.int32)
            recent[0, 16 - len(said[-16:]) :] = said[-16:]
            many.observe(np.array([0]), ChainOutcomes(recent, np.array([1]), np.zeros((1, 4), np.float32)))()
        states.append(state(drafter, tmp_path / str(number)))
    assert states[0] == states[1]


class Says(LogitsProcessor):
    """Makes the target say this, whatever it was asked."""

    def __init__(self, prompt: int, tokens: Sequence[int]) -> None:
        self.prompt, self.tokens = prompt, tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -100.0)
        forced[:, self.tokens[input_ids.shape[1] - self.prompt]] = 0.0
        return forced


@pytest.mark.parametrize("share", ["answers", "nothing"])
def test_another_call_takes_as_many_steps_whatever_was_asked_before(share: str) -> None:
    model = build("llama")
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "custom_generate": aded.generate}
    options["max_draft_tokens"] = 8
    taken = []
    for before in ([3, 8, 5, *SECRET, 7], [6, 2, 6, 2, 6, 2]):
        drafter, stats = create_drafter("adaptive", share=share), aded.Stats()
        said = [Says(len(before), ANSWER)]
        ids = torch.tensor([before])
        model.generate(ids, **options, max_new_tokens=6, drafter=drafter, logits_processor=said)
        asks = torch.tensor([[9, 4, *SECRET[:3]]])
        answer = model.generate(asks, **options, max_new_tokens=30, drafter=drafter, stats=stats)
        taken.append((answer.tolist(), stats.steps, stats.drafted, stats.accepted))
    assert taken[0] == taken[1]
    assert 0 < stats.accepted < stats.drafted


def test_a_wrong_word_is_refused() -> None:
    with pytest.raises(ValueError, match="answers, nothing, all"):
        create_drafter("adaptive", share="everything")


def test_what_one_tenant_asks_and_is_answered_changes_nothing_of_anothers(tmp_path: Path) -> None:
    files, drafts = [], []
    for number, share in enumerate(("answers", "all", "nothing")):
        drafter = AdaptiveDrafter(memory_mb=1, sequence_mb=0.2, tenant_mb=0.5)
        asked(drafter.sharing(tenant="a"), [1, 2, 3, 4], [5, 6, 7])
        asked(drafter.sharing(share, "b"), [*SECRET, number], [*ANSWER, number])
        drafter.save(path := tmp_path / share)
        with safe_open(path, "numpy") as file:
            names = [name for name in list(file.keys()) if tenant_key("a") in name]
            files.append({name: file.get_tensor(name).tobytes() for name in names})
        drafts.append([drafted(drafter.sharing(tenant=who), SECRET[:3]) for who in ("a", "c", None)])
        assert (21 in drafted(drafter.sharing(tenant="b"), SECRET[:3])[0]) == (share == "all")
        assert (32 in drafted(drafter.sharing(tenant="b"), [31])[0]) == (share != "nothing")
    assert files[0]
    assert files[0] == files[1] == files[2]
    assert drafts[0] == drafts[1] == drafts[2]


@pytest.mark.parametrize("way", ["options of the call", "what is said around it", "options of accelerate"])
def test_tenants_and_what_is_shared_are_said_call_by_call(way: str) -> None:
    model, taken = build("llama"), []
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_draft_tokens": 8}
    asks = torch.tensor([[9, 4, *SECRET[:3]]])

    def call(ids: torch.Tensor, share: Any, tenant: str | None, **more: Any) -> Any:
        if way == "options of accelerate":
            undo = aded.accelerate(model, drafter=drafter, share=share, tenant=tenant)
            try:
                return model.generate(ids, **options, **more)
            finally:
                undo()
        given: dict[str, Any] = {"custom_generate": aded.generate, "drafter": drafter}
        if way == "options of the call":
            return model.generate(ids, **options, **given, share=share, tenant=tenant, **more)
        with aded.sharing(share, tenant):
            return model.generate(ids, **options, **given, **more)

    plain = model.generate(asks, do_sample=False, pad_token_id=0, max_new_tokens=30)
    for tenant, share, before in (("a", None, 0), ("a", "all", 1), ("a", None, 1), ("b", None, 1)):
        drafter, stats = create_drafter("adaptive", tenant_mb=1), aded.Stats()
        for _ in range(before):  # this prompt and its answer
            call(asks, share, "a", max_new_tokens=30)
        answer = call(asks, None, tenant, max_new_tokens=30, stats=stats)
        assert answer.tolist() == plain.tolist()
        assert 0 < stats.accepted < stats.drafted
        taken.append(stats.steps)
    afresh, after_all, after_answers, another = taken
    assert after_all < afresh
    assert after_answers < afresh
    assert another == afresh


def test_a_drafter_that_cannot_be_told_what_to_share_says_so() -> None:
    model = build("llama")
    options: dict[str, Any] = {"custom_generate": aded.generate, "max_new_tokens": 4, "pad_token_id": 0}
    with pytest.raises(aded.SettingsError, match="use the drafter adaptive"):
        model.generate(torch.tensor([[3, 8]]), **options, drafter="paper", tenant="a")
    for drafter in ("prompt-lookup", "none"):  # these share nothing anyway
        model.generate(torch.tensor([[3, 8]]), **options, drafter=drafter, share="nothing", tenant="a")
    with pytest.raises(aded.SettingsError, match="answers, nothing, all"):
        model.generate(torch.tensor([[3, 8]]), **options, share="some")


def test_a_sequence_without_scores_moves_only_its_own_weights() -> None:
    drafter = AdaptiveDrafter(memory_mb=1, sequence_mb=0.2)
    weights = (drafter.weights.shares, drafter.weights.seen)
    before = [array.copy() for array in weights]
    session = drafter.start(SECRET)
    for token in (*ANSWER, *ANSWER):
        session.observe(Outcome([token]))
    assert all(np.array_equal(a, b) for a, b in zip(before, weights, strict=True))


@pytest.mark.filterwarnings("ignore:share_prompts:DeprecationWarning")
def test_the_old_option_still_says_what_is_shared() -> None:
    assert create_drafter("adaptive", share_prompts=True).share == "all"
    assert create_drafter("adaptive", share_prompts=False).share == "answers"
    with pytest.raises(aded.SettingsError):
        create_drafter("adaptive", share_prompts=True, share="nothing")
