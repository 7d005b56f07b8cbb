"""A drafter that knows the answer and hides it among wrong branches, so that tests exercise acceptance for certain."""

from __future__ import annotations

from collections.abc import Sequence

from aded import DraftTree, Observation


class Oracle:
    """Drafts the true continuation, never first among its siblings, `depth` levels deep."""

    top_k = 0

    def __init__(self, answer: Sequence[int], *, depth: int = 4, vocabulary: int = 40) -> None:
        self.answer, self.depth, self.vocabulary = list(answer), depth, vocabulary

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

    def observe(self, observation: Observation) -> None:
        self.position += len(observation.emitted)
