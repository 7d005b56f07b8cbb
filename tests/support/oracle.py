"""Drafters that know the answer, so that tests exercise acceptance for certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aded import DraftTree, Outcome


class Oracle:
    """Hides the true continuation among wrong branches: never first among its siblings, `depth` levels deep.

    `drafted` and `accepted` count what was verified and what came of it, for callers that see no `Stats`.
    """

    top_k = 0

    def __init__(self, answer: Sequence[int], *, depth: int = 4, vocabulary: int = 40) -> None:
        self.answer, self.depth, self.vocabulary = list(answer), depth, vocabulary
        self.drafted = self.accepted = 0

    def start(self, prompt: Sequence[int]) -> Oracle:
        self.position = 0
        return self

    def draft(self, max_nodes: int) -> DraftTree:
        tokens: list[int] = []
        parents: list[int] = []
        above = -1
        for true in self.answer[self.position : self.position + self.depth]:
            wrong = (true + 1) % self.vocabulary
            tokens += [wrong, true]
            parents += [above, above]
            above = len(tokens) - 1
        return DraftTree.build(tokens[:max_nodes], parents[:max_nodes])

    def observe(self, outcome: Outcome) -> None:
        self.position += len(outcome.emitted)
        if len(outcome.tree):
            self.drafted += len(outcome.tree)
            self.accepted += outcome.accepted


class Chain(Oracle):
    """Drafts the true continuation and nothing else."""

    def draft(self, max_nodes: int) -> DraftTree:
        return DraftTree.chain(self.answer[self.position : self.position + min(self.depth, max_nodes)])


class ChainThenWrong(Oracle):
    """Drafts the true continuation and then a wrong token."""

    def draft(self, max_nodes: int) -> DraftTree:
        true = self.answer[self.position : self.position + min(self.depth, max_nodes - 1)]
        wrong = [(token + 1) % self.vocabulary for token in self.answer[self.position + len(true) :][:1]]
        return DraftTree.chain([*true, *wrong][: max(max_nodes, 0)])


class Uneven:
    """Knows the answer of every row of a batch, and drafts more of it for some rows than for others.

    `top_k` asks for the model's likeliest tokens, which an oracle has no use for, as a drafter that learns does.
    """

    def __init__(self, answers: Sequence[Sequence[int]], *, top_k: int = 0) -> None:
        self.answers, self.top_k, self.started = answers, top_k, 0

    def start(self, prompt: Sequence[int]) -> Any:
        row = self.started % len(self.answers)
        self.started += 1
        return Oracle(self.answers[row], depth=1 + 2 * row % 5).start(prompt)
