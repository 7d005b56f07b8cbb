"""Other ways to run bfloat16 linear layers: against float64 arithmetic, and that they leave a model as it was."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aded.engines.transformers.linear import dispatch
from aded.engines.transformers.linear.bindings import (
    AmxLinear,
    Avx512Linear,
    DotLinear,
    LinearKernel,
    PortableLinear,
    TiledLinear,
)
from aded.kernels.openmp import UnavailableError


def skip_unless(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def portable() -> PortableLinear:
    return skip_unless(PortableLinear)


TILED = {"amx": AmxLinear, "avx512": Avx512Linear}


def whatever_the_library_does(kernel: Any) -> Any:
    """Have a kernel run all layers that it can, in blocks of 96 inputs."""
    kernel.block = lambda n, k: None if k % 32 or n < kernel._least else 96
    return kernel


@pytest.fixture(scope="module", params=["amx", "avx512", "dots", "portable"])
def own(request: pytest.FixtureRequest) -> Any:
    """A kernel of ours, also where the library sums otherwise."""
    if request.param not in TILED:
        return skip_unless(DotLinear if request.param == "dots" else PortableLinear)
    return whatever_the_library_does(skip_unless(TILED[request.param]))


@pytest.fixture(scope="module")
def like_the_library() -> Any:
    """The kernel that gives the library's bits here."""
    kernel = dispatch._kernel(torch.bfloat16)
    if not isinstance(kernel, TiledLinear | DotLinear):
        pytest.skip("no kernel of ours sums as the library does here")
    return kernel


def make(k: int, n: int, bias: bool) -> torch.nn.Linear:
    return torch.nn.Linear(k, n, bias=bias).bfloat16()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 140),
    k=st.integers(1, 1200) | st.integers(1, 37).map(lambda x: 32 * x),
    n=st.integers(1, 130),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_product_is_float32s_rounded_once(own: LinearKernel, m: int, k: int, n: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = make(k, n, bias), torch.randn(m, k).bfloat16()
    with torch.no_grad():
        got = own.bind(layer)(x).float()
        exact = torch.nn.functional.linear(
            x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
        )
    # Half a unit in the last place of bfloat16, and what summing k products in float32 can add.
    allowed = exact.abs() * 2**-8 + x.double().abs() @ layer.weight.double().abs().T * 2**-22 * k**0.5 + 1e-30
    assert ((got - exact).abs() <= allowed).all()


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 90), k=st.integers(1, 550) | st.integers(1, 34).map(lambda x: 16 * x), n=st.integers(1, 70))
def test_a_tokens_result_does_not_depend_on_the_others(own: LinearKernel, m: int, k: int, n: int) -> None:
    layer, x = make(2 * k, n, False), torch.randn(m, 2 * k).bfloat16()
    kernel = own.bind(layer)
    with torch.no_grad():
        together = kernel(x)
        assert all(torch.equal(together[i : i + 1], kernel(x[i : i + 1])) for i in range(m))


@pytest.mark.parametrize(("k", "n"), [(8, 4), (576, 99)])
def test_no_tokens_give_no_results(own: LinearKernel, k: int, n: int) -> None:
    assert own.bind(make(k, n, True))(torch.empty(1, 0, k).bfloat16()).shape == (1, 0, n)


def test_infinities_and_nans_come_out_as_such(own: LinearKernel) -> None:
    layer = make(64, 40, False)
    layer.weight.data.fill_(1)
    x = torch.zeros(3, 64, dtype=torch.bfloat16)
    x[0, 0], x[1, 0] = float("inf"), float("nan")
    with torch.no_grad():
        out = own.bind(layer)(x)
    assert out[0].isinf().all()
    assert out[1].isnan().all()
    assert (out[2] == 0).all()


@pytest.fixture
def forced(portable: PortableLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the kernel pays."""
    monkeypatch.setattr(dispatch, "_kernel", lambda dtype: portable)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = make(16, 8, True), make(16, 8, True), make(16, 8, True).half()


@pytest.mark.usefixtures("forced")
def test_the_model_is_as_before_afterwards_also_after_an_error() -> None:
    model, x = Model(), torch.randn(3, 16).bfloat16()
    with contextlib.suppress(KeyError), dispatch.fast_linear(model):
        assert "forward" in model.a.__dict__
        assert "forward" not in model.c.__dict__, "float16 layers are not touched"
        raise KeyError
    assert "forward" not in model.a.__dict__
    assert torch.equal(model.a(x), torch.nn.functional.linear(x, model.a.weight, model.a.bias))


@pytest.mark.usefixtures("forced")
def test_another_hooks_forward_is_left_alone() -> None:
    model = Model()
    hooked = lambda x: x  # noqa: E731
    model.a.forward = hooked  # type: ignore[method-assign]
    with dispatch.fast_linear(model):
        assert model.a.forward is hooked
    assert model.a.forward is hooked


@pytest.mark.usefixtures("forced")
def test_other_threads_keep_the_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Model(), torch.randn(3, 16).bfloat16()
    calls = []
    monkeypatch.setattr(
        PortableLinear, "_forward", lambda self, weight, bias, x: calls.append(threading.get_ident()) or x
    )
    inside, leave = threading.Event(), threading.Event()

    def user() -> None:
        with dispatch.fast_linear(model):
            model.a(x)
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=user)
    thread.start()
    inside.wait(60)
    with torch.no_grad():
        model.a(x)
    assert calls == [thread.ident]
    with dispatch.fast_linear(model), torch.no_grad():
        model.a(x)
        leave.set()
        thread.join()
        model.a(x)
    assert len(calls) == 3, "the first user's end does not take the kernel from the second"
    assert "forward" not in model.a.__dict__


CHANGES: dict[str, Callable[[torch.nn.Linear], Any]] = {
    "in place": lambda layer: layer.weight.mul_(2),
    "replaced": lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight * 2)),
    "behind autograd's back": lambda layer: layer.weight.data.mul_(2),
    "some columns": lambda layer: layer.weight.data[:, 7::16].zero_(),
    "one weight": lambda layer: layer.weight.data[40, 11].add_(1),
    "two rows change places": lambda layer: layer.weight.data.copy_(layer.weight.data.flip(0)),
    "the last weight": lambda layer: layer.weight.data[-1, -1].add_(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_layers_weights_is_never_missed(like_the_library: Any, change: str) -> None:
    layer, x = make(576, 96, False), torch.randn(3, 576).bfloat16()
    with torch.no_grad():
        before = like_the_library.bind(layer)(x)
        CHANGES[change](layer)
        after = like_the_library.bind(layer)(x)
        assert not torch.equal(before, after)
        assert torch.equal(after, torch.cat([layer(row) for row in x.split(1)]))


def test_a_model_made_in_inference_mode_can_be_run(like_the_library: Any) -> None:
    with torch.inference_mode():
        layer = make(576, 96, False)
        x = torch.randn(1, 576).bfloat16()
        assert torch.equal(like_the_library.bind(layer)(x), layer(x))


def test_layers_that_the_library_sums_otherwise_are_left_to_it(like_the_library: Any) -> None:
    """The inputs are no multiple of what a tile takes, or there is next to no work."""
    if not isinstance(like_the_library, TiledLinear):
        pytest.skip("this one is the library's for all of them")
    for k, n in ((570, 96), (96, 1)):
        layer, x = make(k, n, True), torch.randn(3, k).bfloat16()
        assert like_the_library.block(n, k) is None
        with torch.no_grad():
            assert torch.equal(like_the_library.bind(layer)(x), torch.cat([layer(row) for row in x.split(1)]))
