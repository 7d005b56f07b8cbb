"""llama.cpp through the loop: the same tokens, the same samples, the same state, from an ordinary `Llama`."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import aded
from aded import DraftTree
from aded.cli import app
from aded.traces.trace import Trace
from support.oracle import ChainThenWrong, Oracle
from support.paths import ROOT

llama_cpp = pytest.importorskip("llama_cpp", reason="make llamacpp builds it")

from aded import llamacpp  # noqa: E402
from aded.engines.llamacpp.cost import cost_curve  # noqa: E402
from aded.engines.llamacpp.engine import LlamaEngine, assign_sequences, top_k  # noqa: E402
from aded.engines.llamacpp.loading import LoadedLlama, load  # noqa: E402
from aded.engines.llamacpp.runner import EngineRunner  # noqa: E402

TEXTS = [
    "Name three rivers of France.",
    "Repeat this list twice: apples, pears, plums, cherries, grapes.",
]


@pytest.fixture(scope="module")
def loaded() -> LoadedLlama:
    return load(None, threads=2, context=1024)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> LoadedLlama:
    """The same model in float32, its cache too: there passes of one token and of several agree to six digits."""
    file = tmp_path_factory.mktemp("exact") / "float32.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    source = str(aded.engines.base.loaded.embedded_file()).encode()
    assert llama_cpp.llama_model_quantize(source, str(file).encode(), ctypes.byref(options)) == 0
    of_floats = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    return LoadedLlama("exact", llama_cpp.Llama(str(file), n_ctx=512, n_threads=2, verbose=False, **of_floats))


@pytest.fixture(autouse=True)
def _plain_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"loaded", "exact"} & set(request.fixturenames):
        llamacpp.restore(request.getfixturevalue(name).llama)


def prompt(loaded: LoadedLlama, text: str) -> list[int]:
    return loaded.prompt_ids([{"role": "user", "content": text}])


def emitted(llama: Any, ids: list[int], count: int, **options: Any) -> list[int]:
    """Evaluated afresh, since what is in the cache was evaluated in another shape."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
    llama.reset()
    llama.set_seed(options.pop("seed", 7))
    tokens = llama.generate(ids, **{"temp": 0.0, **options})
    said = [next(tokens) for _ in range(count)]
    tokens.close()
    return said


class Knowing:
    """Drafts the truth with wrong branches beside it, in as many paths as there are levels."""

    top_k = 0

    def __init__(self, answer: list[int], depth: int = 4) -> None:
        self.oracle = Oracle(answer, depth=depth, vocabulary=40_000)

    def start(self, prompt: Any) -> Any:
        return self.oracle.start(prompt)


def same_or_tied(llama: Any, ids: list[int], plain: list[int], ours: list[int]) -> None:
    """Quantized products of several tokens round differently: a difference must be a tie, and shows it."""
    if ours == plain:
        return
    certificate = llamacpp.certify(llama, ids, ours)
    assert certificate.lossless, f"token {certificate.first_difference} lies below the best by more than the noise"


@pytest.mark.parametrize("text", TEXTS)
def test_greedy_output_is_llama_cpps_own(loaded: LoadedLlama, text: str) -> None:
    llama, ids = loaded.llama, prompt(loaded, text)
    plain = emitted(llama, ids, 32)
    stats = aded.Stats()
    undo = llamacpp.accelerate(llama, drafter=Knowing(plain), trees=True, max_draft_tokens=8, stats=stats)
    ours = emitted(llama, ids, 32)
    undo()
    same_or_tied(llama, ids, plain, ours)
    assert stats.steps < 32, "some of what was drafted is accepted"
    assert stats.drafted > stats.accepted


