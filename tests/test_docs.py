"""What the README and the pages show must run as it stands."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import torch
import yaml
from typer.testing import CliRunner

from aded.cli import app
from aded.engines.base.settings import Settings
from aded.traces import read_prompts
from support.models import PROMPT, build
from support.paths import ROOT

README = (ROOT / "README.md").read_text()
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
PAGES = {file: file.read_text() for file in FILES}


def test_the_python_examples_run_and_change_no_output() -> None:
    model = build("llama")
    inputs = {"input_ids": PROMPT, "max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(**inputs)
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"model": model, "inputs": inputs}
    exec("import aded", names)
    assert len(examples) >= 2
    for example in examples:
        exec(example, names)
        assert torch.equal(names["output"], plain)


def test_the_manifest_sets_what_there_is_to_set_and_leaves_time_to_save() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGES[ROOT / "docs" / "deploy.md"], re.DOTALL)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    names = {variable["name"] for variable in container["env"]}
    settings = {f"ADED_{field.name.upper()}" for field in fields(Settings)}
    assert {name for name in names if name.startswith("ADED_")} <= settings
    (shutdown,) = (int(word.split("=")[1]) for word in container["args"] if word.startswith("--shutdown-timeout"))
    assert pod["terminationGracePeriodSeconds"] > shutdown


def commands() -> list[tuple[str, list[str]]]:
    """Every command of ours in a code block, fenced or indented, with or without the folder before it: `aded` or the
    module that Python runs, and the words after it.
    """
    found = []
    for page in PAGES.values():
        joined = page.replace("\\\n", " ")
        fenced = re.findall(r"^```sh\n(.*?)^```", joined, re.DOTALL | re.MULTILINE)
        rest = re.sub(r"^```.*?^```", "", joined, flags=re.DOTALL | re.MULTILINE)
        indented = re.findall(r"^    .*$", rest, re.MULTILINE)
        for line in "\n".join(fenced + indented).splitlines():
            if command := re.match(r" *(?:\.venv/bin/)?(?:python -m )?(aded|benchmarks\.\w+) (.*)", line):
                found.append((command[1], shlex.split(command[2], comments=True)))
    return found


def test_the_commands_and_options_they_name_exist() -> None:
    found, groups = commands(), ("trace", "corpus", "state")
    assert len(found) >= 20
    assert {words[0] for _, words in found} > set(groups)
    assert {name for name, _ in found} == {
        "aded",
        "benchmarks.peers",
        "benchmarks.predicted",
        "benchmarks.ablation",
        "benchmarks.crowding",
        "benchmarks.commits",
        "benchmarks.device",
        "benchmarks.device_drafts",
        "benchmarks.edits",
        "benchmarks.serve_load",
        "benchmarks.soak",
        "benchmarks.exactness",
        "benchmarks.llama_server",
        "benchmarks.calibration",
        "benchmarks.regret",
        "benchmarks.step_profile",
        "benchmarks.servers",
        "benchmarks.simulated_serving",
    }
    for name, words in found:
        ours = name in ("aded", "benchmarks.peers")  # which takes the words of the other
        verb = words[: 2 if words[0] in groups else 1] if ours else []
        command = app if ours else import_module(name).app
        shown = CliRunner().invoke(command, [*verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, words
        options = set(re.findall(r"--[a-z][a-z-]*", re.sub(r"\x1b\[[0-9;]*m", "", shown.output)))
        for option in (word.partition("=")[0] for word in words if re.match(r"--[a-z-]+(=|$)", word)):
            assert option in options, (words, option)


def test_links_between_pages_lead_somewhere() -> None:
    for file, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (file.parent / link).is_file(), link


def test_the_text_only_prompts_are_made_as_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drafting.md").read_text(), re.DOTALL)
    exec(example, {})
    prompts = read_prompts(tmp_path / "texts.jsonl")
    assert {prompt.category for prompt in prompts} == {"python", "prose", "copy"}
    assert all(prompt.output for prompt in prompts)
