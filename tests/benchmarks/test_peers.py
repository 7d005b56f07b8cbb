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
from aded import Outcome, UnknownDrafterError, create_drafter
from aded.traces import Trace
from benchmarks.peers.paths import tree_of_paths
from support.paths import ROOT, SHIPPED

NEEDS = {
    "draftretriever": "draftretriever",
    "suffix-chain": "arctic_inference",
    "suffix-tree": "arctic_inference",
    "ngram-trie-frequency": "numpy",
    "ngram-trie-recency": "numpy",
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


@pytest.mark.parametrize("name", ["suffix-chain", "suffix-tree", "ngram-trie-frequency", "ngram-trie-recency"])
def test_they_draft_a_repeated_passage(name: str) -> None:
    session = make(name).start([11, 12, 13, 14, 15, 16, 1, 2, 11, 12, 13])
    tree = session.draft(8)
    assert 14 in tree.children(-1)


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
