"""The adaptive drafter on many sequences at once: chains, from kept tokens alone."""

from __future__ import annotations

import numpy as np
import pytest

from aded.batch import ChainOutcomes, Chains, Limits
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.base import Slots
from aded.engines.vllm.engine import StepDrafter
from aded.engines.vllm.recent import recent_tokens

TEXTS = np.array([[1, 2, 3, 4, 5, 6, 7, 8] * 8, [21, 22, 23, 24, 25, 26, 27, 28] * 8], np.int32)
BOTH = np.array([0, 1])


def slots() -> Slots:
    options = {"memory_mb": 1, "successors": 8, "sequence_mb": 0.2, "sequence_successors": 4}
    return AdaptiveDrafter(**options).open(2)


def see(many: Slots, which: np.ndarray, lengths: list[int], emitted: int = 1) -> None:
    """The sequences emitted their last tokens, up to these lengths."""
    recent = recent_tokens(TEXTS, which, np.array(lengths), 16)
    outcomes = ChainOutcomes(recent, np.full(len(which), emitted), np.zeros((len(which), 6), np.float32))
    many.observe(which, outcomes)()


def draft(many: Slots, which: np.ndarray = BOTH, most: tuple[int, ...] = (6, 6), least: float = 1e-3) -> Chains:
    drafts = many.draft(which, 6, Limits(np.array(most[: len(which)]), trees=False), least)
    assert isinstance(drafts, Chains)
    return drafts


def tokens(drafts: Chains) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(drafts.ids, drafts.lengths, strict=True)]


def begun() -> Slots:
    many = slots()
    for slot in (0, 1):
        many.start(slot, TEXTS[slot, :16])
    return many


def test_each_sequence_is_continued_by_what_stood_in_it() -> None:
    assert tokens(draft(begun())) == [[1, 2, 3, 4, 5, 6], [21, 22, 23, 24, 25, 26]]


def test_a_draft_is_no_longer_than_allowed_and_no_less_likely() -> None:
    many = begun()
    assert draft(many, most=(2, 2)).lengths.tolist() == [2, 2]
    paths = draft(many, most=(6, 0), least=0.3).paths
    assert (paths[0][paths[0] > 0] >= 0.3).all()
    assert not paths[1].any()
    assert (np.diff(paths[0]) <= 0).all()


def test_what_a_sequence_emits_makes_its_drafts_surer() -> None:
    many = begun()
    before = draft(many).paths
    for length in range(17, 57):
        see(many, BOTH, [length, length])
    after = draft(many).paths
    assert (after[:, 5] > before[:, 5]).all()
    assert after[0, 5] > 0.5


def test_one_sequence_learns_from_another_but_not_from_its_prompt() -> None:
    many = slots()
    many.start(0, TEXTS[0, :16])
    many.start(1, TEXTS[0, 7:8])
    assert tokens(draft(many, BOTH[1:])) == [[]], "the other's prompt is its own"
    for length in range(17, 57):
        see(many, BOTH[:1], [length])
    assert tokens(draft(many, BOTH[1:]))[0][:3] == [1, 2, 3], "what it said is everybody's"


def test_a_slot_that_is_reused_remembers_nothing() -> None:
    many = begun()
    many.start(0, TEXTS[1, :16])
    assert not np.isin(tokens(draft(many, BOTH[:1]))[0], TEXTS[0]).any()


def test_sequences_alone_or_together_get_the_same_drafts() -> None:
    many = begun()
    see(many, BOTH[1:], [19], emitted=3)
    together = tokens(draft(many))
    assert tokens(draft(many, BOTH[1:])) == together[1:]
    assert tokens(draft(many, BOTH[:1])) == together[:1]


def test_chains_and_trees_come_from_the_same_knowledge() -> None:
    """The tree of one path that is likeliest begins as the chain does, and with the same probabilities."""
    many = begun()
    see(many, BOTH, [24, 24], emitted=8)
    chains = draft(many)
    for slot, tree in enumerate(many.draft(BOTH, 6, Limits([6, 6]), 0.0)):
        chain, length = tree.best_chain(), min(len(tree.best_chain()), int(chains.lengths[slot]))
        assert chain.tokens[:length].tolist() == chains.ids[slot, :length].tolist()
        # A chain's search may leave a twentieth of each step's probability unread.
        ratio = chains.paths[slot, :length] / np.exp(chain.log_probs[:length])
        assert (ratio <= 1 + 1e-5).all()
        assert (ratio >= 0.95 ** np.arange(1, length + 1)).all()


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        StepDrafter(AdaptiveDrafter(memory_mb=1), requests=0, max_length=100)
    with pytest.raises(ValueError, match="at least 1"):
        StepDrafter(AdaptiveDrafter(memory_mb=1), requests=1, max_length=100, longest=0)
