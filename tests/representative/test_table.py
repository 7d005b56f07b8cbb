from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded import Representative, StateFileError
from aded.representative import Interpolation, InterpolationWeights, context_windows
from aded.search import best_first
from support.tables import TEXTS, predict, small


@given(TEXTS)
def test_text_once_learned_is_predicted(tokens: list[int]) -> None:
    table = small()
    table.learn_text(tokens)
    for i in range(1, len(tokens)):
        assert tokens[i] in dict(predict(table, tokens[:i]))


@given(TEXTS, st.integers(1, 5), st.integers(0, 20))
def test_windows_pair_each_token_with_what_came_before(tokens: list[int], length: int, start: int) -> None:
    contexts, following = context_windows(np.asarray(tokens, np.int32), length, start)
    first = max(start, 1)
    assert following.tolist() == tokens[first:]
    for row, context in enumerate(contexts.tolist()):
        before = tokens[max(first + row - length, 0) : first + row]
        assert context == [-1] * (length - len(before)) + before


def test_a_distribution_is_learned_as_it_is() -> None:
    table = small(orders=(2,))
    mixed = Interpolation([table], InterpolationWeights((2,), 1, (0.0,)))
    table.learn(np.array([[4, 5]], np.int32), np.array([[7, 9]], np.int32), np.array([[0.6, 0.3]], np.float32))
    assert dict(mixed.predict([4, 5])) == pytest.approx({7: 0.6, 9: 0.3})
    assert mixed.predict([5, 4]) == []


def test_memory_never_grows_and_old_contexts_give_way() -> None:
    table = small(memory_mb=0.01)
    before = table.nbytes
    rng = np.random.default_rng(0)
    for _ in range(20):
        table.learn_text(rng.integers(0, 60, 500).astype(np.int32))
    assert table.nbytes == before <= 0.01 * 2**20
    table.learn_text([1, 2, 3, 4])
    assert predict(table, [1, 2, 3])[0][0] == 4


def test_saved_state_predicts_the_same_after_loading(tmp_path: Path) -> None:
    table = small()
    table.learn_text([1, 2, 3, 4, 1, 2, 5] * 5)
    table.save(tmp_path / "state.safetensors")
    other = small(memory_mb=0.5)
    other.load(tmp_path / "state.safetensors")
    assert dict(predict(other, [1, 2])) == pytest.approx(dict(predict(table, [1, 2])))
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize(("options", "word"), [({"vocab_size": 65}, "vocabulary"), ({"fingerprint": "b"}, "tokenizer")])
def test_state_of_another_model_is_refused(tmp_path: Path, options, word: str) -> None:
    table = small()
    table.learn_text([1, 2, 3])
    table.save(tmp_path / "state")
    other = small(**options)
    other.learn_text([1, 2, 9])
    with pytest.raises(StateFileError, match=word):
        other.load(tmp_path / "state")
    with pytest.raises(StateFileError, match=word):
        other.merge(table)
    assert predict(other, [1, 2])[0][0] == 9


@given(st.data())
def test_a_damaged_file_is_refused_and_nothing_is_lost(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    table = small()
    table.learn_text([1, 2, 3, 1, 2, 4])
    table.save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    before = predict(table, [1, 2])
    with pytest.raises(StateFileError):
        table.load(path)
    assert predict(table, [1, 2]) == before


def test_a_bit_flipped_in_the_files_header_or_its_padding_is_refused(tmp_path: Path) -> None:
    table = small(memory_mb=0.01)
    for length in range(8):  # of the header, one of which is padded
        table.fingerprint = "f" * length
        table.save(tmp_path / "state")
        content = (tmp_path / "state").read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        if content[end - 1 : end] == b" ":
            break
    assert content[end - 1 : end] == b" ", "there is padding"
    for position in range(end):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "state").write_bytes(damaged)
        with pytest.raises(StateFileError):
            table.load(tmp_path / "state")


def test_a_missing_or_foreign_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateFileError, match="there is no state file"):
        small().load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StateFileError, match="not an ADED state file"):
        small().load(tmp_path / "text")


def test_merging_keeps_what_both_know() -> None:
    a, b = small(), small()
    a.learn_text([1, 2, 3])
    b.learn_text([4, 5, 6])
    a.merge(b)
    assert predict(a, [1, 2])[0][0] == 3
    assert predict(a, [4, 5])[0][0] == 6


def test_two_threads_draft_and_learn_from_one_state() -> None:
    table = small(memory_mb=1)
    errors: list[Exception] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(200):
                tokens = rng.integers(0, 60, 40).astype(np.int32)
                table.learn_text(tokens)
                tree = best_first(Interpolation([table]), tokens[-5:], 32)
                tree.validate()
                assert (tree.tokens < 64).all()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("options", [{"orders": (2, 1)}, {"orders": ()}, {"memory_mb": 0.00001}])
def test_settings_that_make_no_table_are_refused(options) -> None:
    with pytest.raises(ValueError):
        Representative(**{"orders": (1, 2), **options})
