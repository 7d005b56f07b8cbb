"""Drafting for many sequences at once."""

from __future__ import annotations

import numpy as np
import pytest

from aded.drafters.many import ManyDrafter
from aded.representative import Representative

TEXTS = np.array([[1, 2, 3, 4, 5, 6, 7, 8] * 8, [21, 22, 23, 24, 25, 26, 27, 28] * 8], np.int32)
BOTH = np.array([0, 1])


def drafter(**options: object) -> ManyDrafter:
    return ManyDrafter(Representative(memory_mb=1, successors=8), sequences=2, sequence_mb=0.2, longest=6, **options)


def recent(many: ManyDrafter, lengths: list[int]) -> np.ndarray:
    return many.recent(TEXTS, BOTH[: len(lengths)], np.array(lengths))


def draft(many: ManyDrafter, lengths: list[int], most: int = 6, least: float = 0.05) -> list[list[int]]:
    ids, paths = many.draft(BOTH, recent(many, lengths), np.array([most, most]), least)
    return [row[path > 0].tolist() for row, path in zip(ids, paths, strict=True)]


def begun() -> ManyDrafter:
    many = drafter()
    for place in (0, 1):
        many.start(place, TEXTS[place, :16])
    return many


def test_each_sequence_is_continued_by_what_stood_in_it() -> None:
    assert draft(begun(), [16, 16], least=1e-3) == [[1, 2, 3, 4, 5, 6], [21, 22, 23, 24, 25, 26]]


def test_a_draft_is_no_longer_than_allowed_and_no_less_likely() -> None:
    many = begun()
    assert [len(row) for row in draft(many, [16, 16], most=2, least=1e-3)] == [2, 2]
    _, paths = many.draft(BOTH, recent(many, [16, 16]), np.array([6, 0]), 0.3)
    assert (paths[0][paths[0] > 0] >= 0.3).all()
    assert not paths[1].any()
    assert (np.diff(paths[0]) <= 0).all()


def test_what_a_sequence_emits_makes_its_drafts_surer() -> None:
    many = begun()
    before = many.draft(BOTH, recent(many, [16, 16]), np.array([6, 6]), 1e-3)[1].copy()
    for length in range(17, 57):
        many.learn(BOTH, recent(many, [length, length]), np.ones(2, np.int64))
    after = many.draft(BOTH, recent(many, [56, 56]), np.array([6, 6]), 1e-3)[1]
    assert (after[:, 5] > before[:, 5]).all()
    assert after[0, 5] > 0.5


def test_one_sequence_learns_from_another_but_not_from_its_prompt() -> None:
    many = drafter()
    many.start(0, TEXTS[0, :16])
    many.start(1, TEXTS[1, :1])
    ids, paths = many.draft(BOTH[1:], recent(many, [16]), np.array([6]), 1e-3)
    assert 1 not in ids[0][paths[0] > 0], "the other's prompt is its own"
    for length in range(17, 57):
        many.learn(BOTH[:1], recent(many, [length]), np.array([1]))
    ids, paths = many.draft(BOTH[1:], recent(many, [16]), np.array([6]), 1e-3)
    assert ids[0, :3].tolist() == [1, 2, 3], "what it said is everybody's"


def test_a_place_that_is_reused_remembers_nothing() -> None:
    many = begun()
    many.start(0, TEXTS[1, :16])
    ids, paths = many.draft(BOTH[:1], recent(many, [16]), np.array([6]), 1e-3)
    assert not np.isin(ids[0][paths[0] > 0], TEXTS[0]).any()


def test_sequences_alone_or_together_get_the_same_drafts() -> None:
    many = begun()
    together = draft(many, [16, 19], least=1e-3)
    ids, paths = many.draft(BOTH[1:], recent(many, [16, 19])[1:], np.array([6]), 1e-3)
    assert ids[0][paths[0] > 0].tolist() == together[1]


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ManyDrafter(Representative(memory_mb=1), sequences=0)
