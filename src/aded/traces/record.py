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
from aded.files import digest, locked, replace
from aded.traces.prompts import Prompt
from aded.traces.trace import TRACE, Trace, TracedSequence


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
        BusyError: another process records to `out`.
    """
    out = Path(out)
    if out.is_dir() or not out.suffix:
        out = out / "trace.safetensors"
    TRACE.check_writable(out)
    with locked(out, "recording to"):
        settings = {"max_new_tokens": max_new_tokens, "top_k": top_k, "temperature": temperature}
        return _record(loaded, prompts, out, settings, batch_size, seed, progress)


def _record(
    loaded: LoadedModel,
    prompts: list[Prompt],
    out: Path,
    decoding: dict[str, Any],
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Trace:
    about = {**_about(loaded), "dtype": loaded.facts()["dtype"], **decoding, "seed": seed}
    texts = digest(json.dumps([(prompt.name, prompt.turns) for prompt in prompts]).encode())
    settings = {**about, "batch_size": batch_size, "prompts": texts}
    parts = _open_parts(out, settings)
    of = {**about, "recording": digest(json.dumps(settings).encode())}
    total = sum(len(prompt.turns) for prompt in prompts)
    answers: dict[tuple[int, int], TracedSequence] = {}
    for turn in range(max(len(prompt.turns) for prompt in prompts)):
        work = {
            index: _conversation(loaded, prompt, [answers[index, t] for t in range(turn)])
            for index, prompt in enumerate(prompts)
            if turn < len(prompt.turns)
        }
        order = sorted(work, key=lambda index: len(work[index]))  # alike lengths share a batch: little padding
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            part = parts / f"{turn}-{start}.safetensors"
            made = _kept(part, of)
            if made is None:
                found = loaded.recorded([work[i] for i in chosen], seed=seed + 7919 * turn + start, **decoding)
                made = [
                    _traced(prompts[i], turn, work[i], answer.tokens, answer.top_ids, answer.top_probs)
                    for i, answer in zip(chosen, found, strict=True)
                ]
                Trace(made, of).save(part)
            answers.update({(index, turn): sequence for index, sequence in zip(chosen, made, strict=True)})
            progress(len(answers), total)
    trace = Trace([answers[key] for key in sorted(answers)], about)
    trace.save(out)
    (parts / _NOTE).unlink(missing_ok=True)  # first: what is left of a clean-up that was stopped is nobody's recording
    shutil.rmtree(parts, ignore_errors=True)
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
        sequences.append(_traced(prompt, 0, _conversation(loaded, prompt, []), loaded.encode(prompt.output)))
    trace = Trace(sequences, _about(loaded))
    trace.save(out)
    return trace


def _about(loaded: LoadedModel) -> dict[str, Any]:
    return {"model": loaded.name, "vocab_size": loaded.vocab_size, "fingerprint": loaded.fingerprint}


def _traced(prompt: Prompt, turn: int, ids: list[int], output: Any, *tops: Any) -> TracedSequence:
    tokens = np.asarray(ids, np.int32), np.asarray(output, np.int32)
    return TracedSequence(prompt.turn_name(turn), prompt.category, *tokens, *tops)


_NOTE = "settings.json"


def _open_parts(out: Path, settings: dict[str, Any]) -> Path:
    """The folder of finished batches; one of other settings is refused rather than mixed in."""
    parts = out.with_name(out.name + ".parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        try:
            same = json.loads((parts / _NOTE).read_text()) == settings
        except FileNotFoundError:
            replace(parts / _NOTE, json.dumps(settings).encode())
            same = True
    except (ValueError, RecursionError) as error:
        raise TraceFileError(f"{parts / _NOTE} is damaged; delete the folder {parts} to record anew") from error
    except OSError as error:
        raise TraceFileError(f"cannot write to {parts}: {error.strerror}; choose another place") from error
    if not same:
        raise TraceFileError(
            f"{parts} holds an unfinished recording with other settings; finish it with those, or delete it"
        )
    return parts


def _kept(part: Path, of: dict[str, Any]) -> list[TracedSequence] | None:
    """A batch of this very recording that was finished before; None if it is to be decoded."""
    try:
        trace = Trace.load(part)
    except TraceFileError:
        return None
    return trace.sequences if trace.about == of else None


def _conversation(loaded: LoadedModel, prompt: Prompt, answers: list[TracedSequence]) -> list[int]:
    """The tokens of the turn after these answers, with all that was said before it."""
    messages = [{"role": "user", "content": prompt.turns[0]}]
    for answer, turn in zip(answers, prompt.turns[1:], strict=False):
        messages.append({"role": "assistant", "content": loaded.decode(answer.output.tolist())})
        messages.append({"role": "user", "content": turn})
    return loaded.prompt_tokens(messages)
