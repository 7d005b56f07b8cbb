"""What the README shows must run as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
from typer.testing import CliRunner

from aded.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text()


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


def test_the_options_the_readme_names_exist() -> None:
    commands = re.findall(r"^\.venv/bin/aded (.*)$", README, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command)
        shown = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in re.sub(r"\x1b\[[0-9;]*m", "", shown.output), option
