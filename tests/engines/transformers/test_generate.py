"""Everything `generate` can be asked for gives what it gives without us."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, StaticCache

import aded
from aded.engines.transformers import cache as kv
from aded.engines.transformers.compat import CACHE, cache_of, with_cache
from aded.engines.transformers.scores import top_k
from support.models import PROMPT, build
from support.oracle import Chain, Oracle, Uneven
from support.streamers import Recorder


@pytest.fixture(scope="module")
def model() -> Any:
    return build("llama")


class EveryThird(tf.LogitsProcessor):
    """Depends on the prefix: which tokens are pushed changes with its length and its last token."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        pushed = scores.clone()
        pushed[:, (int(input_ids[0, -1]) + input_ids.shape[1]) % scores.shape[1] :: 3] += 2.0
        return pushed


class SeenTwice(tf.StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[0, PROMPT.shape[1] :].tolist()
        return torch.tensor([len(new) > 10 and new.count(new[-1]) >= 2])


def pair(model: Any, seed: int = 5, **options: Any) -> tuple[Any, Any, aded.Stats]:
    """The same call without us and with an oracle that drafts the right answer among wrong branches."""
    options = {"max_new_tokens": 30, "pad_token_id": 0, "do_sample": False, **options}
    inputs = options.pop("inputs", PROMPT)
    torch.manual_seed(seed)
    plain = model.generate(inputs, **options)
    answer = plain if isinstance(plain, torch.Tensor) else plain.sequences
    stats = aded.Stats()
    oracle = Oracle([*answer[0, inputs.shape[1] :].tolist(), 1, 2, 3, 4])
    torch.manual_seed(seed)
    ours = model.generate(
        inputs, **options, custom_generate=aded.generate, drafter=oracle, max_draft_tokens=16, stats=stats
    )
    return plain, ours, stats


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[3], [5, 7]]},
        {"min_new_tokens": 20, "eos_token_id": list(range(20))},
        {"logits_processor": tf.LogitsProcessorList([EveryThird()])},
        {"stopping_criteria": tf.StoppingCriteriaList([SeenTwice()])},
        {"max_new_tokens": 1},
        {"max_new_tokens": 7},
        {"max_length": 16, "max_new_tokens": None},
        {"max_time": 60.0},
        {"forced_eos_token_id": 9},
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2},
        {"do_sample": True, "min_p": 0.02, "typical_p": 0.95},
        {"do_sample": True, "top_k": 5, "logits_processor": tf.LogitsProcessorList([EveryThird()])},
        {"prefill_chunk_size": 4},
        {"inputs": PROMPT[:, :1]},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_give_the_models_own_output(model: Any, options: dict[str, Any]) -> None:
    plain, ours, stats = pair(model, **options)
    assert torch.equal(plain, ours)
    new = ours.shape[1] - options.get("inputs", PROMPT).shape[1]
    assert stats.tokens == new
    assert new < 5 or stats.steps < stats.tokens
    assert new == 1 or 0 < stats.accepted < stats.drafted


def test_an_end_inside_an_accepted_path_ends_the_output(model: Any) -> None:
    free, _, _ = pair(model)
    inside = []
    for position in range(2, 9):
        eos = int(free[0, PROMPT.shape[1] + position])
        plain, ours, stats = pair(model, eos_token_id=eos)
        assert torch.equal(plain, ours)
        assert int(ours[0, -1]) == eos
        assert stats.tokens == len(stats.from_draft) == ours.shape[1] - PROMPT.shape[1]
        inside.append(stats.from_draft[-1])
    assert sum(inside) >= 5, "the end was drafted"


@pytest.mark.parametrize("do_sample", [False, True])
def test_scores_logits_and_cache_are_returned_as_by_generate(model: Any, do_sample: bool) -> None:
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "do_sample": do_sample}
    plain, ours, stats = pair(model, **options, top_k=10)
    assert torch.equal(plain.sequences, ours.sequences)
    assert 0 < stats.accepted < stats.drafted
    for name in ("scores", "logits"):
        a, b = getattr(plain, name), getattr(ours, name)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)
    assert cache_of(plain).get_seq_length() == cache_of(ours).get_seq_length()


