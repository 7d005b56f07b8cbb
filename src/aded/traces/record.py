"""Recording a trace: plain decoding in batches, keeping the likeliest tokens at every position."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aded.engines.base.loaded import LoadedModel
from aded.errors import PromptFileError, TraceFileError
from aded.files import digest
from aded.traces.prompts import Prompt
from aded.traces.trace import Trace, TracedSequence

__all__ = ["from_texts", "record"]


def record(
    loaded: LoadedModel,
    prompts: list[Prompt],
    out: str | Path,
    *,
    max_new_tokens: int = 256,
    top_k: int = 8,
    batch_size: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trace:
    """Answer every turn of every prompt and write the trace to `out` (a file, or a folder for `trace.safetensors`).

    Finished batches are kept beside the file, so that a recording that was stopped goes on where it was; each batch is
    seeded by itself. `progress` is told answers done and answers in all.

    Raises:
        TraceFileError: `out` cannot be written, or holds the unfinished recording of something else.
    """
    out = Path(out)
    if out.is_dir() or not out.suffix:
        out = out / "trace.safetensors"
    about = {
        "model": loaded.name,
        "dtype": loaded.facts()["dtype"],
        "vocab_size": loaded.vocab_size,
        "fingerprint": loaded.fingerprint,
        "max_new_tokens": max_new_tokens,
        "top_k": top_k,
        "temperature": temperature,
        "seed": seed,
    }
    parts = _open_parts(out, {**about, "batch_size": batch_size, "prompts": _name(prompts)})
    total, done = sum(len(prompt.turns) for prompt in prompts), 0
    answers: dict[tuple[int, int], TracedSequence] = {}
    for turn in range(max(len(prompt.turns) for prompt in prompts)):
        work = {}
        for index, prompt in enumerate(prompts):
            if turn < len(prompt.turns):
                work[index] = _conversation(loaded, prompt, [answers[index, t] for t in range(turn)])
        order = sorted(work, key=lambda index: len(work[index]))  # alike lengths share a batch: little padding
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            part = parts / f"{turn}-{start}.safetensors"
            if part.is_file():
                made = Trace.load(part).sequences
            else:
                found = loaded.recorded(
                    [work[i] for i in chosen],
                    max_new_tokens=max_new_tokens,
                    top_k=top_k,
                    temperature=temperature,
                    seed=seed + 7919 * turn + start,
                )
                made = [
                    TracedSequence(
                        _label(prompts[i], turn),
                        prompts[i].category,
                        np.asarray(work[i], np.int32),
                        answer.tokens,
                        answer.top_ids,
                        answer.top_probs,
                    )
                    for i, answer in zip(chosen, found, strict=True)
                ]
                Trace(made, about).save(part)
            answers.update({(index, turn): sequence for index, sequence in zip(chosen, made, strict=True)})
            progress(done := done + len(chosen), total)
    trace = Trace([answers[key] for key in sorted(answers)], about)
    trace.save(out)
    shutil.rmtree(parts)
    return trace


def from_texts(loaded: LoadedModel, prompts: list[Prompt], out: str | Path) -> Trace:
    """A text-only trace of existing (prompt, output) pairs, tokenised as `loaded` would.

    Raises:
        PromptFileError: a prompt without an output.
    """
    sequences = []
    for prompt in prompts:
        if prompt.output is None or len(prompt.turns) != 1:
            raise PromptFileError(f'the prompt {prompt.name} has no "output"; each line needs "prompt" and "output"')
        ids = loaded.prompt_tokens([{"role": "user", "content": prompt.turns[0]}])
        output = loaded.encode(prompt.output)
        sequences.append(
            TracedSequence(prompt.name, prompt.category, np.asarray(ids, np.int32), np.asarray(output, np.int32))
        )
    about = {
        "model": loaded.name,
        "vocab_size": loaded.vocab_size,
        "fingerprint": loaded.fingerprint,
    }
    trace = Trace(sequences, about)
    trace.save(out)
    return trace


def _label(prompt: Prompt, turn: int) -> str:
    return prompt.name if turn == 0 else f"{prompt.name}.{turn + 1}"


def _name(prompts: list[Prompt]) -> str:
    return digest(json.dumps([(p.name, p.turns) for p in prompts]).encode())


def _open_parts(out: Path, settings: dict[str, Any]) -> Path:
    """The folder of finished batches; one of other settings is refused rather than mixed in."""
    parts = out.with_name(out.name + ".parts")
    note = parts / "settings.json"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if not note.is_file():
            note.write_text(json.dumps(settings))
        elif json.loads(note.read_text()) != settings:
            raise TraceFileError(
                f"{parts} holds an unfinished recording with other settings; finish it with those, or delete it"
            )
    except OSError as error:
        raise TraceFileError(f"cannot write to {parts}: {error.strerror}; choose another place") from error
    return parts


def _conversation(loaded: LoadedModel, prompt: Prompt, answers: list[TracedSequence]) -> list[int]:
    messages = []
    for turn, answer in zip(prompt.turns, answers, strict=False):
        messages.append({"role": "user", "content": turn})
        text = loaded.decode(answer.output.tolist())
        messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": prompt.turns[len(answers)]})
    return loaded.prompt_tokens(messages)
