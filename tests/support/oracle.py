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


class Likelier(Oracle):
    """Says that the true continuation is likelier than the branches beside it, and ends with a wrong token.

    So what is left of its tree where no siblings can be verified has tokens of both kinds.
    """

    def draft(self, max_nodes: int) -> DraftTree:
        tree = super().draft(max_nodes)
        tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
        after = self.answer[self.position + self.depth :][:1]
        if after and tokens and len(tokens) < max_nodes:
            tokens.append((after[0] + 1) % self.vocabulary)
            parents.append(len(tokens) - 2)
        depths, likely = [0] * len(tokens), [0.0] * len(tokens)
        for node, parent in enumerate(parents):
            depths[node] = depths[parent] + 1 if parent >= 0 else 0
            true = tokens[node] == self.answer[self.position + depths[node]]
            likely[node] = (likely[parent] if parent >= 0 else 0.0) - (0.01 if true else 0.05)
        return DraftTree.build(tokens, parents, likely)


class Uneven:
    """Knows the answer of every row of a batch, and drafts more of it for some rows than for others.

    `top_k` asks for the model's likeliest tokens, which an oracle has no use for, as a drafter that learns does.
    """

    def __init__(self, answers: Sequence[Sequence[int]], *, top_k: int = 0, vocabulary: int = 40) -> None:
        self.answers, self.top_k, self.started, self.vocabulary = answers, top_k, 0, vocabulary

    def start(self, prompt: Sequence[int]) -> Any:
        row = self.started % len(self.answers)
        self.started += 1
        return Likelier(self.answers[row], depth=1 + 2 * row % 5, vocabulary=self.vocabulary).start(prompt)
