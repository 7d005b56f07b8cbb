"""Trees in SGLang's form, and requests that are decoded by them; without SGLang."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded.drafters.adaptive import AdaptiveDrafter
from aded.engines.sglang.engine import FILL, Running, Scored, TreeDrafter, flatten
from aded.tree import DraftTree

SIZE, VOCABULARY = 8, 60


def parents_of(mask: np.ndarray, size: int) -> list[list[int]]:
    """Each row's parent, as SGLang finds it: the last row before it on its path."""
    rows = mask.reshape(-1, size, size)
    return [[max((j for j in range(i) if row[i, j]), default=-1) for i in range(size)] for row in rows]


@given(st.lists(st.lists(st.tuples(st.integers(-1, 6), st.integers(1, 50)), max_size=7), min_size=1, max_size=3))
def test_a_tree_is_found_again_in_its_mask_and_fillers_are_nobodys_siblings(drawn: list[list[tuple[int, int]]]) -> None:
    trees = []
    for nodes in drawn:
        parents = [min(parent, i - 1) for i, (parent, _) in enumerate(nodes)]
        tokens = [100 * i + token for i, (_, token) in enumerate(nodes)]  # siblings differ
        trees.append(DraftTree.build(tokens, parents, [-1.0] * len(nodes)))
    tokens, mask = flatten(trees, list(range(7, 7 + len(trees))), SIZE)
    assert tokens.dtype == np.int64
    assert mask.dtype == np.bool_
    for i, (tree, found) in enumerate(zip(trees, parents_of(mask, SIZE), strict=True)):
        n = len(tree)
        row = tokens.reshape(-1, SIZE)[i]
        assert row[: n + 1].tolist() == [7 + i, *tree.tokens.tolist()]
        assert found[: n + 1] == [-1, *(tree.parents + 1).tolist()]
        assert row[n + 1 :].tolist() == [FILL] * (SIZE - n - 1)
        assert found[n + 1 :] == list(range(n, SIZE - 1))
        at = mask.reshape(-1, SIZE, SIZE)[i]
        assert at.diagonal().all()
        assert not np.triu(at, 1).any(), "parents come before children"


class Server:
    """SGLang's side: a model whose next token depends on the last two, verifying trees of fixed size."""

    def __init__(self, requests: int = 4, share: bool = True) -> None:
        drafter = AdaptiveDrafter(memory_mb=1, sequence_mb=0.2)
        self.drafter = TreeDrafter(drafter, requests=requests, size=SIZE, max_length=200, vocabulary=VOCABULARY)
        self.texts: dict[str, list[int]] = {}
        self.scored: Scored | None = None
        self.share = share
        self.accepted = self.rejected = 0

    def next(self, last: list[int]) -> int:
        return (3 * last[-1] + last[-2]) % 11

    def step(self) -> None:
        running = [
            Running(name, len(text), lambda start, text=text: list(text[start:]))  # type: ignore[misc]
            for name, text in self.texts.items()
        ]
        tokens, mask = self.drafter(running, self.scored)
        likely_ids, likely = [], []
        for i, (name, text) in enumerate(self.texts.items()):
            at, found = tokens.reshape(-1, SIZE)[i], parents_of(mask, SIZE)[i]
            path: list[list[int]] = []
            for row in range(SIZE):
                path.append(text if row == 0 else [*path[found[row]], int(at[row])])
                likely_ids.append([self.next(path[row]), 20])
                likely.append([0.6, 0.4])
            row, emitted = 0, []
            while True:
                token = self.next([*text, *emitted])
                emitted.append(token)
                children = [r for r in range(SIZE) if found[r] == row and at[r] == token]
                assert len(children) <= 1
                if not children:
                    break
                row = children[0]
            self.accepted += len(emitted) - 1
            self.rejected += SIZE - len(emitted)
            self.texts[name] = [*text, *emitted]
        if self.share:
            ids, probs = np.array(likely_ids, np.int32), np.array(likely, np.float32)
            self.scored = Scored(list(self.texts), ids, probs)


def plain(prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append((3 * text[-1] + text[-2]) % 11)
    return text


@pytest.mark.parametrize("share", [True, False])
def test_texts_are_the_models_own_and_drafts_are_accepted(share: bool) -> None:
    server = Server(share=share)
    prompts = {"a": [1, 2], "b": [5, 3, 8], "c": [0, 0]}
    server.texts = dict(prompts)
    for _ in range(20):
        server.step()
    for name, prompt in prompts.items():
        text = server.texts[name]
        assert text == plain(prompt, len(text) - len(prompt))
    assert server.accepted > 40
    assert server.rejected > 40


def test_requests_come_go_and_come_back_in_any_order() -> None:
    server = Server(requests=2)
    server.texts = {"a": [1, 2], "b": [5, 3]}
    for _ in range(6):
        server.step()
    away = server.texts.pop("a")
    server.texts["c"] = [4, 4]  # takes a's slot though nobody said that it ended
    server.step()
    server.drafter.forget(["b", "nobody"])
    server.texts.pop("b")
    server.texts = {"c": server.texts["c"], "a": away[:-2]}  # put off, and set back
    for _ in range(6):
        server.step()
    assert server.texts["a"] == plain([1, 2], len(server.texts["a"]) - 2)
    assert server.texts["c"] == plain([4, 4], len(server.texts["c"]) - 2)
    server.drafter.reset()
    server.step()


def test_what_the_model_found_second_best_is_drafted_where_scores_are_told() -> None:
    """It is never emitted, so without scores nobody knows of it."""
    drafted = []
    for share in (True, False):
        server = Server(share=share)
        server.texts = {"a": [1, 2]}
        found = False
        for _ in range(10):
            server.step()
            found |= any(20 in tree.tokens for tree in server.drafter._trees)
        drafted.append(found)
    assert drafted == [True, False]


def test_no_tree_is_deeper_than_the_model_is_long() -> None:
    server = Server()
    server.drafter._max_length = 12
    server.texts = {"a": [1, 2]}
    while len(server.texts["a"]) < 12:
        server.step()
        slot = server.drafter._slots.find("a")
        assert slot is not None
        deepest = server.drafter._trees[slot].depths
        assert not len(deepest) or server.drafter._lengths[slot] + deepest.max() + 1 < 12
    with pytest.raises(ValueError, match="2 rows"):
        TreeDrafter(AdaptiveDrafter(memory_mb=1), requests=1, size=1, max_length=9, vocabulary=9)
