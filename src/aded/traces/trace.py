"""A trace: what a model said to each prompt, with its likeliest tokens at every position, in one small file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.errors import TraceFileError
from aded.files import FileKind, whole

TRACE = FileKind("aded-trace", 1, "trace", "record it again", TraceFileError)
_MOST_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class TracedSequence:
    """One answer.

    Attributes:
        name: see `Prompt.turn_name`.
        category: what it is reported under.
        prompt: int32, (p,): the token ids given.
        output: int32, (n,): the token ids generated.
        top_ids, top_probs: int32 and float32, (n, k): the model's likeliest ids at each generated position, likeliest
            first, and their probabilities before any temperature; None in a text-only trace.
    """

    name: str
    category: str
    prompt: NDArray[np.int32]
    output: NDArray[np.int32]
    top_ids: NDArray[np.int32] | None = None
    top_probs: NDArray[np.float32] | None = None


@dataclass(eq=False)
class Trace:
    """Recorded answers of one model.

    Attributes:
        sequences: in the order of the prompts.
        about: how it was made: model, vocab_size, fingerprint, and the recording's settings.
    """

    sequences: list[TracedSequence]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Generated tokens in all."""
        return sum(len(sequence.output) for sequence in self.sequences)

    def save(self, path: str | Path) -> None:
        """Write one file; ids take two bytes each where the vocabulary allows, probabilities float16."""
        arrays: dict[str, NDArray[Any]] = {}
        all_ids = [array for s in self.sequences for array in (s.prompt, s.output, s.top_ids) if array is not None]
        ids = np.uint16 if all(array.max(initial=0) < 2**16 for array in all_ids) else np.uint32
        for name in ("prompt", "output"):
            parts = [getattr(s, name) for s in self.sequences]
            arrays[f"{name}s"] = np.concatenate([np.empty(0, np.int32), *parts]).astype(ids)
            arrays[f"{name}_lengths"] = np.array([len(part) for part in parts], np.int64)
        tops = [(s.top_ids, s.top_probs) for s in self.sequences if s.top_ids is not None and s.top_probs is not None]
        if tops and len(tops) != len(self.sequences):
            raise TraceFileError("a trace holds likeliest tokens for all of its sequences or for none")
        if tops:
            arrays["top_ids"] = np.concatenate([i for i, _ in tops]).astype(ids)
            arrays["top_probs"] = np.concatenate([p for _, p in tops]).astype(np.float16)
        labels = {"names": [s.name for s in self.sequences], "categories": [s.category for s in self.sequences]}
        TRACE.write(Path(path), arrays, {"about": self.about, **labels})

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace.

        Raises:
            TraceFileError: the file is missing, damaged, or something else.
        """
        arrays, header = TRACE.read(Path(path))
        try:
            return cls(_sequences(arrays, header), header["about"])
        except (KeyError, ValueError, TypeError) as error:
            raise TRACE.damaged(path, str(error)) from error


def _sequences(arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> list[TracedSequence]:
    """What a file holds.

    Raises:
        KeyError, ValueError: it is no trace.
    """
    about, names, categories = header["about"], header["names"], header["categories"]
    if not isinstance(about, dict) or not all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in (names, categories)
    ):
        raise ValueError("its header")
    size = about.get("vocab_size") or 0
    if not whole(size, 0, _MOST_ID):
        raise ValueError("vocab_size in its header")
    lengths, ids = arrays["output_lengths"], {"prompts", "outputs", "top_ids"} & set(arrays)
    for name in ids:
        if arrays[name].ndim != 1 + (name == "top_ids"):
            raise ValueError(f"the shape of {name}")
        if arrays[name].dtype.kind != "u" or arrays[name].max(initial=0) > (size or _MOST_ID) - 1:
            raise ValueError("tokens outside the vocabulary")
    prompts = _split(arrays["prompts"], arrays["prompt_lengths"])
    outputs = _split(arrays["outputs"], lengths)
    top_ids: Sequence[Any] = [None] * len(outputs)
    top_probs: Sequence[Any] = top_ids
    if "top_ids" in arrays:
        probs = arrays["top_probs"]
        if probs.shape != arrays["top_ids"].shape:
            raise ValueError("the shape of its likeliest tokens")
        if probs.size and not (probs.min() >= 0 and probs.max() <= 1):
            raise ValueError("probabilities that are none")
        top_ids, top_probs = _split(arrays["top_ids"], lengths), _split(probs, lengths, np.float32)
    rows = zip(names, categories, prompts, outputs, top_ids, top_probs, strict=True)
    return [TracedSequence(*row) for row in rows]


def _split(array: NDArray[Any], lengths: NDArray[np.int64], dtype: type = np.int32) -> list[NDArray[Any]]:
    if lengths.dtype != np.int64 or lengths.ndim != 1 or lengths.min(initial=0) < 0:
        raise ValueError("lengths that are none")
    ends = np.cumsum(lengths)
    if lengths.max(initial=0) > len(array) or (int(ends[-1]) if len(ends) else 0) != len(array):
        raise ValueError("lengths do not add up")
    return np.split(array.astype(dtype), ends[:-1]) if len(lengths) else []
