from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree
from aded.accept import accept_row


@given(st.data())
def test_a_row_emits_what_the_target_alone_would(data) -> None:
    """A target is a function of the prefix; whatever is drafted, it must follow that function."""
    vocabulary = 3
    seed = data.draw(st.integers(0, 1000))

    def target(prefix: tuple[int, ...]) -> int:
        return hash((seed, prefix)) % vocabulary

    tokens: list[int] = []
    parents: list[int] = []
    for i in range(data.draw(st.integers(0, 12))):
        parent, token = data.draw(st.integers(-1, i - 1)), data.draw(st.integers(0, vocabulary - 1))
        if parent < len(tokens) and (parent, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(parent)
    tree = DraftTree.build(tokens, parents)
    asked: list[int] = []
    taken: list[int] = []
    most = data.draw(st.integers(1, 14))

    class Target:
        def choose(self, row: int) -> int:
            asked.append(row)
            return target(tuple(int(tree.tokens[n]) for n in tree.path(row - 1)))

        def top_k(self) -> None: ...

    def append(token: int) -> bool:
        taken.append(token)
        return len(taken) == most

    outcome = accept_row(tree, Target(), append, slot=3)
    prefix: tuple[int, ...] = ()
    for token in outcome.emitted:
        assert token == target(prefix)
        prefix += (token,)
    assert list(prefix) == taken
    assert len(asked) == len(prefix)  # one decision a token: a random target's stream is not disturbed
    assert outcome.slot == 3
    assert outcome.finished == (len(taken) == most)
    assert outcome.path == tree.follow(outcome.emitted)
    assert [int(tree.tokens[node]) for node in outcome.path] == list(prefix[: outcome.accepted])
    assert len(prefix) - outcome.accepted == (0 if outcome.finished and outcome.accepted == most else 1)
    assert outcome.kept == outcome.path[: len(prefix) - 1], "the last token's entry is never in the cache"
    assert np.flatnonzero(outcome.accepted_nodes()).tolist() == sorted(outcome.path)
