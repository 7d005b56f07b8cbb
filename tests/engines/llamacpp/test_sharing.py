"""What calls of one llama.cpp model share, and with whom."""

from __future__ import annotations

import pytest

import aded

llama_cpp = pytest.importorskip("llama_cpp", reason="make llamacpp builds it")
pytest.importorskip("gguf", reason="the extra cli brings it")

from support.gguf_files import write_tiny_gguf  # noqa: E402


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> llama_cpp.Llama:
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(file)
    return llama_cpp.Llama(str(file), n_ctx=256, n_threads=1, verbose=False, logits_all=False)


@pytest.mark.parametrize("way", ["said around the call", "options of accelerate"])
def test_tenants_and_what_is_shared(llama: llama_cpp.Llama, way: str) -> None:
    settings = {"max_tokens": 40, "temperature": 0.0}
    plain, steps = llama.create_completion("the other nose", **settings)["choices"][0]["text"], {}
    cases = {"afresh": (), "another tenant's": ("b",), "one's own": ("a",), "one's own, kept": ("a kept",)}
    for name, before in cases.items():
        drafter = aded.create_drafter("adaptive", tenant_mb=1)
        for tenant in (*before, "a"):
            stats = aded.Stats()
            share, tenant = ("nothing", "a") if tenant == "a kept" else (None, tenant)
            said = {} if way == "said around the call" else {"share": share, "tenant": tenant}
            undo = aded.llamacpp.accelerate(llama, drafter=drafter, max_draft_tokens=8, stats=stats, **said)
            with aded.sharing(*(() if said else (share, tenant))):
                found = llama.create_completion("the other nose", **settings)["choices"][0]["text"]
            undo()
            llama.reset()
            assert found == plain
        assert 0 < stats.accepted < stats.drafted
        steps[name] = stats.steps
    assert steps["one's own"] < steps["afresh"] == steps["another tenant's"] == steps["one's own, kept"]


def test_what_a_drafter_cannot_share_is_refused_at_once(llama: llama_cpp.Llama) -> None:
    with pytest.raises(aded.SettingsError, match="use the drafter adaptive"):
        aded.llamacpp.accelerate(llama, drafter="paper", tenant="a")
    assert "generate" not in vars(llama)


def test_a_prediction_is_drafted_from(llama: llama_cpp.Llama) -> None:
    settings = {"max_tokens": 40, "temperature": 0.0}
    llama.reset()
    plain, steps = llama.create_completion("the other nose", **settings)["choices"][0]["text"], []
    for prediction in ("", plain, "something else entirely"):
        llama.reset()
        stats = aded.Stats()
        undo = aded.llamacpp.accelerate(llama, drafter="none", max_draft_tokens=12, stats=stats)
        with aded.predicting(prediction):
            assert llama.create_completion("the other nose", **settings)["choices"][0]["text"] == plain
        undo()
        steps.append(stats.steps)
    assert steps[1] < steps[0] <= steps[2] + 1
