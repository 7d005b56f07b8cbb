"""Files are written whole or not at all, keep what they are, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aded.errors import BusyError, StateFileError
from aded.files import FileKind, locked, replace
from aded.representative import Representative
from aded.representative.storage import STATE


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_keeps_its_permissions_and_a_link_is_followed(tmp_path: Path) -> None:
    file, link = tmp_path / "far" / "file", tmp_path / "link"
    file.parent.mkdir()
    file.write_bytes(b"old")
    file.chmod(0o640)
    link.symlink_to(file)
    replace(link, b"n", b"ew")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert mode(file) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "far" / "later")
    replace(dangling, b"x")
    assert dangling.is_symlink()
    assert (tmp_path / "far" / "later").read_bytes() == b"x"
    assert sorted(entry.name for entry in file.parent.iterdir()) == ["file", "later"]


def test_new_files_are_as_the_umask_says_and_learned_state_is_its_owners(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        replace(tmp_path / "open", b"x")
        replace(tmp_path / "own", b"x", private=True)
        Representative(memory_mb=0.1).save(tmp_path / "state")
    finally:
        os.umask(before)
    assert mode(tmp_path / "open") == 0o644
    assert mode(tmp_path / "own") == mode(tmp_path / "state") == 0o600


def test_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    replace(pipe, b"through", b" it")
    assert reader.communicate()[0] == b"through it"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def writer(path: Path) -> subprocess.Popen[bytes]:
    """A process that is in the middle of writing."""
    code = (
        "import sys, time; from pathlib import Path; from aded import files\n"
        "files.os.fsync = lambda handle: (print('there', flush=True), time.sleep(60))\n"
        "files.replace(Path(sys.argv[1]), b'half')\n"
    )
    started = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"there\n"
    return started


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "state"
    (tmp_path / ".state.settings").write_text("somebody's")
    killed, living = writer(path), writer(path)
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 3
    replace(path, b"mine")
    assert len(list(tmp_path.iterdir())) == 3  # the file, the living one's, and somebody's
    living.send_signal(signal.SIGINT)
    living.wait()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".state.settings", "state"]
    assert path.read_bytes() == b"mine"


def test_two_writers_of_one_file_are_kept_apart_and_a_killed_one_gives_way(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from aded.files import locked\n"
        "with locked(Path(sys.argv[1]), 'writing'):\n    print('there', flush=True); time.sleep(60)\n"
    )
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(BusyError, match=r"another process is writing .*out; wait"), locked(out, "writing"):
        pass
    other.kill()
    other.wait()
    with locked(out, "writing"):
        assert [entry.name for entry in tmp_path.iterdir()] == [".out.lock"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["folder", "file/below", "nowhere\0", "/proc/nowhere/state"])
def test_a_place_that_cannot_be_written_is_known_before(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFileError, match="choose another place"):
        STATE.check_writable(tmp_path / place)
    STATE.check_writable(tmp_path / "new" / "deep" / "state")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    code = (
        "import resource, signal, sys; from aded import Representative\n"
        "table = Representative(memory_mb=1); table.learn_text(list(range(3000)))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "table.save(sys.argv[1])\n"
    )
    Representative(memory_mb=0.1).save(path)
    old = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "StateFileError: cannot write the state file" in done.stderr
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_old_left_overs_go_by_age_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aded.files.fcntl", None)
    for name, age in (("00000000", 0.0), ("11111111", 2 * 24 * 3600.0)):
        file = tmp_path / f".state.{name}.aded-tmp"
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    replace(tmp_path / "state", b"x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".state.00000000.aded-tmp", "state"]


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    kind = FileKind("kind", 1, "file", "make it again", StateFileError)
    header = {"a": 1}
    kind.write(tmp_path / "f", {"x": np.zeros(1, np.float32)}, header)
    text = (tmp_path / "f").read_bytes()
    length = int.from_bytes(text[:8], "little")
    deep = text[8 : 8 + length].replace(b'{\\"a\\": 1}', b"[" * 100_000)
    (tmp_path / "f").write_bytes(len(deep).to_bytes(8, "little") + deep + text[8 + length :])
    with pytest.raises(StateFileError, match="damaged"):
        kind.read(tmp_path / "f")
