"""As in a container: a package, a home and a folder of work that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aded
from aded.kernels.jit import kernel_folder
from support.gguf_files import write_tiny_gguf

pytest.importorskip("gguf", reason="the extra cli brings it")

# Everything is read-only but `cache`, which is somewhere else's.
_ENTER = """
set -e
mount --make-rprivate / 2>/dev/null || true
mount -t tmpfs none "$PLACE/cache"
mount -t tmpfs none "$PLACE/tmp"  # as containers have one; torch does not start without
test -z "$KERNELS" || mount --bind "$KERNELS" "$PLACE/kernels"  # compiling all of them takes a minute
for folder in / "$HOME" "$PACKAGE" "$PLACE"; do
    test "$folder" = / || mount --rbind "$folder" "$folder"
    mount -o remount,bind,ro "$folder"
done
cd "$PLACE"
if touch "$PACKAGE/x" "$PLACE/x" "$HOME/x" 2>/dev/null; then exit 99; fi
exec "$@"
"""

_DRAFTS = """
from aded import create_drafter
print(create_drafter("adaptive").start([1, 2, 3, 1, 2]).draft(4).tokens.tolist())
"""


def run(place: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    unwanted = ("ADED_CACHE", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    given = {name: value for name, value in os.environ.items() if name not in unwanted}
    places = {"PLACE": str(place), "HOME": str(Path.home()), "PACKAGE": str(Path(aded.__file__).parents[1])}
    places["KERNELS"] = str(kernels.parent) if (kernels := kernel_folder()) is not None else ""
    places["TMPDIR"] = str(place / "tmp")
    given |= places | {"PYTHONPATH": places["PACKAGE"]} | environment
    whole = ["unshare", "--mount", "sh", "-c", _ENTER, "enter", *command]
    return subprocess.run(whole, env=given, capture_output=True, text=True, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    for folder in ("cache", "kernels", "tmp"):
        (tmp_path / folder).mkdir()
    if shutil.which("unshare") is None or run(tmp_path, "true").returncode:
        pytest.skip("this system lets nobody look at read-only folders")
    return tmp_path


def test_it_drafts_where_nothing_can_be_kept(place: Path) -> None:
    done = run(place, sys.executable, "-c", _DRAFTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("[3")
    assert not done.stderr


def test_a_command_says_where_to_keep_what_it_makes_and_then_keeps_it(place: Path) -> None:
    command = (sys.executable, "-m", "aded.cli", "generate", "the other", "--model", "tiny.gguf", "--json")
    command += ("--dtype", "float32", "--max-new-tokens", "4", "--max-draft-tokens", "2")
    kept = {"ADED_CACHE": str(place / "cache"), "NUMBA_CACHE_DIR": str(place / "kernels")}
    done = run(place, *command)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("aded: cannot keep the converted model: ")
    assert "set ADED_CACHE to a folder that can be written" in done.stderr
    done = run(place, *command, **kept)
    assert done.returncode == 0, done.stderr
    assert '"steps"' in done.stdout
    done = run(place, *command, "--state", "state", **kept)
    assert done.returncode == 2
    assert "cannot write the state file" in done.stderr
