"""Every example runs as it stands, and says that drafts saved passes."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import pytest

from aded.engines.transformers import loading
from support.paths import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module", autouse=True)
def _one_model() -> Any:
    """The embedded model is loaded once for all of them."""
    loaded = loading.load(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", lambda model: loaded)
        yield


def steps(said: str) -> list[tuple[int, int]]:
    """Tokens and passes, wherever they are told."""
    return [(int(a), int(b)) for a, b in re.findall(r"(\d+) tokens in (\d+) passes", said)]


@pytest.mark.parametrize("name", [file.stem for file in sorted(EXAMPLES.glob("*.py"))])
def test_an_example_runs(name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in {"gguf": ("llama_cpp",), "ask_the_server": ("openai", "fastapi")}.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capfd.readouterr().out
    if name == "one_line":
        assert "the same: True" in said
    if name == "ask_the_server":
        assert re.search(r"\d+ tokens, \d+ of them drafted", said)
    elif name == "keep_what_is_learned":
        first, second = map(int, re.findall(r"run: (\d+) passes", said))
        assert second < first
    elif name == "tenants":
        found = re.findall(r"(\w+): \d+ tokens in (\d+) passes", said)
        (anna, ben, anna_again) = (int(passes) for _, passes in found)
        assert anna_again < anna
        assert abs(anna - ben) < 0.5 * anna  # budgets follow the clock
    else:
        assert all(passes <= tokens for tokens, passes in steps(said))
        assert steps(said)


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    book = json.loads((EXAMPLES / "tour.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    found = steps(capsys.readouterr().out)
    assert found[1][1] < found[0][1]
