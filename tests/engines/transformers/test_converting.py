"""A GGUF file at first use: converted once, by whoever comes first, and never taken for another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from aded.engines.transformers import converting
from aded.engines.transformers.loading import load
from aded.errors import ModelLoadError
from aded.files import locked
from aded.kernels.jit import kernel_folder

pytest.importorskip("gguf", reason="the extra cli brings it")

from support.gguf_files import write_tiny_gguf


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if (kernels := kernel_folder()) is not None:  # processes need not compile anew
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels.parent))
    monkeypatch.setenv("ADED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def total(model: object) -> float:
    return sum(p.double().sum().item() for p in load(str(model), dtype="float32").model.parameters())


def test_another_file_of_the_same_name_size_and_time_is_another_model(cache: Path, tmp_path: Path) -> None:
    files = [tmp_path / name / "m.gguf" for name in ("a", "b")]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        write_tiny_gguf(file, seed=seed)
        os.utime(file, (1e9, 1e9))
    assert files[0].stat().st_size == files[1].stat().st_size
    sums = [total(file) for file in files]
    assert sums[0] != sums[1]
    shutil.copy(files[0], tmp_path / "a" / "m2.gguf")
    assert [total(file) for file in files] == sums
    assert len(list(cache.iterdir())) == 2
    write_tiny_gguf(files[0], seed=1)  # written over in place
    os.utime(files[0], (1e9, 1e9))
    assert total(files[0]) == sums[1]


@pytest.mark.parametrize("what", ["cut", "emptied", "a file is gone"])
def test_a_conversion_that_is_not_whole_is_made_again(cache: Path, tmp_path: Path, what: str) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    whole = total(tmp_path / "m.gguf")
    (folder,) = cache.iterdir()
    weights = folder / "model.safetensors"
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "emptied":
        weights.write_bytes(b"")
    else:
        (folder / "config.json").unlink()
    assert total(tmp_path / "m.gguf") == whole
    assert [entry.name for entry in cache.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_garbage_of_the_same_length_names_the_folder_to_delete(cache: Path, tmp_path: Path, name: str) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    load(str(tmp_path / "m.gguf"))
    (folder,) = cache.iterdir()
    (folder / name).write_bytes(b"\xff" * (folder / name).stat().st_size)
    with pytest.raises(ModelLoadError, match=f"{folder} is damaged .* delete that folder"):
        load(str(tmp_path / "m.gguf"))


def test_what_killed_conversions_left_is_removed_and_a_living_ones_is_not(cache: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    names = {"gone": f"other-{'0' * 32}", "living": f"third-{'1' * 32}"}
    for name in names.values():
        (cache / f".converting-{name}").mkdir(parents=True)
    for name, age in (("abcd1234", 0.0), ("efgh5678", 2 * 24 * 3600.0)):  # of releases before this one
        (cache / f".converting-{name}").mkdir()
        os.utime(cache / f".converting-{name}", (time.time() - age,) * 2)
    with locked(cache / names["living"], "converting"):
        load(str(tmp_path / "m.gguf"))
    left = sorted(entry.name for entry in cache.iterdir() if entry.name.startswith("."))
    assert left == [".converting-abcd1234", f".converting-{names['living']}"]


def test_a_cache_that_cannot_be_written_says_so_and_does_not_blame_the_file(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADED_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelLoadError, match=r"cannot keep the converted model: .*set ADED_CACHE to a folder"):
        load(str(tmp_path / "m.gguf"))
    for name in ("ADED_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    with pytest.raises(ModelLoadError, match=r"no home.*set ADED_CACHE to a folder"):
        load(str(tmp_path / "m.gguf"))


def test_a_full_disk_leaves_nothing_and_says_so(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")

    def full(*arguments: object, **options: object) -> None:
        raise converting.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(ModelLoadError, match=r"cannot keep the converted model: .*No space left.*make room"):
        load(str(tmp_path / "m.gguf"))
    assert not list(cache.iterdir())


_TWO = """
import sys, time
from pathlib import Path
from aded import AdedError
from aded.engines.transformers.loading import load
from aded.traces.prompts import Prompt
from aded.traces.record import record
folder, number = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready{number}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.001)
loaded = load(str(folder / "m.gguf"), dtype="float32")
print(sum(p.double().sum().item() for p in loaded.model.parameters()), flush=True)
(folder / f"set{number}").touch()
while len(list(folder.glob("set*"))) < 2:
    time.sleep(0.001)
prompts = [Prompt(str(n), "all", ("the other",)) for n in range(12)]
try:
    record(loaded, prompts, folder / "out.trace", max_new_tokens=64, batch_size=1)
    print("recorded")
except AdedError as error:
    print(error)
"""


def test_two_processes_at_once_convert_one_model_and_do_not_mix_recordings(cache: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    command = [sys.executable, "-c", _TWO, str(tmp_path)]
    both = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(2)]
    said = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0]
    assert len(list(cache.iterdir())) == 1
    refused = [line for _, line in said if line != "recorded"]
    assert len(refused) == 1
    assert "another process is recording to" in refused[0]
    assert sorted(entry.name for entry in tmp_path.glob("*out.trace*")) == ["out.trace"]


def test_a_converted_model_says_what_the_file_says(cache: Path, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    loaded = load(str(tmp_path / "m.gguf"), dtype="float32")
    from gguf import GGUFReader

    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    state = loaded.model.state_dict()
    assert torch.equal(state["lm_head.weight"], torch.tensor(tensors["output.weight"]))
    assert torch.equal(state["model.layers.0.mlp.up_proj.weight"], torch.tensor(tensors["blk.0.ffn_up.weight"]))