@pytest.mark.parametrize(
    "options",
    [
        {"temp": 0.0},
        {"temp": 0.0, "repeat_penalty": 1.3},
        {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.2},
        {"temp": 0.9, "frequency_penalty": 0.4, "presence_penalty": 0.3},
        {"temp": 0.9, "typical_p": 0.9},
        {"temp": 1.0, "mirostat_mode": 1},
        {"temp": 1.0, "mirostat_mode": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_in_float32_every_token_is_llama_cpps_own(exact: LoadedLlama, options: dict[str, Any]) -> None:
    """Whatever its samplers do with a seed, and whatever was drafted."""
    llama, ids = exact.llama, prompt(exact, TEXTS[1])
    plain = emitted(llama, ids, 24, seed=1, **options)
    stats = aded.Stats()
    undo = llamacpp.accelerate(llama, drafter=Knowing(plain, depth=3), trees=True, max_draft_tokens=6, stats=stats)
    ours = emitted(llama, ids, 24, seed=1, **options)
    undo()
    assert ours == plain
    assert stats.steps < 18, "much of what was drafted is accepted"
    assert stats.drafted > stats.accepted


def test_in_float32_a_tree_gives_each_node_the_scores_of_its_own_path(exact: LoadedLlama) -> None:
    """Every node of a bushy tree scores as the same tokens do alone, whoever its siblings are."""
    llama, ids = exact.llama, prompt(exact, TEXTS[0])
    undo = llamacpp.accelerate(llama, max_draft_tokens=0)
    tree = DraftTree.build([100, 200, 300, 100, 400, 500], [-1, -1, 0, 0, 1, 2])
    emitted(llama, ids, 1)
    llama.n_tokens = 0
    llama._sampler = llama._init_sampler(temp=0.0)
    engine = LlamaEngine(llama, ids)
    root = engine.prefill(0)[0].choose(0)
    engine.append(0, root)
    (scores,) = engine.verify([0], [tree], llama._n_vocab)
    together, _ = scores.top_k()
    for node in range(len(tree)):
        path = [root, *(int(tree.tokens[i]) for i in tree.path(node))]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
        llama.reset()
        llama.eval([*ids, *path])
        alone = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama._ctx.ctx, -1), shape=(llama._n_vocab,))
        assert np.array_equal(together[node + 1][:20], np.argsort(-alone)[:20])
    undo()


def test_with_flash_attention_drafts_change_no_bit_of_any_score() -> None:
    """Where the library shares long caches among its threads, one thread is kept to; logits of all tokens are kept."""
    file = str(aded.engines.base.loaded.embedded_file())
    settings: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 2, "flash_attn": True, "logits_all": True}
    llama = llama_cpp.Llama(file, n_ctx=768, verbose=False, **settings)
    ids = prompt(LoadedLlama("flash", llama), " ".join(TEXTS * 12))[:246]  # the library rounds 256 entries up to 512
    for options in ({"temp": 0.0}, {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}):
        llama.reset()
        plain = emitted(llama, ids, 24, **options)
        scores = llama.scores[len(ids) : len(ids) + 22].copy()
        for budget in ("auto", 6):
            llama.reset()
            stats = aded.Stats()
            undo = llamacpp.accelerate(llama, drafter=ChainThenWrong(plain), max_draft_tokens=budget, stats=stats)
            assert emitted(llama, ids, 24, **options) == plain
            assert np.array_equal(scores.view(np.int32), llama.scores[len(ids) : len(ids) + 22].view(np.int32))
            undo()
            assert stats.exact == "generate"
            if budget == 6:
                assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("change", [{"flash_attn": False}, {"n_threads": 2}, {"trees": True}])
def test_elsewhere_no_bits_are_promised(change: dict[str, Any]) -> None:
    file = str(aded.engines.base.loaded.embedded_file())
    settings: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "flash_attn": True, **change}
    trees = settings.pop("trees", None)
    llama, stats = llama_cpp.Llama(file, verbose=False, **settings), aded.Stats()
    llamacpp.accelerate(llama, trees=trees, stats=stats)
    emitted(llama, [1, 2, 3], 2)
    assert stats.exact == "rounding"


