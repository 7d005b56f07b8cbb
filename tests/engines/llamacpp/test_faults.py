"""What other programs do to a `Llama`: small batches, errors in the middle, full contexts, old streams, copies."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aded
from support.gguf_models import IDS, llama_file, said
from support.oracle import ChainThenWrong, Oracle

llama_cpp = pytest.importorskip("llama_cpp", reason="make llamacpp builds it")

from aded import llamacpp  # noqa: E402


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return llama_file(tmp_path_factory.mktemp("models") / "llama.gguf")


def new(file: str, **options: Any) -> Any:
    of_floats = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    return llama_cpp.Llama(
        file, **{"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False, **of_floats, **options}
    )


@pytest.fixture(scope="module")
def answer(file: str) -> list[int]:
    return said(new(file), 100)


def drafted(answer: list[int], trees: bool) -> Any:
    return (Oracle if trees else ChainThenWrong)(answer, vocabulary=1000)


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("batch", [1, 8, 15])
def test_a_small_batch_has_small_drafts(file: str, answer: list[int], batch: int, trees: bool) -> None:
    """LangChain makes batches of 8. llama.cpp ends the process for a context of more sequences than that."""
    llama, stats = new(file, n_batch=batch), aded.Stats()
    llamacpp.accelerate(llama, drafter=drafted(answer, trees), trees=trees, max_draft_tokens=24, stats=stats)
    assert said(llama, 30) == answer[:30]
    assert (0 < stats.accepted < stats.drafted) is (batch > 1)
    llamacpp.accelerate(llama)  # "auto" measures what there is room for
    assert said(llama, 10) == answer[:10]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("place", ["decode", "commit", "criterion"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_an_interruption_anywhere_leaves_the_llama_usable(
    file: str,
    answer: list[int],
    place: str,
    trees: bool,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llama, left = new(file), iter([False] * 5 + [True])

    def interrupted(*args: Any) -> None:
        if next(left, False):
            raise error

    llamacpp.accelerate(llama, drafter=drafted(answer, trees), trees=trees, max_draft_tokens=12)
    options: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        if place == "criterion":
            options["stopping_criteria"] = llama_cpp.StoppingCriteriaList([interrupted])
        elif place == "decode":
            decode = type(llama._ctx).decode
            patch.setattr(type(llama._ctx), "decode", lambda ctx, batch: (decode(ctx, batch), interrupted())[0])
        else:
            keep = llama_cpp.llama_memory_seq_rm
            patch.setattr(llama_cpp, "llama_memory_seq_rm", lambda *args: (interrupted(), keep(*args))[1])
        with pytest.raises(error):
            said(llama, 60, **options)
    memory = llama_cpp.llama_get_memory(llama._ctx.ctx)
    assert [llama_cpp.llama_memory_seq_pos_max(memory, x) for x in range(llama.context_params.n_seq_max)][1:] == (
        [-1] * (llama.context_params.n_seq_max - 1)
    )
    held = llama.input_ids[: llama.n_tokens].tolist()
    assert held == [*IDS, *answer][: len(held)]
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == len(held) - 1
    assert said(llama, 40) == answer[:40], "what stayed in the cache is right"


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("nodes", [4, 24, 64])
def test_a_context_can_be_filled_to_its_end(file: str, nodes: int, trees: bool) -> None:
    llama, stats = new(file), aded.Stats()
    room = llama.n_ctx() - len(IDS)
    answer = said(new(file), room)
    llamacpp.accelerate(llama, drafter=drafted(answer, trees), trees=trees, max_draft_tokens=nodes, stats=stats)
    text = llama.create_completion(IDS, max_tokens=None, temperature=0.0)
    assert text["usage"]["completion_tokens"] == room
    llama.reset()
    assert said(llama, room) == answer[:room]
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("trees", [False, True])
def test_an_old_stream_does_nothing_to_a_newer_one(file: str, answer: list[int], trees: bool) -> None:
    llama = new(file)
    llamacpp.accelerate(llama, drafter=drafted(answer, trees), trees=trees, max_draft_tokens=8)
    old = llama.generate(IDS, temp=0.0)
    assert [next(old) for _ in range(6)] == answer[:6]
    newer = llama.generate(IDS[:7], temp=0.0)
    first = [next(newer) for _ in range(3)]
    with pytest.raises(aded.UnsupportedError, match="another call has used this Llama"):
        next(old)
    third = llama.generate(IDS[:7], temp=0.0)
    again = [next(third) for _ in range(3)]
    newer.close()
    del old, newer
    gc.collect()
    again += [next(third) for _ in range(20)]
    third.close()
    assert again[:3] == first
    stock = new(file)
    assert again == said(stock, 23, IDS[:7])


def test_what_chooses_sees_what_its_consumer_does(file: str, answer: list[int]) -> None:
    """A processor and a criterion that read what changes between two tokens."""
    accepted = []
    for accelerated in (False, True):
        llama, seen, stats = new(file), [0], aded.Stats()
        if accelerated:
            llamacpp.accelerate(llama, drafter=ChainThenWrong(answer, vocabulary=1000), max_draft_tokens=8, stats=stats)

        def ban(ids: Any, scores: Any, seen: list[int] = seen) -> Any:
            if seen[0] >= 12:
                scores = scores.copy()
                scores[int(np.argmax(scores))] = -np.inf
            return scores

        def stop(ids: Any, scores: Any, seen: list[int] = seen) -> bool:
            return seen[0] >= 20

        options = {"logits_processor": llama_cpp.LogitsProcessorList([ban])}
        options["stopping_criteria"] = llama_cpp.StoppingCriteriaList([stop])
        found = []
        for token in llama.generate(IDS, temp=0.0, **options):
            found.append(token)
            seen[0] += 1
        accepted.append((found, stats.accepted))
    assert accepted[0][0] == accepted[1][0]
    assert len(accepted[0][0]) == 20
    assert accepted[1][1] > 0


@pytest.mark.parametrize("token", [10**6, 1024, 2**31 - 1, -5])
def test_ids_that_are_no_tokens_are_never_drafted(file: str, token: int) -> None:
    """llama-cpp-python's cache of tokens may hold any number; llama.cpp itself refuses a prompt with such an id."""
    llama, stats = new(file), aded.Stats()
    llamacpp.accelerate(llama, max_draft_tokens=8, stats=stats)
    plain = said(new(file), 30, [*IDS, *IDS])
    said(llama, 1, [*IDS, *IDS])
    llama.input_ids[3] = token  # as another program's state would hold
    llama._requires_eval = True
    assert said(llama, 30, [*IDS, *IDS]) == plain
    with pytest.raises(Exception, match=r"decode|-1|token"):
        said(llama, 2, [*IDS, token if token > 0 else 10**6])
    assert said(llama, 30, [*IDS, *IDS]) == plain


