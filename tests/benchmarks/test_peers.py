"""Other people's drafters behind our protocol."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import benchmarks.peers  # noqa: F401 - registers them
from aded import DraftTree, Outcome, UnknownDrafterError, create_drafter
from aded.traces import Trace
from benchmarks.peers.automaton import SamDrafter, SuffixAutomaton
from benchmarks.peers.paths import tree_of_paths
from benchmarks.peers.racer import RacerDrafter
from support.paths import ROOT, SHIPPED

NEEDS = {
    "draftretriever": "draftretriever",
    "suffix-chain": "arctic_inference",
    "suffix-tree": "arctic_inference",
    "ngram-trie-frequency": "numpy",
    "ngram-trie-recency": "numpy",
    "racer": "numpy",
    "sam-recycling": "numpy",
}
TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=40)


def make(name: str):
    if importlib.util.find_spec(NEEDS[name]) is None:
        with pytest.raises(UnknownDrafterError, match="pip install"):
            create_drafter(name)
        pytest.skip(f"{NEEDS[name]} is not installed, and that is said")
    return create_drafter(name)


@pytest.mark.parametrize("name", NEEDS)
@given(prompt=TOKENS, emitted=st.lists(TOKENS, max_size=5), budget=st.integers(0, 40))
def test_their_drafts_are_valid_trees_within_the_budget(name: str, prompt, emitted, budget: int) -> None:
    session = make(name).start(prompt)
    for tokens in emitted:
        tree = session.draft(budget)
        tree.validate()
        assert len(tree) <= budget
        session.observe(Outcome(tokens, tree))


@pytest.mark.parametrize("name", sorted(set(NEEDS) - {"draftretriever"}))
def test_they_draft_a_repeated_passage(name: str) -> None:
    passage = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
    session = make(name).start([*passage, 1, 2, *passage[:6]])
    tree = session.draft(8)
    assert 17 in tree.children(-1)


def test_the_authors_code_drafts_from_a_corpus() -> None:
    drafter = make("draftretriever")
    drafter.build([[1, 2, 3, 4, 5, 6] * 20])
    session = drafter.start([1, 2, 3])
    assert 4 in session.draft(12).children(-1)


def test_the_authors_code_survives_a_budget_of_one() -> None:
    drafter = make("draftretriever")
    session = drafter.start([0, 1, 2, 0, 0, 9, 0, 2, 0, 0, 0, 0, 5, 7, 0])
    for text in ([7, 0, 0, 8, 2, 0, 2, 8, 8, 0, 7, 0, 0, 0, 0], [5, 0, 0, 6, 0, 8, 4, 0, 5, 0, 7, 8, 0, 3], [0, 0, 0]):
        assert len(session.draft(1)) <= 1
        session.observe(Outcome(text))
    drafter.build([[1, 2, 3]])
    assert len(session.draft(1)) <= 1


def test_frequency_and_recency_choose_what_they_say() -> None:
    text = [1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2]
    often = create_drafter("ngram-trie-frequency").start(text).draft(1)
    lately = create_drafter("ngram-trie-recency").start(text).draft(1)
    assert (often.tokens.tolist(), lately.tokens.tolist()) == ([3], [4])


def test_racer_unfolds_scores_with_fewer_children_for_later_ones() -> None:
    drafter = RacerDrafter(top_k=4)
    drafter.scores = {token: [10 * token + rank for rank in range(4)] for token in range(1, 2000)}
    paths = list(drafter.unfold(1, 12))
    assert [path for path in paths if len(path) == 1] == [[10], [11], [12], [13]]
    children = {first: sum(path[0] == first and len(path) == 2 for path in paths) for first in range(10, 14)}
    assert children == {10: 4, 11: 2, 12: 1, 13: 1}
    deeper = [path for path in drafter.unfold(1, 40) if len(path) == 3 and path[:2] == [10, 100]]
    assert len(deeper) == 2
    assert len(list(drafter.unfold(1, 5))) == 5


def test_racer_takes_the_most_frequent_passages_and_fills_up_with_scores() -> None:
    drafter = RacerDrafter(top_k=2, window=4)
    session = drafter.start([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3, 5, 9, 1, 2])
    paths = drafter.follow([9, 1, 2], 3)
    assert paths[0] == [3]
    assert [3, 5] in paths
    assert [3, 4] not in paths
    session.observe(Outcome([], DraftTree.empty(), top_ids=np.array([[7, 8]]), top_probs=np.ones((1, 2), np.float32)))
    assert {3, 7, 8} == set(session.draft(20).children(-1))


def test_racer_forgets_the_passages_seen_longest_ago() -> None:
    drafter = RacerDrafter(window=4, most=40)
    session = drafter.start(range(100, 130))
    for _ in range(3):
        session.observe(Outcome([1, 2, 3, 4, 5, 6, 7, 8], DraftTree.empty()))
    assert len(drafter.passages.children) <= 42
    assert drafter.passages.find([100, 101]) is None
    assert drafter.passages.find([5, 6, 7]) is not None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_the_automaton_finds_the_longest_suffix_that_stood_before_and_where_first(text: list[int]) -> None:
    known = SuffixAutomaton()
    for n, token in enumerate(text, 1):
        known.add(token)
        longest, place = 0, 0
        for length in range(n - 1, 0, -1):
            ends = [end for end in range(length, n) if text[end - length : end] == text[n - length : n]]
            if ends:
                longest, place = length, ends[0]
                break
        assert known.matched == longest
        if longest:
            assert known.place == place


def test_sam_decoding_drafts_longer_after_longer_matches_and_recycles_otherwise() -> None:
    drafter = SamDrafter(least=3, longest=20, factor=2.0)
    text = list(range(10, 40))
    session = drafter.start([*text, 1, *text[:3]])
    assert session.draft(40).tokens.tolist() == text[3:10]
    assert session.draft(4).tokens.tolist() == text[3:7]
    session.observe(Outcome([1], DraftTree.empty(), top_ids=np.array([[8, 9]]), top_probs=np.ones((1, 2), np.float32)))
    drafter.recycling.candidates[1] = [5, 6]
    assert set(session.draft(4).children(-1)) == {5, 6}, "too little stood before"


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=8), st.integers(0, 12))
def test_a_tree_of_paths_holds_each_path_up_to_the_cut(paths, most: int) -> None:
    tree = tree_of_paths(paths, most)
    tree.validate()
    assert len(tree) == min(most, len({tuple(p[: i + 1]) for p in paths for i in range(len(p))}))
    assert np.all(np.diff(tree.depths) >= 0)


def test_the_command_is_adeds_own_with_their_drafters_to_choose_from(tmp_path: Path) -> None:
    Trace(Trace.load(SHIPPED).sequences[:2]).save(tmp_path / "few")
    words = ["trace", "replay", str(tmp_path / "few"), "--max-draft-tokens", "4", "--json", "--drafters"]
    command = [sys.executable, "-m", "benchmarks.peers", *words, "ngram-trie-recency,prompt-lookup"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert [result["drafter"] for result in json.loads(shown.stdout)] == ["ngram-trie-recency", "prompt-lookup"]
    alone = [sys.executable, "-m", "aded.cli", *words, "ngram-trie-recency"]
    refused = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "choose one of adaptive" in refused.stderr


def test_the_package_imports_nothing_of_this_folder() -> None:
    for file in (ROOT / "src").rglob("*.py"):
        assert "benchmarks" not in {line.split()[1].split(".")[0] for line in _imports(file)}, file


def _imports(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line.startswith(("import ", "from "))]
