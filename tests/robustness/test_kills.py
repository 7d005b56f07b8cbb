"""A hundred kills of commands, and other ways in which they end; `make robustness` kills many more."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aded.drafters.adaptive import AdaptiveDrafter
from aded.representative.storage import CORPUS
from robustness.kills import KINDS, SHARES, Scene

pytest.importorskip("gguf", reason="the extra cli brings it")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_killed_at_any_moment(scene: Scene, kind: str) -> None:
    found = KINDS[kind](scene, SHARES[kind], random.Random(0))
    assert found["killed"] == SHARES[kind]


def chat(scene: Scene, state: str) -> tuple[object, ...]:
    limits = ("--max-new-tokens", 8, "--max-draft-tokens", 8, "--dtype", "float32")
    return ("chat", *scene.model, *limits, "--state", state)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_keep_what_was_learned(scene: Scene, number: int, code: int) -> None:
    ended = scene.run(*chat(scene, f"state{code}"), said="the other nose\nan inn\n", send=number)
    assert ended.code == code, ended.err
    assert ended.err.splitlines() == (["aded: stopped"] if code == 130 else [])
    (kept := AdaptiveDrafter()).load(scene.folder / f"state{code}")
    assert kept.clock > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_answer_that_is_stopped_was_learned_from_as_far_as_it_went(scene: Scene, number: int, code: int) -> None:
    words = ("generate", "the other nose", *scene.model, "--max-new-tokens", 450, "--max-draft-tokens", 1)
    words = (*words, "--dtype", "float32", "--state", "far")
    whole = min((scene.run(*words) for _ in range(2)), key=lambda ended: ended.seconds)
    assert whole.code == 0
    part = 0.6
    for _ in range(12):  # how long a command takes depends on what else runs
        (scene.folder / "far").unlink(missing_ok=True)
        ended = scene.run(*words, send=number, after=part * whole.seconds)
        assert ended.code in (0, code)
        if not ended.code:  # it had its answer
            part *= 0.9
            continue
        assert "Traceback" not in ended.err
        if (scene.folder / "far").exists():
            (kept := AdaptiveDrafter()).load(scene.folder / "far")
            assert kept.clock > 0
            return
        part *= 1.1  # it was still loading
    pytest.fail("it was never stopped while it decoded")


def test_ctrl_c_while_something_starts_is_one_line(scene: Scene) -> None:
    codes = []
    for after in (0.05, 0.1, 0.2, 0.3):
        ended = scene.run("calibrate", *scene.model, send=signal.SIGINT, after=after)
        codes.append(ended.code)
        if ended.code:  # Python itself loses one that comes while it clears up an object
            assert (ended.code, ended.err.splitlines()[-1:]) == (130, ["aded: stopped"])
            assert "Traceback" not in ended.err
    assert 130 in codes


def test_ctrl_c_while_a_corpus_is_built_ends_all_processes_in_one_line(scene: Scene) -> None:
    words = ("corpus", "build", *scene.building, "--out", "stopped.corpus")
    whole = scene.run(*words)
    assert whole.code == 0
    (scene.folder / "stopped.corpus").unlink()
    codes = []
    for part in (0.3, 0.5, 0.7):
        ended = scene.run(*words, send=signal.SIGINT, after=part * whole.seconds)
        codes.append(ended.code)
        if ended.code:  # Python itself loses one that comes while it clears up an object
            assert (ended.code, ended.err.splitlines()[-1]) == (130, "aded: stopped")
            assert "Traceback" not in ended.err, ended.err
    assert 130 in codes
    again = scene.run(*words)
    assert again.code == 0
    assert not [name for name in scene.left("stopped.corpus") if "stopped" in name]


@pytest.mark.parametrize(
    ("words", "said", "says"),
    [
        (["generate", ""], "", "the prompt is empty"),
        (["generate", "-"], "  \n", "the prompt is empty"),
        (["generate", "hi", "--max-draft-tokens", "²"], "", "whole number"),
        (["generate", "hi", "--nodes", "9" * 30], "", "whole number"),
        (["generate", "hi", "--max-new-tokens", "9" * 30], "", "--max-new-tokens"),
        (["generate", "hi", "--temperature", "nan"], "", "--temperature"),
        (["generate", "hi", "--temperature", "1e-300"], "", "--temperature"),
        (["generate", "hi", "--top-p", "nan"], "", "--top-p"),
        (["generate", "hi", "--seed", "9" * 30], "", "--seed"),
        (["generate", "hi", "--threads", "9" * 9], "", "--threads"),
        (["generate", "hi", "--state", "texts"], "", "cannot write the state file"),
        (["generate", "hi", "--state", "prompts.txt/below"], "", "cannot write the state file"),
        (["generate", "hi", "--state", "prompts.txt"], "", "is not an ADED state file; choose another file"),
        (["generate", "hi", "--state", "one.corpus"], "", "is not an ADED state file; choose another file"),
        (["generate", "hi", "--share", "some"], "", "share must be one of"),
        (["generate", "hi", "--share", "all", "--drafter", "paper"], "", "cannot be told what to share"),
        (["generate", "hi", "--model", "texts"], "", "neither a model folder"),
        (["generate", "hi", "--model", "bad.gguf"], "", "as a GGUF language model"),
        (["corpus", "build", "--text", "texts", "--memory-mb", "nan", "--out", "x"], "", "--memory-mb"),
        (["corpus", "build", "--text", "texts", "--memory-mb", "1", "--out", "texts"], "", "cannot write the corpus"),
        (["corpus", "merge", "one.corpus", "prompts.txt", "--out", "x"], "", "is not an ADED corpus"),
        (["corpus", "info", "bad.corpus"], "", "is damaged"),
        (["trace", "record", "--prompts", "bad.jsonl", "--out", "x"], "", "line 1 of bad.jsonl is not JSON"),
        (["trace", "replay", "one.corpus"], "", "is not an ADED trace"),
        (
            ["trace", "record", "--prompts", "prompts.txt", "--out", "stale.trace"],
            "",
            "delete the folder stale.trace.parts",
        ),
    ],
)
def test_bad_input_is_one_clear_error(scene: Scene, words: list[str], said: str, says: str) -> None:
    (scene.folder / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    (scene.folder / "bad.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"prompt":' * 100_000)
    (scene.folder / "bad.corpus").write_bytes((scene.folder / "one.corpus").read_bytes()[:5000])
    (scene.folder / "stale.trace.parts").mkdir(exist_ok=True)
    (scene.folder / "stale.trace.parts" / "settings.json").write_text("")
    if words[0] == "generate" or words[:2] == ["corpus", "build"] or words[1] == "record":
        words = [*words, *([] if "--model" in words else ["--model", "tiny.gguf"])]
    ended = scene.run(*words, said=said)
    shown = " ".join(ended.err.replace("│", " ").split())
    assert ended.code == 2, ended
    assert says in shown, shown
    assert "Traceback" not in ended.err
    assert "delete it" not in ended.err or "corpus" in words[0]
    assert not ended.out


def test_text_that_is_no_utf_8(scene: Scene) -> None:
    for name, data in (("argument", "a\udcff"), ("input", "")):
        words = ("generate", data or "-", *scene.model)
        ended = scene.nursery.run(*words, said="\udcff")
        assert ended.code == 2, (name, ended)
        assert "not valid UTF-8" in ended.err, name
    ended = scene.run(*chat(scene, "none"), said="the\nother \udcff\n")
    assert ended.code == 2
    assert "not valid UTF-8" in ended.err


def test_an_unfinished_corpus_of_another_model_is_refused(scene: Scene) -> None:
    arrays, header = CORPUS.read(scene.folder / "one.corpus")
    sources = {"text": [f"texts/{n}.txt" for n in range(3)], "dataset": None, "memory_mb": 1.0}
    CORPUS.write(
        scene.folder / "m.corpus.partial", arrays, header | {"fingerprint": "other", "sources": sources, "blocks": 1}
    )
    ended = scene.run("corpus", "build", *scene.building, "--out", "m.corpus")
    assert ended.code == 2
    assert "unfinished corpus of another model" in ended.err
    assert (scene.folder / "m.corpus.partial").exists()


def test_a_closed_pipe_ends_a_command_quietly(scene: Scene) -> None:
    ended = scene.run("corpus", "info", "one.corpus", "--json")
    assert json.loads(ended.out)["model"] == "tiny.gguf"
    ended = scene.nursery.run("corpus", "info", "one.corpus", closed=True)
    assert ended.code == 1
    assert not ended.err


def test_state_keeps_its_permissions(scene: Scene) -> None:
    assert scene.run(*chat(scene, "shared"), said="the other\n").code == 0
    os.chmod(scene.folder / "shared", 0o664)
    assert scene.run(*chat(scene, "shared"), said="the other\n").code == 0
    assert stat.S_IMODE((scene.folder / "shared").stat().st_mode) == 0o664


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_while_an_object_is_cleared_up_is_not_lost(number: int, code: int) -> None:
    script = f"""
import signal, time, weakref
import aded.cli, aded.cli.commands

class Thing: pass

def command():
    thing = Thing()
    watched = weakref.ref(thing, lambda _: signal.raise_signal({number}))
    del thing
    print("and on it goes", flush=True)
    time.sleep(30)

aded.cli.commands.app = command
aded.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=25)
    assert done.returncode == code, done.stderr
    assert "and on it goes" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
