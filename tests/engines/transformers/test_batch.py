"""A batch gives every row what it gives without us, whichever rows run ahead and whichever end first."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import aded
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.sampling import SharedNoise
from support.kinds import RECURRENT, encoder_decoder, recurrent
from support.models import FAMILIES, build
from support.oracle import Uneven
from support.streamers import Recorder

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [8, 9, 7, 9, 3], [2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8]]


def padded(prompts: Sequence[Sequence[int]] = PROMPTS) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def pair(
    model: Any, inputs: dict[str, torch.Tensor], *, max_draft_tokens: Any = 12, vocabulary: int = 40, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, aded.Stats]:
    """The same call without us and with a drafter that knows every row's answer among wrong branches."""
    options = {"max_new_tokens": 30, "pad_token_id": 0, "do_sample": False, **options}
    torch.manual_seed(5)
    plain = model.generate(**inputs, **options)
    state = torch.get_rng_state()
    encoded = model.config.is_encoder_decoder
    answers = plain[:, 1 if encoded else inputs["input_ids"].shape[1] :].tolist()
    stats = aded.Stats()
    torch.manual_seed(5)
    ours = model.generate(
        **inputs,
        **options,
        custom_generate=aded.generate,
        drafter=Uneven(answers, vocabulary=vocabulary),
        max_draft_tokens=max_draft_tokens,
        stats=stats,
    )
    assert torch.equal(torch.get_rng_state(), state), "the generator is left where plain decoding leaves it"
    if options["max_new_tokens"] > 1 and max_draft_tokens != "auto":  # that depends on how busy the machine is
        assert 0 < stats.accepted < stats.drafted
    return plain, ours, stats


