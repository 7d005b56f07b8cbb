from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree, Outcome, UnknownDrafterError, create_drafter, drafter_names

TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=60)
OURS = ["adaptive", "none", "paper", "prompt-lookup", "token-recycling"]


def test_the_registry_names_every_drafter() -> None:
    assert set(OURS) <= set(drafter_names())
    with pytest.raises(UnknownDrafterError, match="choose one of adaptive"):
        create_drafter("nothing")


@pytest.mark.parametrize("name", OURS)
@given(prompt=TOKENS, emitted=st.lists(TOKENS, max_size=6), budget=st.integers(0, 40))
def test_drafts_are_valid_trees_within_the_budget(name: str, prompt, emitted, budget: int) -> None:
    session = create_drafter(name).start(prompt) if name != "adaptive" else _small_adaptive().start(prompt)
    for tokens in emitted:
        tree = session.draft(budget)
        tree.validate()
        assert len(tree) <= budget
        ids = np.tile(np.array([[1, 2]], np.int32), (len(tree) + 1, 1))
        session.observe(Outcome(tokens, tree, ids, np.full(ids.shape, 0.4, np.float32)))


def _small_adaptive():
    return create_drafter("adaptive", memory_mb=0.25)


@pytest.mark.parametrize("name", ["adaptive", "paper", "prompt-lookup"])
def test_a_repeated_passage_is_drafted(name: str) -> None:
    passage = [11, 12, 13, 14, 15, 16]
    session = create_drafter(name).start([*passage, 1, 2, 11, 12])
    assert 13 in session.draft(16).children(-1)


def test_token_recycling_drafts_the_latest_candidates() -> None:
    session = create_drafter("token-recycling", top_k=2).start([5])
    session.observe(Outcome([7], DraftTree.empty(), np.array([[7, 8]], np.int32), np.array([[0.6, 0.2]])))
    session.observe(Outcome([5], DraftTree.empty(), np.array([[5, 6]], np.int32), np.array([[0.6, 0.2]])))
    tree = session.draft(8)
    assert set(tree.children(-1)) == {7, 8}
    assert set(tree.children(tree.children(-1)[7])) == {5, 6}


def test_a_rejected_node_teaches() -> None:
    session = create_drafter("adaptive").start([1, 2])
    tree = DraftTree.chain([3, 4])
    ids = np.array([[9], [20], [21]], np.int32)
    session.observe(Outcome([9], tree, ids, np.ones((3, 1), np.float32)))
    session.observe(Outcome([1, 2, 3], DraftTree.empty()))
    assert 20 in session.draft(8).children(-1)


def test_learning_without_distributions_takes_the_kept_tokens() -> None:
    session = create_drafter("adaptive").start([1, 2, 3])
    session.observe(Outcome([4, 5]))
    session.observe(Outcome([1, 2, 3]))
    tree = session.draft(2)
    assert tree.tokens.tolist() == [4, 5]


def test_drafting_needs_no_torch() -> None:
    code = (
        "import sys, aded; s = aded.create_drafter('adaptive').start([1, 2, 3, 1, 2]); s.draft(8); "
        "import aded.decoding, aded.accept, aded.speculation, aded.budget; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_long_copy_is_accepted_by_tens_of_tokens() -> None:
    passage = np.random.default_rng(0).integers(0, 5000, 400).tolist()
    session = create_drafter("adaptive", memory_mb=4).start([*passage, 7, 7])
    at, accepted = 0, []
    while at < len(passage):
        tree = session.draft(64)
        node, taken = -1, 0
        while at + taken < len(passage) and passage[at + taken] in tree.children(node):
            node, taken = tree.children(node)[passage[at + taken]], taken + 1
        session.observe(Outcome(passage[at : at + taken + 1], tree))
        accepted.append(taken)
        at += taken + 1
    assert max(accepted) >= 48
    assert len(passage) / len(accepted) >= 30


def test_a_session_of_another_drafter_learns_whatever_slot_its_sequence_has() -> None:
    """A drafter may wrap another one: its sessions are told of sequences in a batch."""
    told = []
    for slot in (0, 3):
        session = create_drafter("adaptive").start([1, 2, 3])
        for token in (4, 5, 1, 2, 3):
            session.observe(Outcome([token], slot=slot))
        told.append(session.draft(4).tokens.tolist())
    assert told[0] == told[1]
    assert told[0][0] == 4
