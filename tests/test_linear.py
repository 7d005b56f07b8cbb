"""The bfloat16 kernel against float32 arithmetic, and that it leaves a model as it was."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aded.engines.transformers import linear


@pytest.fixture(scope="module")
def kernel() -> linear._Kernel:
    try:
        return linear._Kernel()
    except LookupError as error:
        pytest.skip(str(error))


def make(k: int, n: int, bias: bool) -> torch.nn.Linear:
    return torch.nn.Linear(k, n, bias=bias).bfloat16()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 140), k=st.integers(1, 1200), n=st.integers(1, 130), bias=st.booleans(), seed=st.integers(0, 99)
)
def test_a_product_is_float32s_rounded_once(
    kernel: linear._Kernel, m: int, k: int, n: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, x = make(k, n, bias), torch.randn(m, k).bfloat16()
    with torch.no_grad():
        got = kernel(layer, x).float()
        exact = torch.nn.functional.linear(
            x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
        )
    # Half a unit in the last place of bfloat16, and what summing k products in float32 can add.
    allowed = exact.abs() * 2**-8 + x.double().abs() @ layer.weight.double().abs().T * 2**-22 * k**0.5 + 1e-30
    assert ((got - exact).abs() <= allowed).all()


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 90), k=st.integers(1, 1100), n=st.integers(1, 70))
def test_a_tokens_result_does_not_depend_on_the_others(kernel: linear._Kernel, m: int, k: int, n: int) -> None:
    layer, x = make(k, n, False), torch.randn(m, k).bfloat16()
    with torch.no_grad():
        together = kernel(layer, x)
        assert all(torch.equal(together[i : i + 1], kernel(layer, x[i : i + 1])) for i in range(m))


def test_infinities_and_nans_come_out_as_such(kernel: linear._Kernel) -> None:
    layer = make(8, 4, False)
    layer.weight.data.fill_(1)
    x = torch.zeros(3, 8, dtype=torch.bfloat16)
    x[0, 0], x[1, 0] = float("inf"), float("nan")
    with torch.no_grad():
        out = kernel(layer, x)
    assert out[0].isinf().all()
    assert out[1].isnan().all()
    assert (out[2] == 0).all()


@pytest.fixture
def forced(kernel: linear._Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the kernel pays."""
    monkeypatch.setattr(linear, "_choose", lambda layers: kernel)
    monkeypatch.setattr(linear, "_CHOSEN", {})


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = make(16, 8, True), make(16, 8, True), make(16, 8, True).float()


@pytest.mark.usefixtures("forced")
def test_the_model_is_as_before_afterwards_also_after_an_error() -> None:
    model, x = Model(), torch.randn(3, 16).bfloat16()
    with contextlib.suppress(KeyError), linear.fast_linear(model):
        assert "forward" in model.a.__dict__
        assert "forward" not in model.c.__dict__, "float32 layers are not touched"
        raise KeyError
    assert "forward" not in model.a.__dict__
    assert torch.equal(model.a(x), torch.nn.functional.linear(x, model.a.weight, model.a.bias))


@pytest.mark.usefixtures("forced")
def test_another_hooks_forward_is_left_alone() -> None:
    model = Model()
    hooked = lambda x: x  # noqa: E731
    model.a.forward = hooked  # type: ignore[method-assign]
    with linear.fast_linear(model):
        assert model.a.forward is hooked
    assert model.a.forward is hooked


@pytest.mark.usefixtures("forced")
def test_other_threads_keep_the_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Model(), torch.randn(3, 16).bfloat16()
    calls = []
    monkeypatch.setattr(linear._Kernel, "__call__", lambda self, layer, x: calls.append(threading.get_ident()) or x)
    inside, leave = threading.Event(), threading.Event()

    def user() -> None:
        with linear.fast_linear(model):
            model.a(x)
            inside.set()
            leave.wait()

    thread = threading.Thread(target=user)
    thread.start()
    inside.wait()
    with torch.no_grad():
        model.a(x)
    assert calls == [thread.ident]
    with linear.fast_linear(model), torch.no_grad():
        model.a(x)
        leave.set()
        thread.join()
        model.a(x)
    assert len(calls) == 3, "the first user's end does not take the kernel from the second"
    assert "forward" not in model.a.__dict__
