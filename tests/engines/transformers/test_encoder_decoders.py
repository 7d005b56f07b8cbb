"""Encoder-decoders: trees in the decoder, drafted from what the encoder was given as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from transformers import LogitsProcessor

import aded
from aded.errors import UnsupportedError
from support.kinds import encoder_decoder
from support.models import PROMPT
from support.oracle import ChainThenWrong, Oracle
from sweep.shrink import small_model

NAMES = ["t5", "umt5", "bart", "marian", "m2m100", "t5gemma", "whisper"]


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_encoder_decoders_verify_trees(name: str, sampled: bool) -> None:
    model, given = encoder_decoder(name)
    options: dict[str, Any] = {**given, "do_sample": sampled, "max_new_tokens": 40, "min_new_tokens": 40}
    options["no_repeat_ngram_size"] = 2  # random models repeat themselves
    torch.manual_seed(5)
    plain = model.generate(**options)
    assert len(set(plain[0].tolist())) > 4
    for kind, budget in ((Oracle, 8), (ChainThenWrong, 6), (ChainThenWrong, "auto")):
        stats = aded.Stats()
        drafter = kind(plain[0, -40:].tolist(), vocabulary=90)
        undo = aded.accelerate(model, drafter=drafter, max_draft_tokens=budget)
        torch.manual_seed(5)
        assert torch.equal(plain, model.generate(**options, stats=stats))
        undo()
        if budget != "auto":
            assert 0 < stats.accepted < stats.drafted


def test_other_decoders_that_derive_positions_verify_trees() -> None:
    model = small_model(tf.PegasusForCausalLM, {"is_decoder": True})
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 30, "no_repeat_ngram_size": 2, "pad_token_id": 0}
    plain, stats = model.generate(PROMPT, **options), aded.Stats()
    drafter = Oracle(plain[0, PROMPT.shape[1] :].tolist(), vocabulary=90)
    options |= {"drafter": drafter, "max_draft_tokens": 8, "stats": stats}
    assert torch.equal(plain, model.generate(PROMPT, **options, custom_generate=aded.generate))
    assert 0 < stats.accepted < stats.drafted


class Padding(LogitsProcessor):
    """Every third token is the one that pads, as a model may choose it."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if input_ids.shape[1] % 3 == 0:
            scores[:, 1] = 1e9
        return scores


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", [Oracle, ChainThenWrong])
def test_a_drafted_token_that_pads_moves_no_position(kind: type[Oracle], rows: int) -> None:
    """Where the library counts only other tokens, a pass over several would count fewer than plain decoding does."""
    model, _ = encoder_decoder("m2m100")
    assert model.config.pad_token_id == 1
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 30, "logits_processor": [Padding()]}
    options |= {"input_ids": PROMPT.repeat(rows, 1), "eos_token_id": None, "output_logits": True}
    options |= {"return_dict_in_generate": True, "no_repeat_ngram_size": 3}
    plain, stats = model.generate(**options), aded.Stats()
    said = plain.sequences[0, 1:].tolist()
    assert said.count(1) == 10
    options |= {"drafter": kind(said, vocabulary=90), "max_draft_tokens": 8, "stats": stats}
    ours = model.generate(**options, custom_generate=aded.generate)
    assert torch.equal(plain.sequences, ours.sequences)
    for a, b in zip(plain.logits, ours.logits, strict=True):
        torch.testing.assert_close(a, b)
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
