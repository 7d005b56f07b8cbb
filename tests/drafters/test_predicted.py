"""Predicted outputs: drafted while they match, found again after a mismatch, never believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import aded
from aded.budget import FixedBudget
from aded.drafters.predicted import Alignment, PredictedDrafter, predicted
from aded.traces.replay import decode_sequence
from aded.traces.trace import TracedSequence
from support.models import PROMPT, build
from support.tokenizers import word_level


def chain(alignment: Alignment, most: int = 4) -> list[int]:
    return alignment.draft(most).tokens.tolist()


def test_it_is_drafted_from_the_first_token_on_and_as_far_as_it_goes() -> None:
    alignment = Alignment([1, 2, 3, 4, 5])
    assert chain(alignment) == [1, 2, 3, 4]
    alignment.follow([1, 2, 3])
    assert chain(alignment) == [4, 5]
    alignment.follow([4, 5])
    assert chain(alignment) == []
    assert chain(Alignment([])) == []


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        ([1, 2, 99, 4, 5], [6, 7]),  # one replaced
        ([1, 2, 98, 99, 3, 4], [5, 6]),  # some put in
        ([1, 2, 5, 6], [7, 8]),  # some left out
        ([90, 91, 1, 2], [3, 4]),  # something before the file
        ([1, 2, 99, 3], []),  # one token alone says nothing
    ],
)
def test_it_is_found_again_after_a_mismatch(said: list[int], goes_on: list[int]) -> None:
    alignment = Alignment(range(1, 30))
    alignment.follow(said)
    assert chain(alignment, 2) == goes_on


def test_of_several_places_the_one_that_agrees_longest_and_then_the_nearest_is_meant() -> None:
    block = [7, 8, 9, 10]
    alignment = Alignment([1, *block, 2, *block, 3, *block, 4])
    alignment.follow([1, *block, 2, 50, 8, 9, 10])
    assert chain(alignment, 1) == [3]
    alignment.follow([60, 3, 7, 8])
    assert chain(alignment, 3) == [9, 10, 4]


def test_far_away_more_tokens_have_to_agree() -> None:
    far = Alignment([*range(100, 300), 1, 2, 3, 4, 5])
    far.follow([1, 2, 3])
    assert chain(far) == []
    far.follow([4])
    assert chain(far) == [5]


def test_what_is_wrong_again_and_again_is_believed_less() -> None:
    alignment = Alignment([1, 2] * 50)
    first = float(np.exp(alignment.draft(1).log_probs[0]))
    alignment.follow([3, 1, 2, 2])
    alignment.follow([9, 1, 2])
    assert float(np.exp(alignment.draft(1).log_probs[0])) < first
    for _ in range(20):
        alignment.follow([3, 1, 2, 2])
    alignment.follow([9, 1, 2])
    assert alignment.place is not None
    assert not len(alignment.draft(1))


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(0, 5), max_size=40))
def test_drafts_are_parts_of_the_prediction_and_probabilities_fall(prediction: list[int], said: list[int]) -> None:
    alignment, text = Alignment(prediction), ",".join(map(str, prediction)) + ","
    for token in said:
        alignment.follow([token])
        tree = alignment.draft(7)
        assert ",".join(map(str, tree.tokens.tolist())) in text
        assert (np.diff(tree.log_probs) <= 0).all()
        assert (tree.log_probs <= 0).all()


def test_an_edit_takes_few_steps_and_an_unrelated_prediction_hardly_more_than_none() -> None:
    draw = np.random.default_rng(0)
    file = draw.integers(0, 2000, 400)
    edited = np.concatenate([file[:100], [2001, 2002], file[103:250], file[255:]]).astype(np.int32)
    sequence = TracedSequence("", "", np.array([1, 2, 3], np.int32), edited)

    def steps(prediction: Any) -> int:
        drafter = aded.create_drafter("adaptive", memory_mb=1, sequence_mb=0.1)
        made = drafter if prediction is None else PredictedDrafter(drafter, [prediction])
        return decode_sequence(sequence, made, FixedBudget(32))[0].steps

    assert steps(file) < 40 < 300 < steps(None)
    assert steps(draw.integers(0, 2000, 400)) <= steps(None) + 1


@pytest.mark.parametrize("sampled", [False, True])
def test_a_prediction_changes_steps_and_no_output(sampled: bool) -> None:
    model = build("llama")
    options: dict[str, Any] = {"max_new_tokens": 60, "pad_token_id": 0, "do_sample": sampled}
    torch.manual_seed(3)
    plain = model.generate(PROMPT, **options)
    answer = plain[0, PROMPT.shape[1] :].tolist()
    wrong = [*answer[:20], 39, 38, *answer[22:40], *answer[44:]]
    for prediction, most in ((answer, 12), (wrong, 20), (answer[::-1], 64)):
        stats = aded.Stats()
        torch.manual_seed(3)
        ours = {"custom_generate": aded.generate, "drafter": "none", "max_draft_tokens": 16, "stats": stats}
        assert torch.equal(model.generate(PROMPT, **options, **ours, prediction=prediction), plain)
        assert stats.steps <= most
        assert stats.drafted > 0
    assert stats.accepted < stats.drafted


def test_rows_have_predictions_of_their_own() -> None:
    model = build("llama")
    prompts = torch.cat([PROMPT, PROMPT.flip(1)])
    options: dict[str, Any] = {"max_new_tokens": 40, "pad_token_id": 0, "do_sample": False}
    plain = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    answers = plain[:, PROMPT.shape[1] :].tolist()
    for predictions in (answers, [answers[0], []]):
        stats = aded.Stats()
        with aded.predicting(predictions):
            ours = {"custom_generate": aded.generate, "max_draft_tokens": 12, "stats": stats}
            assert torch.equal(
                model.generate(prompts, attention_mask=torch.ones_like(prompts), **options, **ours), plain
            )
        assert stats.accepted > 0
    assert stats.passes < 40


def test_a_text_is_read_by_the_tokenizer_that_generate_was_given() -> None:
    model, tokenizer = build("llama"), word_level()
    options: dict[str, Any] = {"max_new_tokens": 8, "pad_token_id": 0, "do_sample": False}
    plain = model.generate(PROMPT, **options)
    aded.accelerate(model, max_draft_tokens=8)
    assert torch.equal(model.generate(PROMPT, **options, prediction="the cat sat", tokenizer=tokenizer), plain)
    with pytest.raises(aded.SettingsError, match="needs a tokenizer"):
        model.generate(PROMPT, **options, prediction="the cat sat")
    aded.restore(model)


@pytest.mark.parametrize("wrong", [[[1], [2]], [-1], [2**40], [[1.5]], [[[1]]], [None], [{}]])
def test_what_is_no_prediction_is_refused(wrong: Any) -> None:
    with pytest.raises(aded.SettingsError, match="prediction: "):
        predicted(aded.create_drafter("none"), wrong, 1, lambda text: [])