@pytest.mark.parametrize("seed", [None, 7], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_the_models_own(family: str, seed: int | None) -> None:
    sampling = {} if seed is None else {"do_sample": True, "temperature": 1.3, "top_k": 20}
    plain, ours, stats = pair(build(family), padded(), **sampling)
    assert torch.equal(plain, ours)
    assert stats.passes < 30
    assert stats.tokens == 4 * 30


@pytest.mark.parametrize("seed", [None, 7], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", [*RECURRENT, "t5", "bart"])
def test_rows_that_take_no_mask_of_their_own_are_kept_in_step(kind: str, seed: int | None) -> None:
    """Those that are ahead take their last tokens in again, or wait: states and encoder-decoders."""
    model, vocabulary = (recurrent(kind), 40) if kind in RECURRENT else (encoder_decoder(kind)[0], 90)
    sampling: dict[str, Any] = {} if seed is None else {"do_sample": True, "temperature": 1.3, "top_k": 20}
    sampling |= {"no_repeat_ngram_size": 2, "max_new_tokens": 20, "min_new_tokens": 20, "vocabulary": vocabulary}
    plain, ours, stats = pair(model, padded(), **sampling)
    assert torch.equal(plain, ours)
    assert stats.passes < 20
    assert stats.tokens == 4 * 20
    plain, ours, _ = pair(model, padded(), max_draft_tokens=3, **sampling)
    assert torch.equal(plain, ours)
    del sampling["vocabulary"]
    options: dict[str, Any] = {"pad_token_id": 0, "do_sample": False, **sampling}
    torch.manual_seed(5)
    assert torch.equal(plain, model.generate(**padded(), **options, custom_generate=aded.generate))  # as it pays


@pytest.mark.parametrize("kind", ["bloom", "qwen3-next", "granite-hybrid", "lfm2", "t5"])
def test_rows_in_step_end_each_at_its_own_end(kind: str) -> None:
    families = {"bloom": build, "t5": lambda name: encoder_decoder(name)[0]}
    model, vocabulary = families.get(kind, recurrent)(kind), 90 if kind == "t5" else 40
    options: dict[str, Any] = {"no_repeat_ngram_size": 2, "vocabulary": vocabulary}
    free, _, _ = pair(model, padded(), min_new_tokens=30, **options)
    prompt = free.shape[1] - 30
    for row, position in [(0, 3), (2, 17)]:
        ends = [int(free[row, prompt + position]), int(free[1, prompt + 12])]
        plain, ours, stats = pair(model, padded(), eos_token_id=ends, **options)
        assert torch.equal(plain, ours)
        assert stats.tokens < 4 * 30
        assert 0 < stats.accepted < stats.drafted


def test_a_row_that_is_far_ahead_waits() -> None:
    """A pass is as wide as the rows that are behind need."""
    model = build("bloom")
    plain = model.generate(**padded(), max_new_tokens=30, pad_token_id=0, do_sample=False)
    answers = plain[:, padded()["input_ids"].shape[1] :].tolist()
    answers[1:] = [[], [], []]  # nothing is drafted for them
    emitted: list[int] = []

    class Watched(Uneven):
        def start(self, prompt: Any) -> Any:
            session = super().start(prompt)
            watch = session.observe
            session.observe = lambda outcome: (emitted.append(len(outcome.emitted)), watch(outcome))
            return session

    stats = aded.Stats()
    options = {"drafter": Watched(answers), "max_draft_tokens": 12, "stats": stats, "custom_generate": aded.generate}
    ours = model.generate(**padded(), max_new_tokens=30, pad_token_id=0, do_sample=False, **options)
    assert torch.equal(plain, ours)
    assert stats.passes == 30
    assert max(emitted) > 1
    assert stats.steps > len(emitted)  # rows that took part and emitted nothing


def test_rows_are_those_of_the_prompts_alone() -> None:
    model, options = build("llama"), {"max_new_tokens": 30, "pad_token_id": 0, "do_sample": False}
    alone = [model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() for prompt in PROMPTS]
    for drafter in (aded.create_drafter("adaptive"), Uneven(alone, top_k=8)):
        stats = aded.Stats()
        together = model.generate(
            **padded(), **options, custom_generate=aded.generate, drafter=drafter, max_draft_tokens=12, stats=stats
        )
        assert [row[-30:] for row in together.tolist()] == alone
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("sample", [False, True])
def test_rows_end_each_at_its_own_end(sample: bool) -> None:
    model = build("llama")
    free, _, _ = pair(model, padded(), do_sample=sample)
    width = padded()["input_ids"].shape[1]
    for row, position in [(0, 3), (1, 9), (2, 17), (3, 5)]:
        end = int(free[row, width + position])
        ends = [end, int(free[1, width + 12])]
        plain, ours, stats = pair(model, padded(), do_sample=sample, eos_token_id=ends)
        assert torch.equal(plain, ours)
        lengths = [
            next((i + 1 for i, token in enumerate(said) if token in ends), 30) for said in plain[:, width:].tolist()
        ]
        assert stats.tokens == sum(lengths)
        assert len(set(lengths)) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"do_sample": True, "top_p": 0.9, "temperature": 0.7, "repetition_penalty": 1.2},
        {"max_new_tokens": 1},
        {"prefill_chunk_size": 4},
        {"max_draft_tokens": "auto"},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_hold_for_every_row(options: dict[str, Any]) -> None:
    model, options = build("llama"), {"max_new_tokens": 24, **options}
    plain, ours, stats = pair(model, padded(), **options)
    assert torch.equal(plain, ours)
    assert stats.tokens == 4 * options["max_new_tokens"]
    options = {"pad_token_id": 0, "do_sample": False, **options}
    most = options.pop("max_draft_tokens", 12)
    torch.manual_seed(5)
    assert torch.equal(
        plain, model.generate(**padded(), **options, custom_generate=aded.generate, max_draft_tokens=most)
    )


def test_several_samples_of_one_prompt() -> None:
    plain, ours, _ = pair(build("llama"), padded(PROMPTS[:1]), do_sample=True, num_return_sequences=3)
    assert torch.equal(plain, ours)
    assert len(ours) == 3


def test_a_streamer_sees_a_batch_one_position_at_a_time() -> None:
    model = build("llama")
    free, _, _ = pair(model, padded())
    width = padded()["input_ids"].shape[1]
    options: dict[str, Any] = {"max_new_tokens": 24, "pad_token_id": 0, "do_sample": False}
    options["eos_token_id"] = int(free[2, width + 4])
    plain, ours, stats = Recorder(), Recorder(), aded.Stats()
    model.generate(**padded(), streamer=plain, **options)
    options |= {"drafter": Uneven(free[:, width:].tolist(), top_k=8), "max_draft_tokens": 12, "stats": stats}
    model.generate(**padded(), streamer=ours, custom_generate=aded.generate, **options)
    assert plain.seen == ours.seen
    assert ours.ended == 1
    assert 0 < stats.accepted < stats.drafted


def test_a_dictionary_is_returned_where_asked_for() -> None:
    model, options = build("llama"), {"max_new_tokens": 8, "pad_token_id": 0, "return_dict_in_generate": True}
    plain = model.generate(**padded(), do_sample=False, **options)
    stats, knowing = aded.Stats(), Uneven(plain.sequences[:, padded()["input_ids"].shape[1] :].tolist(), top_k=8)
    options |= {"drafter": knowing, "max_draft_tokens": 12, "stats": stats}
    ours = model.generate(**padded(), do_sample=False, custom_generate=aded.generate, **options)
    assert torch.equal(plain.sequences, ours.sequences)
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3-next"])
def test_the_cache_that_is_returned_goes_on_as_plain_decodings(name: str) -> None:
    """Two turns of a batch: the second has the cache of the first, which is ours or plain decoding's."""
    model = recurrent(name) if name in RECURRENT else build(name)
    options = {"pad_token_id": 0, "return_dict_in_generate": True, "do_sample": False, "eos_token_id": None}
    first, stats = padded(), aded.Stats()
    plain = model.generate(**first, max_new_tokens=13, **options)
    drafter = Uneven(plain.sequences[:, first["input_ids"].shape[1] :].tolist())
    ours = model.generate(
        **first,
        max_new_tokens=13,
        **options,
        custom_generate=aded.generate,
        drafter=drafter,
        max_draft_tokens=6,
        stats=stats,
    )
    assert torch.equal(plain.sequences, ours.sequences)
    assert 0 < stats.accepted < stats.drafted
    ones = torch.ones(len(plain.sequences), 13 + 5, dtype=torch.long)
    mask = torch.cat([first["attention_mask"], ones], dim=1)
    ids = torch.cat([plain.sequences, torch.arange(5, 10).repeat(len(ones), 1)], dim=1)

    def second(cache: Any, **more: Any) -> Any:
        given = {"input_ids": ids, "attention_mask": mask, CACHE: deepcopy(cache)}
        return model.generate(**given, max_new_tokens=12, **options, **more).sequences

    expected = second(getattr(plain, CACHE))
    assert torch.equal(expected, second(getattr(ours, CACHE)))
    if name not in RECURRENT:  # a filled state is refused
        stats = aded.Stats()
        drafter = Uneven(expected[:, ids.shape[1] :].tolist())
        more = {"drafter": drafter, "max_draft_tokens": 6, "stats": stats, "custom_generate": aded.generate}
        assert torch.equal(expected, second(getattr(ours, CACHE), **more))
        assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_batch_in_a_static_cache_gives_the_models_own_output(sampled: bool, own: bool) -> None:
    model, options = build("llama"), {"pad_token_id": 0, "do_sample": sampled, "max_new_tokens": 24, "eos_token_id": 7}
    caches = [tf.StaticCache(model.config, max_cache_len=64) for _ in range(2)] if own else [None, None]
    static = {"cache_implementation": "static", "disable_compile": True}
    given = [{CACHE: cache, "disable_compile": True} if own else static for cache in caches]
    for _ in range(2 if own else 1):  # a cache of the caller's is good for the next batch
        torch.manual_seed(2)
        plain, stats = model.generate(**padded(), **options, **given[0]), aded.Stats()
        drafter = Uneven(plain[:, padded()["input_ids"].shape[1] :].tolist())
        more = {"drafter": drafter, "max_draft_tokens": 6, "stats": stats, "custom_generate": aded.generate}
        torch.manual_seed(2)
        assert torch.equal(plain, model.generate(**padded(), **options, **given[1], **more))
        assert 0 < stats.accepted < stats.drafted
        for cache in filter(None, caches):
            cache.reset()


@settings(max_examples=30, deadline=None)
@given(order=st.lists(st.integers(0, 2), min_size=30, max_size=30), memory=st.sampled_from([1, 2000, 10**9]))
def test_choices_do_not_depend_on_which_row_is_ahead(order: list[int], memory: int) -> None:
    """Nor on how much of the noise drawn is remembered."""
    rows, probs = 3, torch.rand(30, 3, 50).softmax(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aded.engines.transformers.sampling._MEMORY", memory)
        torch.manual_seed(3)
        expected = [torch.multinomial(step, 1)[:, 0].tolist() for step in probs]
        torch.manual_seed(3)
        noise, positions = SharedNoise(rows), [0] * rows
        for row in order:
            position = positions[row]
            assert noise(probs[position, row : row + 1], row, position) == expected[position][row]
            positions[row] += 1
