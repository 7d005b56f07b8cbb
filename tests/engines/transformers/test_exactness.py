"""The same bits: scores of verified drafts against the model's own passes of one token, compared bit by bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicCache

import aded
from aded import drafters
from aded.batch import Outcomes
from aded.drafters.base import Drafter
from aded.engines.base.certificate import Certificate
from aded.engines.transformers.attention import exact_attention, new_pass
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.engine import TransformersEngine
from aded.engines.transformers.exact_kernels import library_kernels, our_kernels
from aded.engines.transformers.exactness import exactness
from aded.engines.transformers.forward import ForwardRunner
from aded.engines.transformers.linear.dispatch import _kernel
from aded.engines.transformers.loading import load
from aded.engines.transformers.runner import EngineRunner
from aded.tree import DraftTree, Outcome
from support.models import PROMPT, build
from support.oracle import Oracle, Uneven
from support.processor import sums_as_the_library

needs_bf16_dot = pytest.mark.skipif(not sums_as_the_library(), reason="this processor's library sums otherwise")

# Head sizes of 32 and 64, heads shared by none, two and three; more inputs than a block of the library's.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 1100, "vocab_size": 131}),
    "three-a-head": ("llama", {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}),
    "one-a-head": ("llama", {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}),
    "qwen2-with-bias": ("qwen2", {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 700}),
    "qwen3-wide-heads": ("qwen3", {"hidden_size": 64, "head_dim": 128}),
    "sliding": ("mistral-sliding", {"hidden_size": 128, "head_dim": 32, "sliding_window": 24}),
    "smollm3": ("smollm3", {"hidden_size": 128}),
    "gelu-tanh": ("gemma", {"hidden_size": 64, "head_dim": 32, "intermediate_size": 97}),
    "gelu": ("phi", {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 97, "hidden_act": "gelu"}),
}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small() -> Any:
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in made:
            family, changes = SHAPES[name]
            made[name] = build(family, **{"initializer_range": 0.05, "max_position_embeddings": 4096, **changes})
            made[name].to(torch.bfloat16)
        return made[name]

    return of


@needs_bf16_dot
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("n", "k"),
    [(96, 576), (100, 1536), (49, 514), (200, 4096), (40, 4096), (896, 4864), (96, 30), (8, 96), (1, 576), (5, 7)],
)
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_the_librarys_for_one_token_at_every_width(n: int, k: int, bias: bool) -> None:
    """Weights [u, -u] and inputs [v, v] cancel: what is left are the last bits of the sums."""
    layer = torch.nn.Linear(k, n, bias=bias).bfloat16()
    half = k // 2
    u, v = torch.randn(n, k) * 0.05, torch.randn(33, k)
    u[:, half : 2 * half], v[:, half : 2 * half] = -u[:, :half], v[:, :half]
    x = v.bfloat16()
    with torch.no_grad():
        layer.weight.copy_(u)
        if bias:
            layer.bias.mul_(1e-6)
        chosen = _kernel(torch.bfloat16)
        assert chosen is not None
        kernel = chosen.bind(layer)
        alone = torch.cat([linear(row, layer.weight, layer.bias) for row in x.split(1)])
        for width in (1, 2, 7, 8, 9, 33):
            assert torch.equal(kernel(x[:width]).view(torch.int16), alone[:width].view(torch.int16)), width


@needs_bf16_dot
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [64, 80, 256])
@pytest.mark.parametrize("what", ["ordinary", "sharp", "values cancel", "scores cancel"])
def test_attention_is_the_librarys_for_one_query(size: int, what: str) -> None:
    """What cancels shows the last bits of sums that rounding hides."""
    scale = 1e6 if what == "scores cancel" else size**-0.5
    for keys in (1, 2, 3, 6, 7, 16, 17, 48, 63, 512, 513, 530):
        query, key, value = (torch.randn(1, heads, n, size) for heads, n in ((12, 1), (4, keys), (4, keys)))
        if what == "sharp":
            query *= 4
        elif what == "values cancel":
            half, order = keys // 2, torch.randperm(keys)
            key[:, :, half : 2 * half], value[:, :, half : 2 * half] = key[:, :, :half], -value[:, :, :half]
            key, value = key[:, :, order], value[:, :, order]
        elif what == "scores cancel":
            order = torch.randperm(size)
            query[..., size // 2 :], key[..., size // 2 :] = query[..., : size // 2], -key[..., : size // 2]
            query, key = query[..., order], key[..., order]
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
        repeated = (x.repeat_interleave(3, 1) for x in (key, value))
        stock = scaled_dot_product_attention(query, *repeated, scale=scale)
        ours = exact_attention(query, key, value, None, scale)
        assert ours is not None
        assert torch.equal(ours.transpose(1, 2).view(torch.int16), stock.view(torch.int16)), keys


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("n", "k"), [(96, 576), (49, 514), (40, 4096), (1, 5), (7, 16)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_in_float32_has_the_same_bits_at_every_width(n: int, k: int, bias: bool) -> None:
    layer, x = torch.nn.Linear(k, n, bias=bias), torch.randn(33, k)
    chosen = _kernel(torch.float32)
    assert chosen is not None
    with torch.no_grad():
        kernel = chosen.bind(layer)
        together = kernel(x)
        exact = linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
        assert (together - exact).abs().max() <= 2 * (layer(x) - exact).abs().max() + 1e-7
        for width in (1, 2, 5, 6, 7, 12):
            for first in (0, 20):
                assert torch.equal(kernel(x[first : first + width]), together[first : first + width])


@pytest.mark.parametrize("size", [16, 64, 80, 256])
def test_attention_in_float32_is_as_accurate_as_the_librarys(size: int) -> None:
    for keys in (1, 3, 16, 33, 512, 513, 1100):
        query, key, value = (torch.randn(1, heads, n, size) for heads, n in ((12, 1), (4, keys), (4, keys)))
        repeated = [x.repeat_interleave(3, 1) for x in (key, value)]
        exact = scaled_dot_product_attention(query.double(), *(x.double() for x in repeated))
        library = (scaled_dot_product_attention(query, *repeated) - exact).abs().max()
        ours = exact_attention(query, key, value, None, None)
        assert ours is not None
        assert (ours.transpose(1, 2) - exact).abs().max() <= 2 * library + 5e-7, keys


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layer", ["gelu", "gelu_pytorch_tanh", "gelu_new", "silu", "tanh"])
def test_an_activation_of_a_token_does_not_depend_on_others(layer: str, kind: torch.dtype) -> None:
    """In vectors, and in what the library's threads leave of them, results round otherwise."""
    model = build("phi", hidden_act=layer).to(kind)
    activation, before = model.model.layers[0].mlp.activation_fn, torch.get_num_threads()
    x = torch.randn(1, 33, 3001, dtype=kind)
    alone = torch.cat([activation(token) for token in x.split(1, dim=1)], dim=1)
    torch.set_num_threads(3)
    try:
        whole = activation(x)
        with our_kernels(model):
            together = activation(x)
            with library_kernels():
                assert torch.equal(activation(x), whole)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, alone)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["tree", "window", "padding", "scattered"])
