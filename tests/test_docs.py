"""What the README and the pages show must run as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
from typer.testing import CliRunner

from aded.cli import app
from aded.traces import read_prompts
from support.paths import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]


def test_the_python_examples_run_and_change_no_output(embedded) -> None:
    model, tokenizer = embedded
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    inputs["max_new_tokens"], inputs["do_sample"] = 12, False
    plain = model.generate(**inputs)
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"model": model, "inputs": inputs}
    exec("import aded", names)
    assert len(examples) >= 2
    for example in examples:
        exec(example, names)
        assert torch.equal(names["output"], plain)


def test_the_commands_and_options_they_name_exist() -> None:
    joined = "\n".join(PAGES).replace("\\\n", " ")
    commands = re.findall(r"^ *\.venv/bin/aded (.*)$", joined, re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        words = shlex.split(command)
        verb = words[: 2 if words[0] in ("trace", "corpus") else 1]
        shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for option in (word for word in words if word.startswith("--")):
            assert option in re.sub(r"\x1b\[[0-9;]*m", "", shown.output), option


def test_links_between_pages_lead_somewhere() -> None:
    for folder, text in ((ROOT, README), *((ROOT / "docs", page) for page in PAGES[1:])):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (folder / link).is_file(), link


def test_the_text_only_prompts_are_made_as_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drafting.md").read_text(), re.DOTALL)
    exec(example, {})
    prompts = read_prompts(tmp_path / "texts.jsonl")
    assert {prompt.category for prompt in prompts} == {"python", "prose", "copy"}
    assert all(prompt.output for prompt in prompts)
