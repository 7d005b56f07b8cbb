"""Processors and criteria that may look at all rows of a batch see what plain decoding shows them, call by call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import aded
from support.kinds import encoder_decoder, recurrent
from support.models import build
from support.oracle import Uneven

PROMPTS = {
    "input_ids": torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [0, 0, 5, 3, 8, 9, 7, 9], [0, 2, 3, 8, 4, 6, 2, 6]]),
    "attention_mask": torch.tensor([[1] * 8, [0, 0, *[1] * 6], [0, *[1] * 7]]),
}
KINDS = ["llama", "mistral-sliding", "bloom", "qwen3-next", "t5"]


def model_of(kind: str) -> Any:
    return encoder_decoder(kind)[0] if kind == "t5" else recurrent(kind) if kind == "qwen3-next" else build(kind)


class Counting(LogitsProcessor):
    """Keeps a state, and favours in each row what its neighbour said last. Remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[list[int]]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.shown.append(input_ids.tolist())
        raised = scores.clone()
        rows = torch.arange(len(scores))
        raised[rows, input_ids.roll(1, 0)[:, -1]] += len(self.shown) % 3
        raised[rows, len(self.shown) % scores.shape[-1]] += 1.0
        return raised


class Some(StoppingCriteria):
    """A row ends after so many calls; the answer is one for all rows where it is not asked for each."""

    def __init__(self, after: int, *, each: bool) -> None:
        self.after, self.each, self.calls = after, each, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if not self.each:
            return torch.full((len(input_ids),), self.calls >= self.after)
        return torch.tensor([self.calls >= self.after + 2 * row for row in range(len(input_ids))])


def both(kind: str, make: Any, *, budget: Any = 5, seed: int = 3, **options: Any) -> tuple[Any, Any, list[Any]]:
    """Plain output and ours, with processors and criteria made anew for each, which are returned."""
    model, made = model_of(kind), []
    options = {**PROMPTS, "max_new_tokens": 24, "pad_token_id": 0, "do_sample": False, **options}
    outputs: list[Any] = []
    stats = aded.Stats()
    for ours in (False, True):
        asked = make()
        made.append(asked)
        mine = dict(options)
        if ours:
            said = outputs[0] if isinstance(outputs[0], torch.Tensor) else outputs[0].sequences
            start = 1 if kind == "t5" else options["input_ids"].shape[1]
            knowing = Uneven(said[:, start:].tolist(), vocabulary=90 if kind == "t5" else 40)
            mine |= {"custom_generate": aded.generate, "drafter": knowing, "max_draft_tokens": budget, "stats": stats}
        torch.manual_seed(seed)
        outputs.append(model.generate(**mine, **asked))
    assert stats.accepted > 0
    assert stats.passes < 24
    return outputs[0], outputs[1], made


def processors() -> dict[str, Any]:
    return {"logits_processor": LogitsProcessorList([Counting()])}


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_processor_that_keeps_a_state_is_called_as_plain_decoding_calls_it(kind: str, sampled: bool) -> None:
    plain, ours, made = both(kind, processors, do_sample=sampled, top_k=20)
    assert torch.equal(plain, ours)
    shown = [asked["logits_processor"][0].shown for asked in made]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_criteria_that_count_or_look_at_rows_end_what_they_end_in_plain_decoding(kind: str, each: bool) -> None:
    """With an end-of-sequence token, rows that have ended are filled up; without, they go on until all have."""
    for end in (None, 97 if kind == "t5" else 39):
        plain, ours, made = both(
            kind, lambda: {"stopping_criteria": StoppingCriteriaList([Some(13, each=each)])}, eos_token_id=end
        )
        assert torch.equal(plain, ours)
        assert made[0]["stopping_criteria"][0].calls == made[1]["stopping_criteria"][0].calls


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_a_batch_are_those_of_plain_decoding(kind: str) -> None:
    """Those of rows that have ended as well, which plain decoding goes on to compute."""
    dictionary = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "pad_token_id": 7}
    free, _, _ = both(kind, dict, **dictionary)
    end = int(free.sequences[1, -12])
    plain, ours, _ = both(kind, processors, eos_token_id=end, **dictionary)
    assert torch.equal(plain.sequences, ours.sequences)
    assert len(plain.scores) == len(ours.scores)
    for field in ("scores", "logits"):
        torch.testing.assert_close(getattr(ours, field), getattr(plain, field), rtol=2e-4, atol=2e-4)


def only_some(row: int, ids: torch.Tensor) -> list[int]:
    return list(range(row + len(ids) % 3, 39, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"prefix_allowed_tokens_fn": only_some},
        {"do_sample": True, "watermarking_config": tf.SynthIDTextWatermarkingConfig(ngram_len=3, keys=[1, 2])},
        {"guidance_scale": 1.5},
    ],
    ids=lambda options: next(iter(reversed(options))),
)
def test_the_librarys_own_that_tell_rows_apart(options: dict[str, Any]) -> None:
    plain, ours, _ = both("llama", dict, **options)
    assert torch.equal(plain, ours)


def test_what_rows_are_filled_up_with_is_fed_to_those_alone_that_have_ended() -> None:
    """A padding token may lie outside the vocabulary, which does no harm as long as no row has ended."""
    plain, ours, _ = both("llama", processors, pad_token_id=4000)
    assert torch.equal(plain, ours)


def test_rows_that_end_at_once_and_a_budget_that_measures() -> None:
    free, _, _ = both("llama", processors)
    ends = [int(free[0, 8]), int(free[1, 14])]
    plain, ours, _ = both("llama", processors, eos_token_id=ends)
    assert torch.equal(plain, ours)
    model = build("llama")
    options: dict[str, Any] = {**PROMPTS, "max_new_tokens": 24, "pad_token_id": 0, "do_sample": False}
    assert torch.equal(free, model.generate(**options, **processors(), custom_generate=aded.generate))
