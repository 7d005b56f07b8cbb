"""Models whose layers keep a state: it goes back where drafts are rejected, by a copy or by llama.cpp's rollback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aded
from support.gguf_models import IDS, granite_hybrid_file, lfm2_file, said
from support.oracle import ChainThenWrong

llama_cpp = pytest.importorskip("llama_cpp", reason="make llamacpp builds it")

from aded import llamacpp  # noqa: E402

KINDS = {"lfm2": lfm2_file, "granite-hybrid": granite_hybrid_file}


@pytest.fixture(scope="module", params=KINDS)
def new(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    file = KINDS[request.param](tmp_path_factory.mktemp("models") / "model.gguf")
    of_floats = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}

    def made(**options: Any) -> Any:
        return llama_cpp.Llama(
            file, **{"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False, **of_floats, **options}
        )

    return made


class Wavering(ChainThenWrong):
    """Is now and then wrong from the first token on, now and then right to the end."""

    def draft(self, max_nodes: int) -> aded.DraftTree:
        if self.position % 5 == 0:
            true = self.answer[self.position : self.position + max_nodes]
            return aded.DraftTree.chain([(token + 1) % self.vocabulary for token in true][:2])
        if self.position % 3 == 0:
            return aded.DraftTree.chain(self.answer[self.position : self.position + min(self.depth, max_nodes)])
        return super().draft(max_nodes)


@pytest.mark.parametrize("rollback", [False, True])
@pytest.mark.parametrize("depth", [2, 4, 7])
@pytest.mark.parametrize("options", [{"temp": 0.0}, {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}], ids=str)
def test_states_go_back(new: Callable[..., Any], rollback: bool, depth: int, options: dict[str, Any]) -> None:
    plain = said(new(), 60, **options)
    assert len(set(plain)) > 20
    llama, stats = new(), aded.Stats()
    drafter = Wavering(plain, depth=depth, vocabulary=1000)
    llamacpp.accelerate(llama, drafter=drafter, max_draft_tokens=8, rollback=rollback, stats=stats)
    for _ in range(2):
        assert said(llama, 60, **options) == plain
    assert 0 < stats.accepted < stats.drafted
    assert stats.steps < 110


@pytest.mark.parametrize("rollback", [False, True])
def test_costs_are_measured_and_change_nothing(
    new: Callable[..., Any], rollback: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADED_CACHE", str(tmp_path))
    plain, llama = said(new(), 60), new(n_threads_batch=2)
    llamacpp.accelerate(llama, drafter=Wavering(plain, vocabulary=1000), rollback=rollback)
    assert said(llama, 60) == plain
    assert llamacpp.prepare(llama, renew=True)(4) > 0
    assert said(llama, 60) == plain


@pytest.mark.parametrize("rollback", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8, 13])
def test_a_stream_that_is_left_leaves_a_llama_that_goes_on(new: Callable[..., Any], rollback: bool, stop: int) -> None:
    plain, llama = said(new(), 60), new()
    llamacpp.accelerate(llama, drafter=Wavering(plain, vocabulary=1000), max_draft_tokens=6, rollback=rollback)
    assert said(llama, stop) == plain[:stop]
    more = [*IDS, *plain[:stop], 5, 6]
    expected = said(new(), 12, more)
    assert said(llama, 12, more) == expected
    assert said(llama, 60) == plain
    llamacpp.restore(llama)
    assert said(llama, 60) == plain
    assert said(llama, 12, more) == expected


@pytest.mark.parametrize("rollback", [False, True])
def test_an_interrupted_pass_leaves_a_llama_that_goes_on(
    new: Callable[..., Any], rollback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, llama = said(new(), 60), new()
    llamacpp.accelerate(llama, drafter=Wavering(plain, vocabulary=1000), max_draft_tokens=6, rollback=rollback)
    decode = type(llama._ctx).decode
    for after in range(2, 9):
        passes = iter(range(after))

        def interrupted(context: Any, batch: Any, passes: Any = passes) -> None:
            decode(context, batch)
            if next(passes, None) is None:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(type(llama._ctx), "decode", interrupted)
            with pytest.raises(KeyboardInterrupt):
                said(llama, 60)
        assert said(llama, 60) == plain


def test_a_context_can_be_filled_to_its_end(new: Callable[..., Any]) -> None:
    llama, stats = new(), aded.Stats()
    room = llama.n_ctx() - len(IDS)
    plain = said(new(), room)
    llamacpp.accelerate(llama, drafter=Wavering(plain, vocabulary=1000), max_draft_tokens=8, stats=stats)
    assert said(llama, room) == plain
    text = llama.create_completion(IDS, max_tokens=None, temperature=0.0)
    assert text["usage"]["completion_tokens"] <= room
    assert 0 < stats.accepted < stats.drafted


def test_trees_are_refused(new: Callable[..., Any]) -> None:
    with pytest.raises(aded.UnsupportedError, match="takes chains"):
        llamacpp.accelerate(new(), trees=True)