def test_chains_leave_the_context_as_it_is(file: str) -> None:
    llama = new(file)
    pointer = llama._ctx.ctx
    undo = llamacpp.accelerate(llama, max_draft_tokens=4)
    said(llama, 8)
    undo()
    assert llama._ctx.ctx == pointer


def test_a_control_vector_that_a_new_context_would_lose_is_refused(file: str) -> None:
    def steered() -> Any:
        llama = new(file)
        width = llama.n_embd()
        layers = llama_cpp.llama_model_n_layer(llama._model.model)
        data = np.random.default_rng(0).normal(0, 4, (layers - 1) * width).astype(np.float32)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert llama_cpp.llama_set_adapter_cvec(llama._ctx.ctx, pointer, data.size, width, 1, layers) == 0
        return llama

    stock, plain = said(steered(), 20), said(new(file), 20)
    assert stock != plain
    llama = steered()
    with pytest.raises(aded.UnsupportedError, match="adapters or a control vector"):
        llamacpp.accelerate(llama, trees=True)
    assert said(llama, 20) == stock, "a refusal leaves it as it was"
    stats = aded.Stats()
    llamacpp.accelerate(llama, drafter=ChainThenWrong(stock, vocabulary=1000), max_draft_tokens=6, stats=stats)
    llama.reset()
    assert said(llama, 20) == stock
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_is_accelerated_too(file: str, answer: list[int], way: str) -> None:
    llama, stats = new(file), aded.Stats()
    drafter = ChainThenWrong(answer, vocabulary=1000)
    llamacpp.accelerate(llama, drafter=drafter, max_draft_tokens=6, stats=stats)
    copied = copy.deepcopy(llama) if way == "deepcopy" else pickle.loads(pickle.dumps(llama))
    assert said(copied, 20) == answer[:20]
    llamacpp.restore(copied)
    assert type(copied) is llama_cpp.Llama
    if way == "deepcopy":
        assert 0 < stats.accepted < stats.drafted


def test_an_accelerated_llama_is_freed_when_nobody_has_it(file: str) -> None:
    llama = new(file)
    llamacpp.accelerate(llama, max_draft_tokens=4)
    said(llama, 6)
    reference = weakref.ref(llama)
    gc.disable()
    try:
        del llama
        assert reference() is None, "without the collector"
    finally:
        gc.enable()


def test_a_generate_of_its_own_is_refused(file: str) -> None:
    class Logged(llama_cpp.Llama):  # type: ignore[misc]
        def generate(self, *args: Any, **kwargs: Any) -> Iterator[int]:
            yield from super().generate(*args, **kwargs)

    llama = Logged(file, n_ctx=64, verbose=False)
    with pytest.raises(aded.UnsupportedError, match="way of its own"):
        llamacpp.accelerate(llama)


def test_every_llama_made_after_a_patch_is_accelerated(file: str, answer: list[int]) -> None:
    stats = aded.Stats()
    before = llama_cpp.Llama.__init__
    undo = llamacpp.patch(drafter=ChainThenWrong(answer, vocabulary=1000), max_draft_tokens=6, stats=stats)
    try:

        class Own(llama_cpp.Llama):  # type: ignore[misc]
            """As a program's own."""

        for kind in (llama_cpp.Llama, Own):
            llama = kind(file, n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
            assert isinstance(llama, kind)
            said(llama, 20)
            assert 0 < stats.accepted < stats.drafted
            stats.accepted = stats.drafted = 0
        with pytest.warns(UserWarning, match="without ADED: a context for embeddings"):
            embedding = llama_cpp.Llama(file, n_ctx=64, embedding=True, verbose=False)
        assert len(embedding.embed("one two")) > 0
        with pytest.raises(TypeError):
            llamacpp.patch(nonsense=1)
    finally:
        undo()
    assert llama_cpp.Llama.__init__ is before
    assert type(new(file)) is llama_cpp.Llama


def test_a_state_that_is_saved_and_loaded_goes_on(file: str, answer: list[int], tmp_path: Path) -> None:
    llama = new(file)
    llamacpp.accelerate(llama, drafter=ChainThenWrong(answer, vocabulary=1000), max_draft_tokens=6)
    said(llama, 10)
    state = llama.save_state()
    assert said(llama, 8, IDS[:5]) == said(new(file), 8, IDS[:5])
    llama.load_state(state)
    assert said(llama, 20) == answer[:20]
