"""Models and callers that do the unexpected: the same output as without us, or one clear error and a plain way out."""

from __future__ import annotations

import pickle
import threading
from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers as tf

import aded
from aded.engines.transformers.compat import CACHE, with_cache
from aded.engines.transformers.positions import fixed_positions
from aded.errors import UnsupportedError
from support.kinds import PLAIN
from support.models import PROMPT, build
from support.oracle import ChainThenWrong, Oracle, Uneven
from sweep.shrink import small_model

OPTIONS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
TWO = torch.cat([PROMPT, PROMPT.flip(1)])


def both(model: Any, *, drafter: Any = Oracle, count: int = 40, ids: torch.Tensor = PROMPT, **options: Any) -> Any:
    """Plain output, ours, and what ours took."""
    options = {**OPTIONS, "max_new_tokens": count, **options}
    plain, stats = model.generate(ids, **options), aded.Stats()
    knowing = drafter(plain[0, ids.shape[1] :].tolist())
    ours = {"custom_generate": aded.generate, "drafter": knowing, "max_draft_tokens": 8, "stats": stats}
    return plain, model.generate(ids, **options, **ours), stats


ROPE: dict[str, Any] = {"rope_theta": 1e4, "original_max_position_embeddings": 32}
LONG = {**ROPE, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
BY_LENGTH = {
    "phi3": ("phi3", {"original_max_position_embeddings": 32}),
    "longrope": ("llama", {"max_position_embeddings": 128, "rope_parameters": LONG}),
    "dynamic": ("llama", {"max_position_embeddings": 32, "rope_parameters": DYNAMIC}),
}


@pytest.mark.parametrize("name", BY_LENGTH)
def test_positions_that_depend_on_the_length_are_refused_where_drafts_would_reach_them(name: str) -> None:
    family, changes = BY_LENGTH[name]
    model = build(family, **changes)
    assert fixed_positions(model) == 32
    options: dict[str, Any] = {**OPTIONS, "max_new_tokens": 60}
    with pytest.raises(UnsupportedError, match="beyond 32 tokens"):
        model.generate(PROMPT, **options, custom_generate=aded.generate)
    plain = model.generate(PROMPT, **options)
    with pytest.warns(UserWarning, match="decoding plainly"):
        ours = model.generate(PROMPT, **options, custom_generate=aded.generate, on_unsupported="fallback")
    assert torch.equal(plain, ours)


def test_what_an_index_would_choose_from_is_refused() -> None:
    model = small_model(tf.DeepseekV32ForCausalLM, {"index_topk": 80})
    plain, ours, _ = both(model, drafter=ChainThenWrong, count=1)
    assert torch.equal(plain, ours)
    with pytest.raises(UnsupportedError, match="beyond 80 tokens"):
        model.generate(PROMPT, **OPTIONS, max_new_tokens=60, custom_generate=aded.generate)


def test_models_that_ask_for_the_name_of_their_attention_keep_it() -> None:
    """Under another name, indexed attention would attend to everything."""
    model, seen = small_model(tf.DeepseekV32ForCausalLM, {"index_topk": 80}), set()
    model.model.layers[0].register_forward_pre_hook(lambda *_: seen.add(model.config._attn_implementation))
    model.generate(PROMPT, **OPTIONS, max_new_tokens=4, custom_generate=aded.generate)
    assert seen == {"sdpa"}


def test_beyond_the_length_where_they_change_once_drafts_are_verified() -> None:
    model = build("llama", max_position_embeddings=256, rope_parameters=LONG)
    plain, ours, stats = both(model, ids=torch.randint(1, 40, (1, 40)))
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


def test_below_it_too() -> None:
    model = build("phi3", original_max_position_embeddings=200)
    plain, ours, stats = both(model)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


class Backwards(tf.LlamaForCausalLM):
    """Counts positions by itself, from the order of its inputs."""

    def forward(self, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Stateful(tf.LlamaForCausalLM):
    """Adds to its scores something that grows with every pass."""

    passes = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.passes += 1
        result = super().forward(*args, **kwargs)
        result.logits = result.logits.roll(self.passes, -1)
        return result


class OwnLoop(tf.LlamaForCausalLM):
    def _sample(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return torch.cat([input_ids, input_ids[:, :3]], dim=-1)


def test_a_model_that_derives_positions_itself_gets_chains() -> None:
    model = Backwards(build("llama").config).eval()
    plain, ours, stats = both(model, drafter=ChainThenWrong)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted
    plain, ours, stats = both(model)
    assert torch.equal(plain, ours)
    assert not stats.accepted, "a tree's first path, which the oracle gets wrong, is what a chain is cut from"


def test_a_model_whose_passes_depend_on_each_other_is_refused() -> None:
    model = Stateful(build("llama").config).eval()
    with pytest.raises(UnsupportedError, match="on trial"):
        model.generate(PROMPT, **OPTIONS, max_new_tokens=4, custom_generate=aded.generate)


def test_a_model_that_decodes_in_a_way_of_its_own_goes_on_doing_so() -> None:
    model = OwnLoop(build("llama").config).eval()
    with pytest.raises(UnsupportedError, match="a way of its own"):
        model.generate(PROMPT, **OPTIONS, max_new_tokens=4, custom_generate=aded.generate)
    aded.accelerate(model, on_unsupported="fallback")
    with pytest.warns(UserWarning, match="decoding plainly"):
        assert model.generate(PROMPT, **OPTIONS, max_new_tokens=4)[0, -3:].tolist() == PROMPT[0, :3].tolist()


@pytest.mark.parametrize("auto", [False, True])
def test_a_short_table_of_positions_is_not_left(auto: bool) -> None:
    model = build("gpt2", n_positions=60)
    options: dict[str, Any] = {**OPTIONS, "max_new_tokens": 40}
    plain, stats = model.generate(PROMPT, **options), aded.Stats()
    drafter = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    budget = {} if auto else {"max_draft_tokens": 30}
    ours = model.generate(PROMPT, **options, custom_generate=aded.generate, drafter=drafter, stats=stats, **budget)
    assert torch.equal(plain, ours)


@pytest.mark.filterwarnings("ignore:decoding plainly")
@pytest.mark.parametrize("drafter", [Oracle, ChainThenWrong])
def test_in_training_with_checkpoints_output_is_what_it_is_without_us(drafter: Any) -> None:
    """Some releases then leave the cache empty: that is refused."""
    model = build("llama")
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model.train()
    plain = model.generate(PROMPT, **OPTIONS, max_new_tokens=20)
    ours = {"drafter": drafter(plain[0, PROMPT.shape[1] :].tolist()), "max_draft_tokens": 8}
    ours |= {"custom_generate": aded.generate, "on_unsupported": "fallback"}
    assert torch.equal(model.generate(PROMPT, **OPTIONS, max_new_tokens=20, **ours), plain)


def test_an_offloaded_model_gets_masks_where_it_is_run() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build("llama")
    accelerate.cpu_offload(model, execution_device="cpu")
    plain, ours, stats = both(model)
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted
    auto = model.generate(PROMPT, **OPTIONS, max_new_tokens=40, custom_generate=aded.generate)
    assert torch.equal(plain, auto)


class Unsure(tf.StoppingCriteria):
    """Ends where no token is likely, as the scores say that it is given."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return (scores[-1].softmax(-1).max(-1).values < 0.3) & (input_ids.shape[1] > 20)


def test_criteria_see_the_scores_so_far() -> None:
    options: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True}
    options |= {**OPTIONS, "max_new_tokens": 40, "stopping_criteria": [Unsure()]}
    model = build("llama")
    plain = model.generate(PROMPT, **options)
    drafter = Oracle(plain.sequences[0, PROMPT.shape[1] :].tolist())
    ours = model.generate(PROMPT, **options, custom_generate=aded.generate, drafter=drafter, max_draft_tokens=8)
    assert 4 < plain.sequences.shape[1] - PROMPT.shape[1] < 40
    assert torch.equal(plain.sequences, ours.sequences)


def test_an_accelerated_model_can_be_an_assistant() -> None:
    main, assistant = build("llama", num_hidden_layers=3), build("llama")
    plain = main.generate(PROMPT, **OPTIONS, max_new_tokens=20)
    aded.accelerate(assistant, max_draft_tokens=8)
    assert torch.equal(plain, main.generate(PROMPT, **OPTIONS, max_new_tokens=20, assistant_model=assistant))


class Once(tf.LogitsProcessor):
    """Counts its calls, one a step."""

    calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        scores = scores.clone()
        scores[:, self.calls % 40] = -float("inf")
        return scores


class Both(tf.StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return bool((input_ids[:, -1] == 7).any()) or input_ids.shape[1] > 30


def test_a_processor_that_counts_its_calls_sees_one_a_token() -> None:
    plain = build("llama").generate(PROMPT, **OPTIONS, max_new_tokens=40, logits_processor=[Once()])
    drafter = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    ours = build("llama").generate(
        PROMPT,
        **OPTIONS,
        max_new_tokens=40,
        logits_processor=[Once()],
        custom_generate=aded.generate,
        drafter=drafter,
        max_draft_tokens=8,
    )
    assert torch.equal(plain, ours)


@pytest.mark.parametrize(
    "options", [{"logits_processor": [Once()]}, {"stopping_criteria": [Both()], "eos_token_id": 39}]
)
def test_in_a_batch_what_may_look_at_all_rows_is_shown_all_of_them(options: dict[str, Any]) -> None:
    model, options = build("llama"), {**OPTIONS, "max_new_tokens": 30, **options}
    plain = model.generate(TWO, **deepcopy(options))
    ours = model.generate(TWO, **deepcopy(options), custom_generate=aded.generate)
    assert torch.equal(plain, ours)


class Shown(tf.generation.streamers.BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = threading.Event()

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended.set()


@pytest.mark.parametrize("wrapped", ["lambda", "inference_mode"])
def test_a_streamer_is_found_through_what_wraps_us(wrapped: str) -> None:
    ways = {
        "lambda": lambda model, input_ids, **kwargs: aded.generate(model, input_ids, **kwargs),
        "inference_mode": torch.inference_mode()(aded.generate),
    }
    streamer = Shown()
    said = build("llama").generate(
        PROMPT, **OPTIONS, max_new_tokens=12, streamer=streamer, custom_generate=ways[wrapped]
    )
    assert streamer.tokens == said[0].tolist()
    assert streamer.ended.is_set()


def test_a_great_limit_takes_no_memory_of_that_size() -> None:
    model = build("llama", eos_token_id=9, max_position_embeddings=10**6)
    plain = model.generate(PROMPT, **OPTIONS, max_new_tokens=64)
    assert 9 in plain[0, PROMPT.shape[1] :].tolist()
    ours = model.generate(PROMPT, **OPTIONS, max_new_tokens=10**9, custom_generate=aded.generate)
    assert torch.equal(plain, ours)


class Fails(tf.LogitsProcessor):
    """Raises when it sees so many tokens."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self.at:
            raise RuntimeError("enough")
        return scores


@pytest.mark.parametrize("family", ["llama", "mistral-sliding"])
def test_an_error_leaves_no_rejected_entry_in_the_callers_cache(family: str) -> None:
    model, cache = build(family), tf.DynamicCache(config=build(family).config)
    plain = model.generate(PROMPT, **OPTIONS, max_new_tokens=40)
    drafter = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    ours = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": 8, CACHE: cache}
    with pytest.raises(RuntimeError, match="enough"):
        model.generate(PROMPT, **OPTIONS, max_new_tokens=40, logits_processor=[Fails(30)], **ours)
    known = int(cache.get_seq_length())
    assert PROMPT.shape[1] < known < 31
    with torch.no_grad():
        rest = model(input_ids=plain[:, known:31], **with_cache(cache)).logits[0, -1]
        whole = model(input_ids=plain[:, :31]).logits[0, -1]
    torch.testing.assert_close(rest, whole)


def test_an_accelerated_model_is_pickled_as_what_it_was_and_copied_as_what_it_is() -> None:
    model = build("llama")
    plain = model.generate(PROMPT, **OPTIONS, max_new_tokens=12)
    aded.accelerate(model)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is tf.LlamaForCausalLM
    assert torch.equal(again.generate(PROMPT, **OPTIONS, max_new_tokens=12), plain)
    stats = aded.Stats()
    assert torch.equal(deepcopy(model).generate(PROMPT, **OPTIONS, max_new_tokens=12, stats=stats), plain)
    assert stats.tokens == 12


def test_layers_that_read_what_others_hold_have_no_entries_of_their_own() -> None:
    config = tf.Gemma3nTextConfig(
        vocab_size=40,
        vocab_size_per_layer_input=40,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=48,
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        laurel_rank=8,
        activation_sparsity_pattern=[0.0] * 4,
        initializer_range=0.6,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    plain, ours, stats = both(tf.Gemma3nForCausalLM(config).eval())
    assert torch.equal(plain, ours)
    assert 0 < stats.accepted < stats.drafted


def test_a_model_whose_part_writes_the_text_is_accelerated_there() -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes["num_attention_heads"] = 4
    config = tf.Blip2Config(
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        qformer_config={**sizes, "encoder_hidden_size": 32, "vocab_size": 40},
        text_config={**PLAIN, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32, "vocab_size": 40},
        num_query_tokens=3,
        image_token_index=39,
    )
    torch.manual_seed(0)
    model, image = tf.Blip2ForConditionalGeneration(config).eval(), torch.randn(1, 3, 28, 28)
    ids = torch.cat([torch.full((1, 3), 39), PROMPT], dim=-1)
    options: dict[str, Any] = {**OPTIONS, "pixel_values": image, "input_ids": ids, "max_new_tokens": 30}
    plain, stats = model.generate(**options), aded.Stats()
    aded.accelerate(model, drafter=Oracle(plain[0, -30:].tolist()), max_draft_tokens=8)
    assert torch.equal(plain, model.generate(**options, stats=stats))
    assert 0 < stats.accepted < stats.drafted
    aded.restore(model)
    assert torch.equal(plain, model.generate(**options))


def test_what_torch_compiles_is_accelerated_as_what_it_wraps() -> None:
    model = build("llama")
    wrapped = torch.compile(model)
    plain, stats = wrapped.generate(PROMPT, **OPTIONS, max_new_tokens=20), aded.Stats()
    aded.accelerate(wrapped, drafter=Oracle(plain[0, PROMPT.shape[1] :].tolist()), max_draft_tokens=8)
    assert torch.equal(plain, wrapped.generate(PROMPT, **OPTIONS, max_new_tokens=20, stats=stats))
    assert 0 < stats.accepted < stats.drafted
    aded.restore(wrapped)
    assert not hasattr(type(model), "_aded_plain_class")


class BesideText(tf.LlamaForCausalLM):
    """A model one of whose layers attends to something beside the text, in the same cache, as Llama 3.2 Vision does."""

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        made = super().forward(input_ids, **kwargs)
        cache, seen = getattr(made, CACHE), len(self.model.layers)
        if len(cache.layers) == seen:
            cache.layers.append(tf.cache_utils.DynamicLayer())
            cache.update(torch.ones(len(made.logits), 2, 5, 8), torch.ones(len(made.logits), 2, 5, 8), seen)
        made.logits = made.logits.roll(cache.layers[seen].keys.shape[-2], -1)
        return made


@pytest.mark.parametrize("ids", [PROMPT, TWO], ids=["one", "batch"])
def test_entries_of_something_beside_the_text_stay(ids: torch.Tensor) -> None:
    model = build("llama")
    model.__class__ = BesideText
    options: dict[str, Any] = {**OPTIONS, "max_new_tokens": 30}
    plain = model.generate(ids, **options)
    answers = plain[:, ids.shape[1] :].tolist()
    end = answers[0][6]
    for more in ({}, {"eos_token_id": end}):
        plain = model.generate(ids, **options, **more)
        for drafter in (Uneven(answers), ChainThenWrong(answers[0])):
            stats = aded.Stats()
            ours = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": 6, "stats": stats}
            assert torch.equal(plain, model.generate(ids, **options, **more, **ours))
            assert 0 < stats.accepted < stats.drafted


def test_continuous_batches_go_their_own_way_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    monkeypatch.setattr(tf.LlamaForCausalLM, "generate_batch", lambda self, inputs: inputs, raising=False)
    aded.accelerate(model)
    with pytest.warns(UserWarning, match="without ADED"):
        assert model.generate_batch([[1, 2]]) == [[1, 2]]
