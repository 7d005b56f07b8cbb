"""SGLang's Python without its kernels, which have no processor build: to test what only looks at its interfaces."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

_MISSING = ("sgl_kernel", "torchvision", "torchaudio", "torchcodec", "av", "decord")


class _Nothing(ModuleType):
    """A module of which every name is there, and none does anything."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper() and name != "InterpolationMode":  # something to derive from
            return type(name, (), {"__init__": lambda *_, **__: None, "__class_getitem__": classmethod(lambda c, _: c)})
        return MagicMock()


class _Finder:
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in _MISSING else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def pretend() -> None:
    """Let SGLang be imported here. What transformers makes of the packages that are missing is settled first."""
    from transformers import AutoModel, AutoProcessor, AutoTokenizer, PretrainedConfig  # noqa: F401

    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