def test_completions_chat_and_streaming_are_unchanged(loaded: LoadedLlama) -> None:
    llama = loaded.llama
    messages = [{"role": "user", "content": TEXTS[1]}]
    settings: dict[str, Any] = {"max_tokens": 32, "temperature": 0.0}

    def all_three() -> list[Any]:
        llama.reset()
        chat = llama.create_chat_completion(messages, **settings)
        streamed = [
            piece["choices"][0]["delta"].get("content", "")
            for piece in llama.create_chat_completion(messages, stream=True, **settings)
        ]
        text = llama.create_completion("One, two, three,", stop=["ten"], **settings)
        return [chat["choices"][0], "".join(streamed), text["choices"][0], text["usage"]]

    plain, stats = all_three(), aded.Stats()
    undo = llamacpp.accelerate(llama, max_draft_tokens=8, stats=stats)
    ours = all_three()
    undo()
    assert ours == plain
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("left", ["all", "beginning", "nothing"])
def test_costs_are_measured_on_a_cache_with_something_left_in_it(
    loaded: LoadedLlama, left: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reset leaves entries in the cache that no longer count, a conversation some that do."""
    llama, ids = loaded.llama, prompt(loaded, TEXTS[0])
    plain = emitted(llama, ids, 8, temp=0.0)
    monkeypatch.setenv("ADED_CACHE", str(tmp_path))
    if left == "nothing":
        llama.reset()
    elif left == "beginning":
        llama.n_tokens = 5
    before = llama.n_tokens
    assert cost_curve(llama, before, renew=True)(8) > 0
    assert llama.n_tokens == before
    assert emitted(llama, ids, 8, temp=0.0) == plain


def test_a_conversation_evaluates_only_what_is_new(loaded: LoadedLlama) -> None:
    llama = loaded.llama
    undo = llamacpp.accelerate(llama)
    messages = [{"role": "user", "content": TEXTS[0]}]
    first = llama.create_chat_completion(messages, max_tokens=24, temperature=0.0)["choices"][0]["message"]
    known = llama.input_ids[: llama.n_tokens].tolist()
    messages += [first, {"role": "user", "content": "And three more."}]
    evaluated: list[int] = []
    plain = llama.eval
    llama.eval = lambda tokens: (evaluated.extend(tokens), plain(tokens))[1]
    llama.create_chat_completion(messages, max_tokens=8, temperature=0.0)
    del llama.eval
    undo()
    assert known == prompt_start(llama, len(known))
    assert len(evaluated) < 40


def prompt_start(llama: Any, count: int) -> list[int]:
    tokens: list[int] = llama.input_ids[:count].tolist()
    return tokens


def test_stopping_leaves_only_what_was_handed_over(loaded: LoadedLlama) -> None:
    llama, ids = loaded.llama, prompt(loaded, TEXTS[1])
    plain = emitted(llama, ids, 20)
    knowing = Knowing(plain)
    undo = llamacpp.accelerate(llama, drafter=knowing, trees=True, max_draft_tokens=8)
    for count in (1, 2, 3, 7):
        assert emitted(llama, ids, count) == plain[:count]
        assert llama.n_tokens == len(ids) + count - 1
        assert llama.input_ids[: llama.n_tokens].tolist() == [*ids, *plain[: count - 1]]
        memory = llama_cpp.llama_get_memory(llama._ctx.ctx)
        assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == llama.n_tokens - 1
        assert llama_cpp.llama_memory_seq_pos_max(memory, 1) == -1
    undo()
    assert 0 < knowing.oracle.accepted < knowing.oracle.drafted


def test_criteria_and_processors_are_honoured(loaded: LoadedLlama) -> None:
    llama, ids = loaded.llama, prompt(loaded, TEXTS[1])
    stop = llama_cpp.StoppingCriteriaList([lambda tokens, scores: len(tokens) >= len(ids) + 9])
    seen: list[list[int]] = []

    def watch(tokens: Any, scores: Any) -> Any:
        seen.append(list(tokens))
        return scores

    def run() -> tuple[list[int], list[list[int]]]:
        seen.clear()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
        llama.reset()
        processors = llama_cpp.LogitsProcessorList([watch])
        said = list(llama.generate(ids, temp=0.0, stopping_criteria=stop, logits_processor=processors))
        watched = [tokens[len(ids) :] for tokens in seen]
        return said, watched

    plain = run()
    stats = aded.Stats()
    undo = llamacpp.accelerate(llama, drafter=Knowing(plain[0]), trees=True, max_draft_tokens=8, stats=stats)
    ours = run()
    undo()
    assert ours == plain
    assert 0 < stats.accepted < stats.drafted
    assert len(plain[0]) == 9


def test_a_grammar_holds(loaded: LoadedLlama) -> None:
    llama = loaded.llama
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "yes" | "no" | "maybe so"', verbose=False)
    undo = llamacpp.accelerate(llama)
    said = llama.create_completion("Is the sky blue?", grammar=grammar, max_tokens=16, temperature=0.0)
    undo()
    assert said["choices"][0]["text"] in ("yes", "no", "maybe so")


def test_a_full_context_is_one_clear_error() -> None:
    small = load(None, threads=2, context=64)
    undo = llamacpp.accelerate(small.llama)
    tokens = small.llama.generate(list(range(100, 150)), temp=1.0)
    with pytest.raises(aded.ContextFullError, match="n_ctx"):
        list(tokens)
    undo()


def test_log_probabilities_need_no_more_than_before() -> None:
    made = llama_cpp.Llama(str(aded.engines.base.loaded.embedded_file()), n_ctx=256, logits_all=True, verbose=False)
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0, "logprobs": 3}
    plain = made.create_completion("One, two, three,", **settings)["choices"][0]["logprobs"]
    made.reset()
    said = emitted(made, made.tokenize(b"One, two, three,"), 12)
    stats = aded.Stats()
    undo = llamacpp.accelerate(made, drafter=Knowing(said), trees=True, max_draft_tokens=8, stats=stats)
    ours = made.create_completion("One, two, three,", **settings)["choices"][0]["logprobs"]
    undo()
    assert 0 < stats.accepted < stats.drafted
    assert ours["tokens"] == plain["tokens"]
    assert np.allclose(ours["token_logprobs"], plain["token_logprobs"], atol=0.2)


def test_what_cannot_be_accelerated_is_refused(loaded: LoadedLlama) -> None:
    with pytest.raises(aded.UnsupportedError, match=r"llama_cpp\.Llama"):
        llamacpp.accelerate(object())
    loaded.llama.draft_model = llamacpp.DraftModel()
    with pytest.raises(aded.UnsupportedError, match="draft model of its own"):
        llamacpp.accelerate(loaded.llama)
    loaded.llama.draft_model = None


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    whole = aded.engines.base.loaded.embedded_file().read_bytes()
    for name, content in {"short.gguf": whole[:4096], "other.gguf": b"nothing of the kind" * 99}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(aded.ModelLoadError, match=name):
            load(str(tmp_path / name))
    with pytest.raises(aded.ModelLoadError, match="no GGUF file"):
        load(str(tmp_path / "missing.gguf"))


def test_a_draft_model_serves_a_stock_llama() -> None:
    file = str(aded.engines.base.loaded.embedded_file())
    plain = llama_cpp.Llama(file, n_ctx=512, verbose=False)
    stock = llama_cpp.Llama(file, n_ctx=512, verbose=False, draft_model=llamacpp.DraftModel())
    settings: dict[str, Any] = {"max_tokens": 48, "temperature": 0.0}
    for _ in range(2):
        a, b = (llama.create_completion("1, 2, 3, 4, 5, 6, 7, 8,", **settings) for llama in (plain, stock))
        assert b["choices"][0]["text"][:40] == a["choices"][0]["text"][:40]


def test_a_runner_answers_and_compares(loaded: LoadedLlama) -> None:
    runner = EngineRunner(loaded, aded.create_drafter("adaptive"), 8)
    ids = prompt(loaded, TEXTS[1])
    settings: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    plain, ours = runner.plain(ids, **settings), runner.answer(ids, **settings)
    compared = runner.compare(ids, plain, ours, **settings)
    assert compared["identical"] or compared["tie"]
    assert len(ours.stats.from_draft) == ours.tokens <= 40
    assert 0 < ours.stats.accepted < ours.stats.drafted


def test_the_command_line_runs_on_llama_cpp(tmp_path: Path) -> None:
    prompts, report, trace = tmp_path / "prompts.txt", tmp_path / "report.json", tmp_path / "t.safetensors"
    prompts.write_text("Name three rivers of France.\nCount from one to ten twice.\n")
    common = ["--engine", "llamacpp", "--threads", "2"]

    def run(*words: str) -> Any:
        result = CliRunner().invoke(app, [*words])
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.output

    few = ["--prompts", str(prompts), "--max-new-tokens", "8"]
    names = "adaptive,llama-prompt-lookup-2,none"
    run("bench", *few, "--limit", "1", *common, "--drafters", names, "--repeats", "1", "--json", str(report))
    found = {result["drafter"]: result for result in json.loads(report.read_text())["results"]}
    assert set(found) == {"plain", *names.split(",")}
    assert all(result["differences"] == 0 for name, result in found.items() if "llama" not in name)
    run("trace", "record", *few, *common, "--out", str(trace))
    recorded = Trace.load(trace)
    assert [len(sequence.output) for sequence in recorded.sequences] == [8, 8]
    assert all((sequence.output == sequence.top_ids[:, 0]).all() for sequence in recorded.sequences)
    cost = json.loads(run("calibrate", *common, "--json"))["step_cost"]
    assert cost["tokens"][0] == 1
    assert min(cost["seconds"]) > 0
    answered = json.loads(run("generate", "Name three rivers.", *common, "--max-new-tokens", "8", "--json"))
    assert answered["tokens"] == 8
    for words, reason in (
        (["bench", *few, *common, "--batch-size", "2"], "one prompt at a time"),
        (["generate", "x", "--engine", "llamacpp", "--dtype", "float16"], "leave out"),
        (["generate", "x", "--engine", "other"], "no engine"),
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code
        assert isinstance(result.exception, aded.AdedError)
        assert reason in str(result.exception)


def test_state_learned_with_one_engine_serves_the_other(loaded: LoadedLlama) -> None:
    from aded.engines.transformers.loading import load as load_for_transformers

    assert loaded.fingerprint == load_for_transformers(None).fingerprint


def test_the_examples_of_the_page_run() -> None:
    page = (ROOT / "docs" / "llamacpp.md").read_text()
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example.replace("model.gguf", str(aded.engines.base.loaded.embedded_file())), names)
        llamacpp.unpatch()
    assert names["answer"]["choices"][0]["message"]["content"]
    assert names["llama"].draft_model is names["drafts"]


trees = st.lists(st.integers(0, 8), min_size=1, max_size=24).map(
    lambda above: DraftTree.build(range(len(above)), [min(parent, i) - 1 for i, parent in enumerate(above)])
)


@given(trees, st.integers(1, 6), st.integers(0, 6))
def test_a_tree_is_cut_to_the_paths_and_levels_there_are(tree: DraftTree, paths: int, depth: int) -> None:
    cut = tree.limit(depth=depth).prune(paths)
    cut.validate()
    leaves = len(set(range(len(cut))) - set(cut.parents.tolist()))
    assert leaves <= paths
    assert int(cut.depths.max(initial=-1)) < max(depth, 0)
    if paths >= len(tree) and depth > 24:
        assert len(cut) == len(tree)


@given(trees)
def test_a_node_belongs_to_the_sequences_of_the_leaves_below_it(tree: DraftTree) -> None:
    order, below = assign_sequences(tree)
    mask = tree.ancestor_mask()
    leaves = [node for node in order if node not in set(tree.parents.tolist())]
    assert sorted(order) == list(range(len(tree)))
    for node, sequences in enumerate(below):
        assert sequences == [number for number, leaf in enumerate(leaves) if mask[leaf, node]]
    path = tree.path(leaves[0])
    assert order[: len(path)] == list(path), "the first path follows the prefix without a gap"


@given(st.integers(0, 2**31), st.sampled_from([40, 2048, 2050, 5000]), st.integers(1, 8))
def test_the_likeliest_tokens_and_their_probabilities(seed: int, vocabulary: int, k: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (3, vocabulary)).astype(np.float32)
    ids, probs = top_k(logits, k)
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    assert np.allclose(probs, -np.sort(-exact, axis=1)[:, :k], rtol=1e-4)
    assert np.allclose(np.take_along_axis(exact, ids, 1), probs, rtol=1e-4)