def test_a_returned_cache_carries_the_next_turn(model: Any) -> None:
    options = {"return_dict_in_generate": True}
    plain, ours, stats = pair(model, **options)
    assert 0 < stats.accepted < stats.drafted
    question = torch.cat([plain.sequences, torch.tensor([[8, 2, 7]])], dim=-1)
    common = {"max_new_tokens": 20, "pad_token_id": 0, "do_sample": False, "attention_mask": torch.ones_like(question)}
    expected = model.generate(question, **{CACHE: cache_of(plain)}, **common)
    stats, knowing = aded.Stats(), Uneven([expected[0, question.shape[1] :].tolist()], top_k=8)
    common |= {"custom_generate": aded.generate, "drafter": knowing, "max_draft_tokens": 12, "stats": stats}
    got = model.generate(question, **{CACHE: cache_of(ours)}, **common)
    assert torch.equal(expected, got)
    assert 0 < stats.accepted < stats.drafted
    for name in ("custom_generate", "drafter", "max_draft_tokens", "stats"):
        del common[name]
    assert torch.equal(expected, model.generate(question, **common))


def test_a_left_padded_prompt_gives_the_models_own_output(model: Any) -> None:
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), PROMPT], dim=-1)
    mask = torch.cat([torch.zeros(1, 4, dtype=torch.long), torch.ones_like(PROMPT)], dim=-1)
    plain, ours, stats = pair(model, inputs=padded, attention_mask=mask)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "phi3", "gpt2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_long_prompt_goes_through_in_pieces(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, most = build(family), 0
    ids = torch.randint(1, 40, (rows, 50), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[-1, : 9 * (rows > 1)] = 0
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 20, "pad_token_id": 0, "do_sample": False}
    plain = model.generate(ids, **options)
    monkeypatch.setattr("aded.engines.transformers.engine.CHUNK", 24)
    model.generate(ids, **options, custom_generate=aded.generate)  # a trial's passes are no pieces of the prompt

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal most
        most = max(most, kwargs["input_ids"].numel())

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    stats, knowing = aded.Stats(), Uneven(plain[:, 50:].tolist(), top_k=8)
    ours = model.generate(
        ids, **options, custom_generate=aded.generate, drafter=knowing, max_draft_tokens=3, stats=stats
    )
    hook.remove()
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted
    assert most <= 24


def test_a_streamer_receives_every_token_once(model: Any) -> None:
    options = {"max_new_tokens": 24, "pad_token_id": 0, "do_sample": False}
    plain, ours, accelerated = Recorder(), Recorder(), Recorder()
    expected = model.generate(PROMPT, streamer=plain, **options)
    called, patched = (Oracle(expected[0, PROMPT.shape[1] :].tolist()) for _ in range(2))
    model.generate(PROMPT, streamer=ours, custom_generate=aded.generate, drafter=called, max_draft_tokens=8, **options)
    undo = aded.accelerate(model, drafter=patched, max_draft_tokens=8)
    model.generate(PROMPT, streamer=accelerated, **options)
    undo()
    assert plain.seen == ours.seen == accelerated.seen == expected[0].tolist()
    assert ours.ended == accelerated.ended == 1
    assert all(0 < oracle.accepted < oracle.drafted for oracle in (called, patched))


def test_acceleration_changes_no_output_and_can_be_undone(model: Any) -> None:
    before = type(model)
    options = {"max_new_tokens": 24, "pad_token_id": 0, "do_sample": False}
    plain = model.generate(PROMPT, **options)
    undo = aded.accelerate(model, max_draft_tokens=8)
    assert torch.equal(plain, model.generate(PROMPT, **options))
    with pytest.raises(aded.UnsupportedError):
        model.generate(PROMPT, num_beams=2, **options)
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    aded.accelerate(model, drafter=oracle, max_draft_tokens=8)
    assert torch.equal(plain, model.generate(PROMPT, **options))
    assert 0 < oracle.accepted < oracle.drafted
    assert type(model).__name__ == before.__name__
    undo()
    assert type(model) is before
    assert torch.equal(plain, model.generate(PROMPT, **options))


