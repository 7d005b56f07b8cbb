from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aded import DraftTree
from aded.verify import walk


@given(st.data())
def test_the_walk_emits_what_the_target_alone_would(data) -> None:
    """A target is a function of the prefix; whatever is drafted, the walk must follow that function."""
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

    def choose(row: int) -> int:
        asked.append(row)
        return target(tuple(int(tree.tokens[n]) for n in tree.path(row - 1)))

    walked = list(walk(tree, choose))
    prefix: tuple[int, ...] = ()
    for token, _ in walked:
        assert token == target(prefix)
        prefix += (token,)
    assert len(asked) == len(walked)  # one decision a token: a random target's stream is not disturbed
    last_path = tuple(int(tree.tokens[n]) for n in tree.path(walked[-2][1])) if len(walked) > 1 else ()
    assert walked[-1][1] == -1
    assert prefix[:-1] == last_path
