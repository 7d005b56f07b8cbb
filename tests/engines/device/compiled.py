"""Compiles each kernel for a GPU, which need not be there, with what a step hands to it; prints what each takes.

`compiled.py CAPABILITY`: that of the GPU, such as 90.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from aded.drafters.adaptive import AdaptiveDrafter
from aded.engines.base.asked import Asked
from aded.engines.device import drafting, learning
from aded.engines.device.drafter import DeviceDrafter

_TYPES = {torch.int32: "*i32", torch.int64: "*i64", torch.float32: "*fp32"}


class Compiling:
    """In place of a kernel: it is compiled where it was to run."""

    def __init__(self, kernel: Any, target: GPUTarget, done: dict[str, Any]) -> None:
        self._kernel, self._target, self._done = kernel, target, done

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*positional: Any, **named: Any) -> None:
            names = self._kernel.arg_names
            given = dict(zip(names, positional, strict=False)) | named
            fixed = {name for name, one in zip(names, self._kernel.params, strict=True) if one.is_constexpr}
            types = {name: "constexpr" if name in fixed else _type(given[name]) for name in names}
            source = ASTSource(self._kernel, types, {name: given[name] for name in fixed})
            made = compile(source, target=self._target)
            self._done[self._kernel.__name__] = {"shared": made.metadata.shared, "bytes": len(made.asm["cubin"])}

        return launch


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


if __name__ == "__main__":
    done: dict[str, Any] = {}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    for module, names in ((learning, ("observe", "judge", "learn", "calibrate")), (drafting, ("draft",))):
        for name in names:
            setattr(module, name, Compiling(getattr(module, name), target, done))
    made = AdaptiveDrafter(memory_mb=64, successors=8, sequence_mb=0.5, sequence_successors=4)
    device = DeviceDrafter(
        made, requests=8, max_length=4096, vocabulary=50_000, longest=8, most=8, min_probability=0.05,
        device=torch.device("cpu"),
    )  # fmt: skip
    tokens, rows = torch.zeros((8, 4096), dtype=torch.int32), torch.arange(8)
    device.start(0, tokens, 100, Asked())
    device.step(rows, rows, rows, rows, tokens)
    print("COMPILED " + json.dumps(done))