@pytest.mark.parametrize("nodes", [0, 1, 64, "auto"])
def test_any_budget_gives_the_models_own_output(model: Any, nodes: Any) -> None:
    options = {"max_new_tokens": 24, "pad_token_id": 0, "do_sample": False}
    plain = model.generate(PROMPT, **options)
    assert torch.equal(plain, model.generate(PROMPT, **options, custom_generate=aded.generate, max_draft_tokens=nodes))
    answer = plain[0, PROMPT.shape[1] :].tolist()
    stats, knowing = aded.Stats(), Chain(answer) if nodes == 1 else Oracle(answer, depth=32)
    ours = model.generate(
        PROMPT, **options, custom_generate=aded.generate, drafter=knowing, max_draft_tokens=nodes, stats=stats
    )
    assert torch.equal(plain, ours)
    if nodes == 0:
        assert stats.drafted == 0
    elif nodes == 1:
        assert stats.accepted == stats.drafted == 24 - stats.steps > 0
    else:
        assert 0 < stats.accepted < stats.drafted


def test_statistics_of_several_calls_add_up(model: Any) -> None:
    stats = aded.Stats()
    for calls in (1, 2, 3):
        options = {"min_new_tokens": 9, "max_new_tokens": 9, "pad_token_id": 0, "max_draft_tokens": 4, "stats": stats}
        model.generate(PROMPT, **options, custom_generate=aded.generate)
        assert stats.tokens == len(stats.from_draft) == 9 * calls
    assert stats.passes == stats.steps
    assert sum(stats.from_draft) == stats.accepted > 0
    assert stats.total_s >= stats.verify_s + stats.draft_s + stats.learn_s


OPTIONS: dict[str, Any] = {"max_new_tokens": 20, "pad_token_id": 0, "do_sample": False}


def test_an_accelerated_model_takes_settings_for_one_call() -> None:
    model = build("llama")
    plain = model.generate(PROMPT, **OPTIONS)
    undo = aded.accelerate(model, drafter="none")
    stats = aded.Stats()
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    ours = model.generate(PROMPT, **OPTIONS, drafter=oracle, max_draft_tokens=4, stats=stats)
    assert torch.equal(ours, plain)
    assert stats.tokens == plain.shape[1] - PROMPT.shape[1]
    assert 0 < stats.accepted < stats.drafted
    again = aded.Stats()
    assert torch.equal(model.generate(PROMPT, **OPTIONS, stats=again), plain)
    assert (again.tokens, again.drafted) == (stats.tokens, 0)
    with pytest.raises(ValueError, match="statts"):
        model.generate(PROMPT, **OPTIONS, statts=stats)
    with pytest.warns(UserWarning, match="decoding plainly: beam search"):
        beams = model.generate(PROMPT, **OPTIONS, num_beams=2, on_unsupported="fallback", stats=stats)
    undo()
    assert torch.equal(beams, model.generate(PROMPT, **OPTIONS, num_beams=2))


def test_an_accelerated_models_own_prompt_lookup_goes_its_own_way() -> None:
    model = build("llama")
    plain = model.generate(PROMPT, **OPTIONS)
    aded.accelerate(model)
    with pytest.warns(UserWarning, match="decodes without ADED"):
        looked_up = model.generate(PROMPT, **OPTIONS, prompt_lookup_num_tokens=3, stats=aded.Stats())
    assert torch.equal(looked_up, plain)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("how", ["adaptive", "paper", "prompt-lookup"])
def test_no_draft_holds_a_token_that_the_target_does_not_know(how: str, rows: int) -> None:
    """What a drafter learned from a model with more tokens, or from a prompt whose pictures have ids of their own."""
    larger, model = build("llama", vocab_size=400), build("llama")
    known = model.config.vocab_size
    ids = torch.tensor([[5, 6, known + 2, 7, 5, 6, known + 2, 7, 5, 6]] * rows)
    drafter, stats = aded.create_drafter(how), aded.Stats()
    ours = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": 16, "stats": stats}
    for _ in range(2):
        larger.generate(ids, **OPTIONS, **ours)
    assert stats.drafted > 0
    prompt = torch.where(ids < known, ids, 6)
    assert torch.equal(model.generate(prompt, **OPTIONS, **ours), model.generate(prompt, **OPTIONS))


