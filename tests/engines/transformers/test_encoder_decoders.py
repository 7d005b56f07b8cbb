"""Encoder-decoders: chains in the decoder, drafted from what the encoder was given as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import aded
from aded.errors import UnsupportedError
from support.kinds import encoder_decoder
from support.models import PROMPT
from support.oracle import ChainThenWrong, Oracle


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_encoder_decoders_verify_chains(name: str, sampled: bool) -> None:
    model, given = encoder_decoder(name)
    options: dict[str, Any] = {**given, "do_sample": sampled, "max_new_tokens": 40, "min_new_tokens": 40}
    options["no_repeat_ngram_size"] = 2  # random models repeat themselves
    torch.manual_seed(5)
    plain = model.generate(**options)
    assert len(set(plain[0].tolist())) > 4
    for budget in (6, "auto"):
        stats = aded.Stats()
        drafter = ChainThenWrong(plain[0, -40:].tolist(), vocabulary=90)
        undo = aded.accelerate(model, drafter=drafter, max_draft_tokens=budget)
        torch.manual_seed(5)
        assert torch.equal(plain, model.generate(**options, stats=stats))
        undo()
        if budget == 6:
            assert 0 < stats.accepted < stats.drafted


class Asked:
    """Drafts nothing, and keeps what it was told of the prompt."""

    top_k = 0

    def start(self, prompt: Any) -> Any:
        self.prompt = list(prompt)
        return Oracle([]).start(prompt)


@pytest.mark.parametrize("direct", [False, True])
def test_drafts_are_made_from_what_an_encoder_was_given_as_well(direct: bool) -> None:
    (model, given), drafter = encoder_decoder("t5"), Asked()
    options: dict[str, Any] = {**given, "max_new_tokens": 4, "do_sample": False}
    if direct:
        model.generate(**options, custom_generate=aded.generate, drafter=drafter)
    else:
        aded.accelerate(model, drafter=drafter)
        model.generate(**options)
    assert drafter.prompt == [*PROMPT[0].tolist(), 1]


def test_of_a_batch_each_row_is_told_what_its_own_encoder_was_given() -> None:
    (model, _), told = encoder_decoder("t5"), []

    class Each(Asked):
        def start(self, prompt: Any) -> Any:
            told.append(list(prompt))
            return super().start(prompt)

    rows = {"input_ids": torch.tensor([[5, 6, 7], [0, 8, 9]]), "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])}
    model.generate(**rows, max_new_tokens=4, do_sample=False, custom_generate=aded.generate, drafter=Each())
    assert told == [[5, 6, 7, 1], [8, 9, 1]]


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_a_dictionary_is_returned_where_asked_for(name: str) -> None:
    model, given = encoder_decoder(name)
    options: dict[str, Any] = {**given, "do_sample": False, "max_new_tokens": 30, "return_dict_in_generate": True}
    options |= {"output_scores": True, "output_logits": True}
    plain, stats = model.generate(**options), aded.Stats()
    drafter = ChainThenWrong(plain.sequences[0, -30:].tolist(), vocabulary=90)
    options |= {"drafter": drafter, "max_draft_tokens": 5, "stats": stats}
    ours = model.generate(**options, custom_generate=aded.generate)
    assert 0 < stats.accepted < stats.drafted
    assert type(ours) is type(plain)
    assert list(ours) == list(plain)
    assert torch.equal(plain.sequences, ours.sequences)
    for field in ("scores", "logits"):
        torch.testing.assert_close(getattr(ours, field), getattr(plain, field))


def test_beams_are_refused_and_decoded_plainly() -> None:
    model, given = encoder_decoder("bart")
    options: dict[str, Any] = {**given, "max_new_tokens": 6, "do_sample": False, "num_beams": 2}
    with pytest.raises(UnsupportedError):
        model.generate(**options, custom_generate=aded.generate)
    aded.accelerate(model, on_unsupported="fallback")
    with pytest.warns(UserWarning, match="decoding plainly"):
        ours = model.generate(**options)
    aded.restore(model)
    assert torch.equal(model.generate(**options), ours)
