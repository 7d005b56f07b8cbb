"""vLLM's Python out of a wheel over the libraries of the vLLM that is installed: `vllm_over.py FOLDER`.

The folder, where the one wheel lies, is then to be put on the path.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(
            folder, [name for name in archive.namelist() if name.startswith("vllm/") and ".so" not in name]
        )
    wheel.unlink()
    installed = find_spec("vllm")
    assert installed is not None
    assert installed.origin is not None
    for library in Path(installed.origin).parent.rglob("*.so"):
        place = folder / "vllm" / library.relative_to(Path(installed.origin).parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(library)