@pytest.mark.parametrize("most", ["auto", 4])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_that_keeps_no_entries_is_refused_or_decoded_plainly(most: Any, rows: int) -> None:
    model, ids = build("gpt"), PROMPT.repeat(rows, 1)
    plain = model.generate(ids, **OPTIONS)
    ours = {"custom_generate": aded.generate, "max_draft_tokens": most}
    with pytest.raises(aded.UnsupportedError, match="cache holds 0 entries"):
        model.generate(ids, **OPTIONS, **ours)
    seen = Recorder()
    more = {"streamer": seen} if rows == 1 else {}
    with pytest.warns(UserWarning, match="decoding plainly: after a prompt of"):
        assert torch.equal(model.generate(ids, **OPTIONS, **more, **ours, on_unsupported="fallback"), plain)
    assert rows == 2 or seen.seen == plain[0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("held", [0, 6])
@pytest.mark.parametrize("kind", ["growing", "static"])
def test_a_cache_can_be_taken_back_to_what_it_held(kind: str, held: int) -> None:
    model, ids = build("llama"), torch.arange(1, 15)[None]
    cache = DynamicCache(config=model.config)
    if kind == "static":
        cache = StaticCache(config=model.config, max_cache_len=40)
    if held:
        model(input_ids=ids[:, :held], **with_cache(cache))
    model(input_ids=torch.full((1, 9), 3), **with_cache(cache))
    cache = kv.rewound(cache, held, model)
    assert cache.get_seq_length() == held
    rest = model(input_ids=ids[:, held:], **with_cache(cache)).logits
    assert torch.allclose(rest, model(input_ids=ids).logits[:, held:], atol=1e-5)


def test_wrong_arguments_say_what_to_do(model: Any) -> None:
    with pytest.raises(aded.UnknownDrafterError, match="choose one of"):
        model.generate(PROMPT, custom_generate=aded.generate, drafter="nothing")
    with pytest.raises(ValueError, match="whole number"):
        model.generate(PROMPT, custom_generate=aded.generate, max_draft_tokens=-1)
    with pytest.raises(ValueError, match="on_unsupported"):
        model.generate(PROMPT, custom_generate=aded.generate, on_unsupported="ignore")
    with pytest.raises(aded.UnsupportedError, match="cache"):
        model.generate(PROMPT, custom_generate=aded.generate, use_cache=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_output_is_certified(dtype: torch.dtype) -> None:
    model = build("llama").to(dtype)
    options = {"max_new_tokens": 40, "pad_token_id": 0, "do_sample": False}
    stats, answer = aded.Stats(), model.generate(PROMPT, **options)[0, PROMPT.shape[1] :].tolist()
    knowing = Uneven([answer], top_k=8)
    output = model.generate(
        PROMPT, **options, custom_generate=aded.generate, drafter=knowing, max_draft_tokens=16, stats=stats
    )
    assert 0 < stats.accepted < stats.drafted
    certificate = aded.certify(model, PROMPT, output)
    assert certificate.lossless
    assert certificate.first_difference is None
    assert len(certificate.margins) == 40


@pytest.mark.parametrize("rows", [1, 3])
def test_a_sample_is_certified_with_its_seed_and_no_other(model: Any, rows: int) -> None:
    torch.manual_seed(9)
    options = {"max_new_tokens": 20, "pad_token_id": 0, "do_sample": True, "temperature": 0.8, "top_k": 0}
    output = model.generate(PROMPT.repeat(rows, 1), **options)
    drawn = {"temperature": 0.8, "rows": rows, "row": rows - 1}
    assert aded.certify(model, PROMPT, output[-1:], **drawn, seed=9).lossless
    assert not aded.certify(model, PROMPT, output[-1:], **drawn, seed=8).lossless


def test_a_certificate_finds_a_changed_token(model: Any) -> None:
    output = model.generate(PROMPT, max_new_tokens=20, pad_token_id=0, do_sample=False)
    changed = output.clone()
    changed[0, PROMPT.shape[1] + 6] = (changed[0, PROMPT.shape[1] + 6] + 11) % 40
    assert aded.certify(model, PROMPT, output).lossless
    certificate = aded.certify(model, PROMPT, changed)
    assert not certificate.lossless
    assert certificate.first_difference == 6
    with pytest.raises(ValueError, match="begin with"):
        aded.certify(model, PROMPT + 1, output)


@given(st.integers(0, 2**31), st.sampled_from([40, 2048, 2050, 5000]), st.integers(1, 8))
def test_the_likeliest_tokens_are_those_of_topk(seed: int, vocabulary: int, k: int) -> None:
    logits = torch.randn(2, 3, vocabulary, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    ids = top_k(logits, k)
    assert torch.equal(logits.gather(-1, ids), logits.topk(k, dim=-1).values)
    assert all(len(set(row)) == k for row in ids.flatten(0, -2).tolist())
