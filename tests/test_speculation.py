"""The speculator: the same object for engines that pull and engines that push."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aded
from aded import DraftTree, Outcome
from aded.batch import Chains, Limits, Nodes, Outcomes, Trees
from aded.budget import FixedBudget, Pass
from aded.decoding import decode
from aded.drafters.base import open_slots
from aded.speculation import Speculator
from aded.stats import Stats, Timer
from aded.traces import Trace
from aded.traces.replay import decode_sequence
from support.engines import Saying
from support.oracle import Oracle
from support.paths import SHIPPED


class Clock:
    """Moves on by what it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Told(FixedBudget):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__(8)
        self.steps: list[tuple[Pass | None, float, float]] = []

    def timed(self, step: Pass | None, drafting_s: float, learning_s: float) -> None:
        self.steps.append((step, drafting_s, learning_s))


def test_a_step_is_split_into_its_parts_by_who_has_the_word() -> None:
    clock = Clock()

    class Slow(Oracle):
        def draft(self, max_nodes: int) -> DraftTree:
            clock.now += 1
            return super().draft(max_nodes)

        def observe(self, outcome: Outcome) -> None:
            clock.now += 10
            super().observe(outcome)

    class Engine(Saying):
        def prefill(self, top_k: int) -> list[Any]:
            clock.now += 1000
            return super().prefill(top_k)

        def commit(self, outcomes: Any) -> None:
            clock.now += 100

    budget, stats = Told(), Stats()
    speculator = Speculator(Slow([]), budget, timer=Timer(clock), stats=stats)
    speculator.start(0, [])
    for _ in decode(Engine(range(4)), speculator):
        clock.now += 10_000  # the caller's own time
    assert [(step.seconds, drafting, learning) for step, drafting, learning in budget.steps if step] == [
        (100, 1, 10)
    ] * 3
    assert (stats.verify_s, stats.draft_s, stats.learn_s) == (1300, 3, 40)
    assert stats.time_to_first_token_s == 1000
    assert stats.total_s == 1343


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits([9]), [1, 2, 3, 4, 5]),
        (Limits([1]), [1, 2]),
        (Limits([0]), []),
        (Limits([9], nodes=2), [1, 2]),
        (Limits([9], paths=1), [1, 3, 5]),
        (Limits([9], trees=False), [1, 3, 5]),
    ],
)
def test_a_draft_is_cut_to_what_the_engine_can_verify(limits: Limits, expected: list[int]) -> None:
    class Bushy(Oracle):
        def draft(self, max_nodes: int) -> DraftTree:
            return DraftTree.build([1, 2, 3, 4, 5], [-1, -1, 0, 0, 2], [-0.1, -0.2, -0.3, -0.4, -0.5])

    speculator = Speculator(Bushy([]), FixedBudget(8))
    speculator.start(0, [])
    (tree,) = speculator.propose([0], limits)
    assert tree.tokens.tolist() == expected


def test_an_engine_that_pushes_gets_the_drafts_of_one_that_pulls() -> None:
    """The same answers, told step by step from outside: the same drafts are proposed."""
    sequence = Trace.load(SHIPPED).sequences[3]
    _, pulled = decode_sequence(sequence, aded.create_drafter("adaptive"), FixedBudget(12))
    speculator = Speculator(aded.create_drafter("adaptive"), FixedBudget(12))
    speculator.start(0, sequence.prompt.tolist())
    first = Outcome(sequence.output[:1].tolist(), DraftTree.empty(), sequence.top_ids[:1], sequence.top_probs[:1])
    speculator.observe([0], Outcomes([first]))
    emitted = 1
    for outcome in pulled:
        (tree,) = speculator.propose([0], Limits([len(sequence.output) - emitted - 1]))
        assert tree.tokens.tolist() == outcome.tree.tokens.tolist()
        assert tree.parents.tolist() == outcome.tree.parents.tolist()
        speculator.observe([0], Outcomes([outcome]))
        emitted += len(outcome.emitted)
    assert sum(outcome.accepted for outcome in pulled) > 0


def test_every_drafter_has_slots_and_serves_chains() -> None:
    for name in ("adaptive", "none", "paper", "prompt-lookup", "token-recycling"):
        drafter = aded.create_drafter(name)
        slots = open_slots(drafter, 2)
        for slot in (0, 1):
            slots.start(slot, np.array([5, 6, 7, 5, 6], np.int32))
        speculator = Speculator(drafter, FixedBudget(4), count=2)
        for slot in (0, 1):
            speculator.start(slot, [5, 6, 7, 5, 6])
        drafts = speculator.propose([0, 1], Limits([4, 4], trees=False))
        assert all(tree.is_chain for tree in drafts)
        assert drafts.widest <= 4


def test_likeliest_tokens_are_asked_for_as_the_drafter_wants_them() -> None:
    for name in ("adaptive", "prompt-lookup"):
        drafter, engine = aded.create_drafter(name), Saying(range(20))
        speculator = Speculator(drafter, FixedBudget(2))
        speculator.start(0, [1, 2])
        list(decode(engine, speculator))
        assert set(engine.asked) == {drafter.top_k}


def flat(drafts: Any) -> tuple[list[Any], ...]:
    nodes: Nodes = drafts.nodes()
    return tuple(array.tolist() for array in nodes)


def test_chains_and_trees_show_their_nodes_alike() -> None:
    paths = np.array([[0.9, 0.5, 0.0], [0.0, 0.0, 0.0], [0.8, 0.7, 0.6]], np.float32)
    chains = Chains(np.arange(9, dtype=np.int32).reshape(3, 3), paths)
    trees = Trees(chains)
    draft, path, depth, parent = flat(chains)
    assert (draft, depth, parent) == ([0, 0, 2, 2, 2], [0, 1, 0, 1, 2], [-1, 0, -1, 2, 3])
    assert flat(trees)[0::2] == (draft, depth)
    assert flat(trees)[3] == parent
    assert np.allclose(flat(trees)[1], path)
    assert (chains.size, chains.widest, len(chains)) == (trees.size, trees.widest, len(trees)) == (5, 3, 3)
    kept = np.array([True, False, True, True, False])
    assert Trees(chains.keep(kept))[2].tokens.tolist() == trees.keep(kept)[2].tokens.tolist() == [6, 7]
    assert Chains.of(trees, 3).ids[2].tolist() == chains.ids[2].tolist()


def test_what_a_sequence_that_ended_had_drafted_says_nothing() -> None:
    tree = DraftTree.chain([1, 2, 3], [-0.1, -0.2, -0.3])
    outcomes = Outcomes([Outcome([1, 2], tree, finished=True), Outcome([1, 9], tree, slot=1)])
    nodes, accepted = outcomes.verified()
    assert nodes.draft.tolist() == [1, 1, 1]
    assert accepted.tolist() == [True, False, False]
    assert outcomes.emitted.tolist() == [2, 2]


def test_chains_end_before_the_first_id_that_the_target_does_not_know() -> None:
    chains = Chains(
        np.array([[3, 9, 4], [9, 3, 4], [3, 4, 9]], np.int32),
        np.array([[0.9, 0.8, 0.7]] * 2 + [[0.9, 0.8, 0]], np.float32),
    )
    assert chains.within(10) is chains
    assert chains.within(9).lengths.tolist() == [1, 0, 2]