@pytest.mark.parametrize(("keys", "tokens"), [(70, 33), (600, 9), (1100, 17), (530, 1)])
def test_what_a_query_gets_depends_on_what_it_sees_alone(kind: str, keys: int, tokens: int, dtype: torch.dtype) -> None:
    rows, size = 2, 64
    query, key, value = (
        torch.randn(rows, heads, n, size).to(dtype) for heads, n in ((6, tokens), (2, keys), (2, keys))
    )
    seen = torch.zeros(rows, 1, tokens, keys, dtype=torch.bool)
    past = keys - tokens
    if kind == "tree":
        seen[..., :past] = True
        seen[..., past:] = torch.rand(rows, 1, tokens, tokens) < 0.2
    elif kind == "window":
        for t in range(tokens):
            seen[:, :, t, max(past + t - 40, 0) : past + t + 1] = True
    elif kind == "padding":
        seen[0, :, :, 5:past], seen[1, :, :, past // 2 : past] = True, True
        seen[..., past:] = torch.eye(tokens, dtype=torch.bool)
    else:
        seen = torch.rand(seen.shape) < 0.3
    seen[..., past] = True  # everybody sees something
    together = exact_attention(query, key, value, seen, None)
    assert together is not None
    for r in range(rows):
        for t in range(tokens):
            places = seen[r, 0, t].nonzero()[:, 0]
            own = exact_attention(
                query[r : r + 1, :, t : t + 1], key[r : r + 1, :, places], value[r : r + 1, :, places], None, None
            )
            assert own is not None
            assert torch.equal(together[r, t].view(torch.int16), own[0, 0].view(torch.int16)), (r, t)
    added = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    assert torch.equal(exact_attention(query, key, value, added, None), together)  # type: ignore[arg-type]


def test_a_mask_that_adds_to_scores_is_left_to_the_library() -> None:
    query = torch.randn(1, 2, 3, 32).bfloat16()
    mask = torch.zeros(1, 1, 3, 3).bfloat16()
    mask[..., 1] = -1.0
    assert exact_attention(query, query, query, mask, None) is None


def engine_of(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> TransformersEngine:
    mask = torch.ones_like(ids) if mask is None else mask
    config = GenerationConfig(max_length=ids.shape[1] + 400, do_sample=False)
    config._pad_token_tensor = torch.tensor(0)  # type: ignore[attr-defined]
    kwargs = {
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        **with_cache(DynamicCache(config=model.config)),
        "logits_to_keep": 1,
    }
    return TransformersEngine(
        model, ids, config, LogitsProcessorList(), StoppingCriteriaList(), kwargs, ForwardRunner(model)
    )


@torch.no_grad()
def one_by_one(model: Any, ids: torch.Tensor, count: int) -> tuple[list[int], torch.Tensor]:
    """Stock greedy decoding: `count` tokens, and the logits (count + 1, vocabulary) of its passes."""
    cache, logits, tokens = DynamicCache(config=model.config), [], []
    step = ids
    for _ in range(count + 1):
        logits.append(model(input_ids=step, **with_cache(cache), logits_to_keep=1).logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
        step = torch.tensor([[tokens[-1]]])
    return tokens[:count], torch.stack(logits)


def tree_with(path: Sequence[int], size: int, vocabulary: int, rng: random.Random) -> tuple[DraftTree, list[int]]:
    """A random tree of `size` nodes that holds `path` from its root down, and where it does."""
    parents: list[int] = []
    tokens: list[int] = []
    places = [-1]
    todo = list(path)
    while len(tokens) < size:
        left = size - len(tokens)
        if todo and (left <= len(todo) or rng.random() < len(todo) / left):
            parent, token = places[-1], todo.pop(0)
            places.append(len(tokens))
        else:
            parent = rng.randrange(-1, len(tokens))
            token = rng.randrange(vocabulary)
            if token in path or any(pair == (token, parent) for pair in zip(tokens, parents, strict=True)):
                continue
        parents.append(parent)
        tokens.append(token)
    return DraftTree.build(tokens, parents), places[1:]


@torch.no_grad()
def compare(model: Any, ids: torch.Tensor, count: int, widths: Sequence[int], seed: int) -> tuple[int, int]:
    """(scores compared, of which differ) of random trees along stock decoding's path and stock's own."""
    tokens, stock = one_by_one(model, ids, count)
    rng, vocabulary = random.Random(seed), model.config.vocab_size
    compared = differing = 0

    def check(found: torch.Tensor, expected: torch.Tensor) -> None:
        nonlocal compared, differing
        compared += 1
        differing += not torch.equal(found.view(torch.int32), expected.float().view(torch.int32))

    with our_kernels(model):
        engine = engine_of(model, ids)
        scores = engine.prefill(0)
        check(scores[0]._pass.logits[0, -1], stock[0])
        engine.append(0, tokens[0])
        at, step = 0, 0
        while at < count - 1:
            size = widths[step % len(widths)] - 1
            depth = min(rng.choice((0, 1, 2, 4)), size, count - 1 - at)
            tree, places = tree_with(tokens[at + 1 : at + 1 + depth], size, vocabulary, rng)
            scores = engine.verify([0], [tree], 0)
            for d, node in enumerate([-1, *places]):
                check(scores[0]._pass.logits[0, node + 1], stock[at + 1 + d])
            emitted = tokens[at + 1 : at + 2 + depth]
            if len(emitted) <= depth:
                break
            engine.commit(Outcomes([Outcome(emitted, tree=tree, path=places, slot=0)]))
            for token in emitted:
                engine.append(0, token)
            at += len(emitted)
            step += 1
    return compared, differing


WIDTHS = (1, 2, 3, 8, 9, 16, 17, 33, 40, 65)


@needs_bf16_dot
@pytest.mark.parametrize("name", SHAPES)
def test_verified_trees_have_the_bits_of_one_token_passes(small: Any, name: str) -> None:
    model = small(name)
    assert exactness(model) == "generate"
    for length in (7, 60):
        compared, differing = compare(
            model, torch.arange(length)[None] * 7 % model.config.vocab_size, 60, WIDTHS, length
        )
        assert compared > 25
        assert differing == 0


@needs_bf16_dot
@pytest.mark.usefixtures("threads")
def test_long_caches_too(small: Any) -> None:
    model = small("three-a-head")
    compared, differing = compare(model, torch.arange(1020)[None] * 7 % 40, 24, (9, 65, 2, 33), 0)
    assert compared > 10
    assert differing == 0


@needs_bf16_dot
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_output_is_generates_own_in_bfloat16(small: Any, name: str, sampled: bool) -> None:
    model, stats = small(name), aded.Stats()
    options: dict[str, Any] = {"max_new_tokens": 60, "do_sample": sampled, "pad_token_id": 0}
    torch.manual_seed(3)
    plain = model.generate(PROMPT, **options)
    drafter: Drafter = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    torch.manual_seed(3)
    options |= {"custom_generate": aded.generate, "max_draft_tokens": 12}  # "auto" depends on how busy the machine is
    ours = model.generate(PROMPT, **options, drafter=drafter, stats=stats)
    assert torch.equal(plain, ours)
    assert stats.exact == "generate"
    assert 0 < stats.accepted < stats.drafted


@needs_bf16_dot
@pytest.mark.parametrize("name", ["three-a-head", "sliding", "qwen2-with-bias"])
@pytest.mark.parametrize("change", ["batch", "static"])
def test_where_generate_masks_drafts_change_no_bit_of_decoding_without(small: Any, name: str, change: str) -> None:
    if change == "static" and name == "sliding":
        pytest.skip("a rolling static cache is refused")
    model, options = small(name), {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
    ids, mask = torch.randint(1, 40, (3 if change == "batch" else 1, 20)), torch.ones(3, 20, dtype=torch.long)
    if change == "batch":
        mask[0, :9] = mask[2, :2] = 0
        options["attention_mask"], options["eos_token_id"] = mask, 39
    else:
        options["cache_implementation"] = "static"
    alone = model.generate(ids, **options, custom_generate=aded.generate, drafter="none")
    for budget in ("auto", 3, 40):  # the first depends on how busy the machine is
        stats = aded.Stats()
        drafts = {"drafter": Uneven(alone[:, 20:].tolist()), "max_draft_tokens": budget, "stats": stats}
        ours = model.generate(ids, **options, custom_generate=aded.generate, **drafts)
        assert torch.equal(ours, alone)
        assert stats.exact == "none"
        assert budget == "auto" or 0 < stats.accepted < stats.drafted


def test_models_that_run_on_other_kernels_promise_less() -> None:
    assert exactness(build("gemma2", head_dim=32).bfloat16()) == "rounding", "its attention caps scores"
    assert exactness(build("gpt2", n_embd=64).bfloat16()) == "rounding", "its products are no linear layers"
    assert exactness(build("qwen3-moe", head_dim=32).bfloat16()) == "rounding", "its experts neither"
    assert exactness(build("llama", head_dim=20).bfloat16()) == "rounding", "our attention is for other heads"
    assert exactness(build("llama", head_dim=32).half()) == "rounding"


@needs_bf16_dot
def test_a_long_prompt_is_taken_in_as_generate_does(small: Any) -> None:
    model, stats = small("one-a-head"), aded.Stats()
    ids = torch.randint(1, 40, (1, 2200))
    options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    drafts = {"drafter": Oracle(plain[0, 2200:].tolist()), "max_draft_tokens": 8, "stats": stats}
    assert torch.equal(model.generate(ids, **options, custom_generate=aded.generate, **drafts), plain)
    assert stats.exact == "generate"
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("name", SHAPES)
def test_in_float32_drafts_change_no_bit_of_decoding_without(name: str) -> None:
    family, changes = SHAPES[name]
    model = build(family, **{"initializer_range": 0.05, "max_position_embeddings": 4096, **changes})
    options: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(PROMPT, **options)
    options |= {"return_dict_in_generate": True, "output_logits": True, "custom_generate": aded.generate}
    alone = model.generate(PROMPT, **options, drafter="none")
    assert torch.equal(alone.sequences, plain)
    for budget in (3, 40):
        stats = aded.Stats()
        drafts = {"drafter": Oracle(plain[0, PROMPT.shape[1] :].tolist()), "max_draft_tokens": budget, "stats": stats}
        ours = model.generate(PROMPT, **options, **drafts)
        assert torch.equal(ours.sequences, plain)
        assert torch.equal(torch.stack(ours.logits), torch.stack(alone.logits))
        assert stats.exact == exactness(model) == "none"
        assert 0 < stats.accepted < stats.drafted


@pytest.fixture(scope="module")
def smollm2() -> Any:
    return load(None, dtype="bfloat16")


@needs_bf16_dot
def test_the_embedded_model_gives_generates_own_bits(smollm2: Any) -> None:
    model = smollm2.model
    assert exactness(model) == "generate"
    ids = smollm2.prompt_ids([{"role": "user", "content": "Explain in two sentences why the sky is blue."}])
    compared, differing = compare(model, ids, 20, (65, 2, 33, 8, 17), 1)
    assert compared > 12
    assert differing == 0


@needs_bf16_dot
def test_where_bits_are_promised_a_certificate_says_so_and_no_difference_is_a_tie(smollm2: Any) -> None:
    ids = smollm2.prompt_ids([{"role": "user", "content": "Count from one to ten."}])
    runner = EngineRunner(smollm2, drafters.create("adaptive"), 8)
    settings = {"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": 0, "mask": None}
    plain, ours = runner.plain(ids, **settings), runner.answer(ids, **settings)
    assert ours.summary()["exact"] == "generate"
    assert runner.compare(ids, plain, ours, **settings)["identical"]
    certificate = aded.certify(smollm2.model, ids, torch.cat([ids, torch.tensor(ours.rows)], -1))
    assert certificate.exact == "generate"
    assert (certificate.margins == 0).all()
    noisy = Certificate(np.array([0, 0, 0.01], np.float32), 0.1)
    ours.rows[0][2] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineRunner, "certify", lambda *arguments: noisy)
        assert not runner.compare(ids, plain, ours, **settings)["tie"]
        ours.stats.exact = "rounding"
        assert runner.compare(ids, plain, ours, **settings)["tie"]


@needs_bf16_dot
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True, "temperature": 1.0}])
def test_the_embedded_model_says_what_generate_says(smollm2: Any, options: dict[str, Any]) -> None:
    model = smollm2.model
    ids = smollm2.prompt_ids([{"role": "user", "content": "Write a Python function that merges two sorted lists."}])
    common = {"max_new_tokens": 32, "attention_mask": torch.ones_like(ids), **options}
    torch.manual_seed(1)
    plain = model.generate(ids, **common)
    for drafter in ("adaptive", "paper"):
        stats = aded.Stats()
        ours = {"custom_generate": aded.generate, "drafter": drafter, "max_draft_tokens": 8, "stats": stats}
        torch.manual_seed(1)
        assert torch.equal(plain, model.generate(ids, **common, **ours))
        assert stats.exact == "generate"
        assert 0 < stats.accepted < stats.drafted


