"""The house as CONTRIBUTING and docs/architecture.md describe it: no import leads up, and the public face is whole."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import aded
from support.paths import ROOT

PACKAGE = Path(aded.__file__).parent

# From the ground up. A room imports from itself and from rooms before it.
ROOMS = (
    "errors",
    "deprecation",
    "tree",
    "files",
    "forks",
    "kernels",
    "batch",
    "representative",
    "search",
    "budget",
    "drafters",
    "stats",
    "accept",
    "together",
    "speculation",
    "decoding",
    "streaming",
    "engines.base",
    "engines.device",
    "engines.transformers",
    "engines.llamacpp",
    "engines.vllm",
    "engines.sglang",
    "llamacpp",
    "llm_plugin",
    "vllm",
    "vllm_plugin",
    "sglang_plugin",
    "traces",
    "corpus",
    "bench",
    "serve",
    "cli",
)
FIRST_WITH_AN_ENGINE = ROOMS.index("engines.device")
ENGINES = ("engines.transformers", "engines.llamacpp", "engines.vllm", "engines.sglang")
PACKAGES = ("torch", "transformers", "llama_cpp", "vllm", "sglang")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        if name not in ("", "engines"):  # the face, and a folder
            yield name, ast.parse(file.read_text())


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "engines" and len(parts) > 1 else parts[0]


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a file, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = PACKAGE / "/".join(f"{node.module}.{alias.name}".split(".")[1:])
                is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if node.module.startswith("aded") and is_module else node.module


def arrows() -> set[tuple[str, str]]:
    """(room, room it imports from)."""
    found = set()
    for name, tree in modules():
        for target in imports(tree):
            if target.startswith("aded.") and (to := room_of(target.removeprefix("aded."))) != room_of(name):
                found.add((room_of(name), to))
    return found


def test_no_import_leads_up() -> None:
    for room, target in sorted(arrows()):
        assert ROOMS.index(target) < ROOMS.index(room), f"{room} imports {target}"


def test_engines_do_not_know_each_other() -> None:
    assert not [arrow for arrow in arrows() if arrow[0] in ENGINES and arrow[1] in ENGINES]


def test_drafting_imports_no_inference_package() -> None:
    for name, tree in modules():
        if ROOMS.index(room_of(name)) < FIRST_WITH_AN_ENGINE:
            used = {target.split(".")[0] for target in imports(tree)}
            assert not used & set(PACKAGES), name


def test_no_room_above_the_drafters_asks_for_a_drafters_class() -> None:
    classes = {
        node.name
        for name, tree in modules()
        if room_of(name) == "drafters" and name != "drafters.base"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Drafter")
    }
    assert {"AdaptiveDrafter", "PaperDrafter"} <= classes
    for name, tree in modules():
        if ROOMS.index(room_of(name)) > ROOMS.index("drafters"):
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                    assert not classes & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}, name


def test_the_package_needs_nothing_of_the_clone() -> None:
    for name, tree in modules():
        assert not {target.split(".")[0] for target in imports(tree)} & {"benchmarks", "support", "tests"}, name


def test_files_are_read_in_one_sitting() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert max(lengths.values()) <= 400
    loop = inspect.getsource(__import__("aded.decoding", fromlist=["decode"]).decode)
    body = loop[loop.rindex('"""') + 3 :].strip().splitlines()
    assert len(body) <= 25


def test_the_walk_of_one_call_is_short() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    walk = page[page.index("## The walk of one call") : page.index("## Where to add a drafter")]
    files = {ROOT / "docs" / link for link in re.findall(r"\]\(([^)]+\.py)\)", walk)}
    assert len(files) <= 10
    assert sum(len(file.read_text().splitlines()) for file in files) <= 1800


FACES = ["aded", "aded.llamacpp", "aded.vllm"]


def face(name: str) -> ModuleType:
    if name == "aded.llamacpp":
        pytest.importorskip("llama_cpp", reason="make llamacpp builds it")
    return getattr(aded, name.removeprefix("aded.")) if name != "aded" else aded


@pytest.mark.parametrize("name", FACES)
def test_each_public_name_exists_is_documented_and_typed(name: str) -> None:
    module = face(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        if public in ("llamacpp", "vllm"):  # faces themselves, looked at by their own
            continue
        thing = getattr(module, public)
        assert thing.__doc__, public
        assert len(thing.__doc__) > 20, public
        signature = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
        if inspect.isclass(thing) and (issubclass(thing, Exception) or getattr(thing, "_is_protocol", False)):
            continue
        for parameter in signature.parameters.values():
            assert parameter.name == "self" or parameter.annotation is not inspect.Parameter.empty, (public, parameter)
        assert signature.return_annotation is not inspect.Signature.empty, public


def test_the_engines_faces_are_alike() -> None:
    """What can be done with a model by one is called the same by the other."""
    pytest.importorskip("llama_cpp", reason="make llamacpp builds it")
    assert {"accelerate", "certify", "prepare", "restore"} <= set(aded.__all__) & set(aded.llamacpp.__all__)
    for option in ("drafter", "max_draft_tokens"):
        for accelerate in (aded.accelerate, aded.llamacpp.accelerate):
            assert option in inspect.signature(accelerate).parameters
    assert "vllm" in aded.__all__


def test_each_engine_has_the_same_files() -> None:
    for engine in ENGINES:
        files = {file.stem for file in (PACKAGE / engine.replace(".", "/")).glob("*.py")}
        assert {"api", "engine"} <= files, engine
    for engine in ENGINES[:2]:
        files = {file.stem for file in (PACKAGE / engine.replace(".", "/")).glob("*.py")}
        assert {"certificate", "completion", "cost", "loading", "runner"} <= files, engine


def test_type_hints_of_the_face_can_be_resolved() -> None:
    for public in ("DraftTree", "Outcome", "Stats", "create_drafter"):
        assert typing.get_type_hints(getattr(aded, public))


PAGE = ROOT / "docs" / "architecture.md"


def picture() -> str:
    """The arrows as Mermaid draws them; those that follow from others are left out."""
    found = arrows()

    def leads(start: str, end: str) -> bool:
        return (start, end) in found or any(a == start and leads(b, end) for a, b in found if b != end)

    kept = [(a, b) for a, b in found if not any(c not in (a, b) and (a, c) in found and leads(c, b) for c in ROOMS)]
    order = sorted(kept, key=lambda arrow: (-ROOMS.index(arrow[0]), -ROOMS.index(arrow[1])))
    return "\n".join(["graph TD", *(f"    {a} --> {b}" for a, b in order)])


def test_the_picture_on_the_page_is_drawn_from_the_code() -> None:
    (drawn,) = re.findall(r"```mermaid\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert drawn == picture(), f"draw it anew:\n{picture()}"


@pytest.mark.parametrize("number", range(3))
def test_each_way_to_add_something_runs_as_the_page_shows_it(number: int) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 3
    (added,) = re.findall(r"^(?:@.*\n)?class \w+.*\n(?:(?:    .*)?\n)+", examples[number], re.MULTILINE)
    assert len([line for line in added.splitlines() if line.strip()]) <= 10
    exec(examples[number], {})


def test_the_links_of_the_walk_lead_to_what_they_name() -> None:
    for label, link in re.findall(r"\[`([\w.]+)`\]\(\.\./src/aded/([\w/]+\.py)\)", PAGE.read_text()):
        assert label.split(".")[-1] in (PACKAGE / link).read_text(), (label, link)
