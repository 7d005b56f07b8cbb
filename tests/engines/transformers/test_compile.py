"""compile=True: the same output, whatever runs, from a handful of compiled shapes."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from transformers import CompileConfig, DynamicCache, StaticCache

import aded
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.forward import SIZES
from aded.engines.transformers.linear import dispatch
from aded.engines.transformers.linear.bindings import PortableLinear
from aded.kernels.openmp import UnavailableError
from support.models import CHAINS_ONLY, PROMPT, build
from support.oracle import Oracle

KINDS = ("qwen3-moe", "gemma3", "phi", "gpt2", "cohere2")  # each attends otherwise; llama and gemma2: samples below


class Traced:
    """A backend that runs the traced graph as it is, which takes no compiler, and notes how many tokens it is for."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        ids = next((x for x in inputs if isinstance(x, torch.Tensor) and x.dtype == torch.long and x.ndim == 2), None)
        self.tokens.append(-1 if ids is None else ids.shape[1])
        return graph.forward

    @property
    def config(self) -> CompileConfig:
        return CompileConfig(backend=self, mode=None)


def pair(model: Any, traced: Traced, prompt: torch.Tensor = PROMPT, depth: int = 4, **options: Any) -> aded.Stats:
    """Decode plainly and compiled, drafting the truth among wrong branches; both must say the same."""
    options = {"max_new_tokens": 40, "pad_token_id": 0, "do_sample": False, **options}
    caches = options.pop("caches", ({}, {}))
    torch.manual_seed(7)
    plain = model.generate(prompt, **options, **caches[0])
    state = torch.get_rng_state()
    stats = aded.Stats()
    torch.manual_seed(7)
    ours = model.generate(
        prompt,
        **options,
        **caches[1],
        custom_generate=aded.generate,
        compile=True,
        compile_config=traced.config,
        drafter=Oracle(plain[0, prompt.shape[1] :].tolist(), depth=depth),
        max_draft_tokens=12,
        stats=stats,
    )
    assert ours.tolist() == plain.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < stats.accepted < stats.drafted
    return stats


@pytest.mark.parametrize("family", KINDS)
def test_families_say_the_same(family: str) -> None:
    # In as few layers as have both kinds of attention.
    both = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    model = build(family, **(both if family in ("gemma3", "cohere2") else {}))
    assert pair(model, Traced()).mean_accepted_tokens > 3


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_seeded_samples_are_the_same(family: str) -> None:
    assert pair(build(family), Traced(), do_sample=True, temperature=1.2, top_k=20).mean_accepted_tokens > 3


@pytest.mark.parametrize("family", CHAINS_ONLY)
def test_models_that_derive_positions_from_the_order_are_refused(family: str) -> None:
    with pytest.raises(aded.UnsupportedError, match="compile=True"):
        build(family).generate(PROMPT, custom_generate=aded.generate, compile=True, pad_token_id=0)


def test_few_shapes_are_compiled_however_many_trees_are_drafted() -> None:
    model, traced = build("llama", num_hidden_layers=1, max_position_embeddings=2048), Traced()
    for depth in (1, 2, 3, 5, 6):
        pair(model, traced, depth=depth)
    assert len(traced.tokens) <= 3
    assert set(traced.tokens) <= set(SIZES)


def test_an_answer_may_outgrow_the_cache() -> None:
    model, traced = build("llama", num_hidden_layers=1, max_position_embeddings=2048), Traced()
    stats = pair(model, traced, max_new_tokens=600, depth=6)
    assert stats.tokens == 600
    assert sorted(traced.tokens) == [8, 24, 24], "full trees once for each size of the cache, the last one is smaller"


def test_a_conversation_goes_on_in_the_same_cache() -> None:
    model, traced = build("llama", num_hidden_layers=1), Traced()
    caches = tuple({CACHE: DynamicCache(config=model.config)} for _ in range(2))
    said = PROMPT
    for turn in range(3):
        pair(model, traced, said, max_new_tokens=5, caches=caches)
        before = [cache[CACHE].get_seq_length() for cache in caches]
        assert before == [said.shape[1] + 4] * 2
        answer = model.generate(said, max_new_tokens=5, do_sample=False, pad_token_id=0)
        said = torch.cat([answer, PROMPT + turn], dim=-1)