def test_attention_whose_rows_would_be_repeated_is_left_to_the_library() -> None:
    """The kernel reads memory: nothing may be asked of it that is not there."""
    query, key = torch.randn(1, 4, 2, 32), torch.randn(3, 4, 9, 32)
    mask = torch.ones(1, 1, 2, 9, dtype=torch.bool)
    for q, k, v in ((query, key, key), (key[:, :, :2], query, query), (query, key[:1], key[:1, :, :5])):
        assert exact_attention(q, k, v, mask, None) is None
    assert exact_attention(query, key[:1, :, :, :16], key[:1], mask, None) is None


# Powers of e that the C library's `expf` does not round correctly (glibc 2.36), in units of 2^-28.
_HARD = [
    -67798448,
    -341704192,
    -775315584,
    -21958606,
    -14065839,
    -52917192,
    -638076928,
    -460205120,
    -251561872,
    -172875056,
]


@needs_bf16_dot
@pytest.mark.parametrize("keys", [9, 15, 44, 523])
def test_exponentials_that_two_libraries_round_otherwise(keys: int) -> None:
    """The rest of a block takes one, bringing blocks to one scale another. One entry in some 60,000 shows it."""
    random_v = torch.Generator().manual_seed(0)
    powers = torch.tensor(_HARD, dtype=torch.float64) / 2**28
    query, key = torch.zeros(1, 8, 1, 64), torch.zeros(1, 8, keys, 64)
    query[..., [0, 2, 4]] = 1.0
    for first in range(len(_HARD)):
        scores = powers.roll(first)[torch.arange(keys) % len(_HARD)].float()
        if keys > 512:
            scores[1:512] = -40.0  # the first block's greatest is the first
        scores[-1] = 0.0
        rest = scores
        for place in (0, 2, 4):  # a score is the sum of three parts of eight bits
            part = rest.bfloat16().float()
            key[..., place], rest = part, rest - part
        for _ in range(30):
            value = torch.randn(1, 8, keys, 64, generator=random_v).bfloat16()
            inputs = query.bfloat16(), key.bfloat16(), value
            ours = exact_attention(*inputs, None, 1.0)
            assert ours is not None
            assert torch.equal(ours, scaled_dot_product_attention(*inputs, scale=1.0).transpose(1, 2))


def test_what_a_mask_shows_is_looked_up_by_what_it_is_shown_with() -> None:
    new_pass()
    mask, query = torch.ones(1, 1, 2, 9, dtype=torch.bool), torch.randn(1, 4, 2, 32)
    for keys in (5, 9):
        key, value = torch.randn(2, 1, 4, keys, 32)
        ours = exact_attention(query, key, value, mask, None)
        if ours is not None:  # else the kernel cannot run here
            stock = scaled_dot_product_attention(query, key, value, attn_mask=mask[..., :keys])
            torch.testing.assert_close(ours, stock.transpose(1, 2))
