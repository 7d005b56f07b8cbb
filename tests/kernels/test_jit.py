"""Compiled code is kept where no other sources can ever find it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import aded
from aded.kernels import jit as compiling

PACKAGE = Path(aded.__file__).parent


def copy(folder: Path) -> Path:
    """The package, as another installation of it."""
    shutil.copytree(PACKAGE, folder / "aded", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)


FIND = """
import numpy as np
from aded.representative.interpolation import look_up
table = tuple(np.zeros(8, np.uint64) for _ in range(5))
keys, slots = np.zeros(2, np.uint64), np.zeros((1, 1), np.int64)
look_up((table,), np.array([1]), np.array([7], np.int32), keys, slots)
print(keys[0], slots[0, 0])
"""


def test_a_changed_function_that_another_file_calls_never_runs_stale(tmp_path: Path) -> None:
    """`context_keys` is compiled into `look_up`: a change of it must reach code that was compiled and kept before."""
    cache, folder = {"ADED_CACHE": str(tmp_path / "cache")}, copy(tmp_path / "one")
    before = run(folder, FIND, **cache)
    assert before.returncode == 0, before.stderr
    source = folder / "aded" / "representative" / "lookup.py"
    text = source.read_text()
    old, new = "    h = np.uint64(0x9E3779B97F4A7C15)", "    h = np.uint64(123)"
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))
    after = run(folder, FIND, **cache)
    assert before.stdout == f"{0x9E3779B97F4A7C15} -1\n"
    assert after.stdout == "123 -1\n"
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2


def test_two_releases_side_by_side_share_nothing(tmp_path: Path) -> None:
    cache = {"ADED_CACHE": str(tmp_path / "cache")}
    one, other = copy(tmp_path / "one"), copy(tmp_path / "other")
    lookup = other / "aded" / "representative" / "lookup.py"
    lookup.write_text(lookup.read_text() + "\n# another release\n")
    code = "from aded.kernels.jit import kernel_folder; print(kernel_folder())"
    assert len({run(folder, code, **cache).stdout for folder in (one, other)}) == 2


def test_it_works_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As in a container. Files stand in the way of folders, so that even root cannot write."""
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    home = {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked / "cache"), "ADED_CACHE": "", "NUMBA_CACHE_DIR": ""}
    code = f"import aded, numba; numba.config.CACHE_DIR = ''; aded.create_drafter('adaptive', memory_mb=1)\n{FIND}"
    shown = run(copy(tmp_path / "read-only"), code, **home)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{0x9E3779B97F4A7C15} -1\n"
    assert not list((tmp_path / "read-only").rglob("*.nbi")), "nor is anything written into the package"


def test_the_settings_of_numba_are_left_as_they_were() -> None:
    import numba

    before = numba.config.CACHE_DIR
    compiling.jit(lambda x: x + 1)
    assert before == numba.config.CACHE_DIR


def test_all_compiled_code_lies_where_its_changes_are_noticed() -> None:
    for file in PACKAGE.rglob("*.py"):
        text, part = file.read_text(), file.relative_to(PACKAGE).as_posix()
        if "kernels.jit" in text or "import njit" in text or "numba.njit" in text:
            assert part.startswith(tuple(f"{folder}/" for folder in compiling.COMPILED)), part
        assert "numba.njit" not in text or part == "kernels/jit.py", part