def test_a_fixed_cache_of_the_callers_can_fill_up() -> None:
    model, traced = build("llama", num_hidden_layers=1), Traced()
    caches = tuple({CACHE: StaticCache(config=model.config, max_cache_len=52)} for _ in range(2))
    pair(model, traced, caches=caches)


def test_two_answers_at_once_have_caches_of_their_own() -> None:
    model, traced = build("llama", num_hidden_layers=1), Traced()
    expected = model.generate(PROMPT, max_new_tokens=20, do_sample=False, pad_token_id=0)[0, 11:].tolist()
    inside: list[list[int]] = []
    stats = aded.Stats()

    class Nested:
        top_k = 0

        def start(self, prompt: Any) -> Any:
            session = Oracle(expected).start(prompt)
            if not inside:
                inside.append([])
                model.generate(PROMPT.flip(-1), max_new_tokens=9, custom_generate=aded.generate, **options)
            return session

    options: dict[str, Any] = {"compile": True, "compile_config": traced.config, "do_sample": False, "pad_token_id": 0}
    ours = model.generate(
        PROMPT,
        max_new_tokens=20,
        custom_generate=aded.generate,
        drafter=Nested(),
        max_draft_tokens=6,
        stats=stats,
        **options,
    )
    assert ours[0, 11:].tolist() == expected
    assert 0 < stats.accepted < stats.drafted


def test_a_batch_is_refused() -> None:
    with pytest.raises(aded.UnsupportedError, match="compile=True decodes one sequence"):
        build("llama").generate(PROMPT.repeat(2, 1), custom_generate=aded.generate, compile=True, pad_token_id=0)


def test_accelerate_compiles_too() -> None:
    model, traced = build("llama", num_hidden_layers=1), Traced()
    options: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(PROMPT, **options)
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist())
    undo = aded.accelerate(model, compile=True, drafter=oracle, max_draft_tokens=4)
    assert model.generate(PROMPT, **options, compile_config=traced.config).tolist() == plain.tolist()
    assert traced.tokens
    assert 0 < oracle.accepted < oracle.drafted
    undo()


def test_other_linear_kernels_run_inside_a_compiled_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        kernel = PortableLinear()
    except UnavailableError as error:
        pytest.skip(str(error))
    ran: list[int] = []
    product = PortableLinear._forward

    def counted(self: Any, weight: torch.Tensor, bias: Any, x: torch.Tensor) -> torch.Tensor:
        ran.append(x.shape[-2])
        return product(self, weight, bias, x)

    monkeypatch.setattr(PortableLinear, "_forward", counted)
    monkeypatch.setattr(dispatch, "_kernel", lambda dtype: kernel)
    model, traced = build("llama").bfloat16(), Traced()
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "max_draft_tokens": 4}
    eager = model.generate(PROMPT, custom_generate=aded.generate, **options)
    ran.clear()
    stats = aded.Stats()
    options |= {"compile": True, "compile_config": traced.config, "stats": stats}
    for _ in range(2):
        assert model.generate(PROMPT, custom_generate=aded.generate, **options).tolist() == eager.tolist()
    assert set(ran) <= {*SIZES, PROMPT.shape[1]}
    assert len(ran) > 2 * 12
    assert 0 < stats.accepted < stats.drafted, "the model said the same before"
    assert stats.exact == "rounding", "the compiler joins what is around the kernels"
    assert len(traced.tokens) <= 2, "what was compiled holds for the next call"


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="the compiler needs a C++ compiler")
def test_the_compiler_gives_the_same_output() -> None:
    model = build("llama", num_hidden_layers=1)
    options: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(PROMPT, **options)
    oracle = Oracle(plain[0, PROMPT.shape[1] :].tolist(), depth=3)
    options |= {"drafter": oracle, "max_draft_tokens": 6, "stats": (stats := aded.Stats())}
    ours = model.generate(PROMPT, **options, custom_generate=aded.generate, compile=True)
    assert ours.tolist() == plain.tolist()
    assert 0 < stats.accepted < stats.drafted
