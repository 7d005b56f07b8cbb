"""Recording a trace: plain decoding in batches, keeping the likeliest tokens at every position."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from aded.engines.transformers.linear import fast_linear
from aded.engines.transformers.models import Loaded
from aded.errors import PromptFileError, TraceFileError
from aded.files import digest
from aded.traces.prompts import Prompt
from aded.traces.trace import Trace, TracedSequence

__all__ = ["from_texts", "record"]


class _Watch(LogitsProcessor):
    """Sees each step's raw logits and keeps the k likeliest ids with their probabilities."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.ids: list[torch.Tensor] = []
        self.probs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        raw = scores.float()
        best, ids = raw.topk(min(self._k, raw.shape[-1]), dim=-1)
        self.ids.append(ids.to(torch.int32).cpu())
        self.probs.append((best - raw.logsumexp(-1, keepdim=True)).exp().cpu())
        return scores


def record(
    loaded: Loaded,
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
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "vocab_size": int(loaded.model.config.get_text_config().vocab_size),
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
        order = sorted(work, key=lambda index: work[index].shape[1])  # alike lengths share a batch: little padding
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            part = parts / f"{turn}-{start}.safetensors"
            if part.is_file():
                made = Trace.load(part).sequences
            else:
                torch.manual_seed(seed + 7919 * turn + start)
                labels = [(_label(prompts[i], turn), prompts[i].category) for i in chosen]
                made = _decode(loaded, [work[i] for i in chosen], labels, max_new_tokens, top_k, temperature)
                Trace(made, about).save(part)
            answers.update({(index, turn): sequence for index, sequence in zip(chosen, made, strict=True)})
            progress(done := done + len(chosen), total)
    trace = Trace([answers[key] for key in sorted(answers)], about)
    trace.save(out)
    shutil.rmtree(parts)
    return trace


def from_texts(loaded: Loaded, prompts: list[Prompt], out: str | Path) -> Trace:
    """A text-only trace of existing (prompt, output) pairs, tokenised as `loaded` would.

    Raises:
        PromptFileError: a prompt without an output.
    """
    sequences = []
    for prompt in prompts:
        if prompt.output is None or len(prompt.turns) != 1:
            raise PromptFileError(f'the prompt {prompt.name} has no "output"; each line needs "prompt" and "output"')
        ids = loaded.prompt_ids([{"role": "user", "content": prompt.turns[0]}])[0].numpy()
        output = loaded.tokenizer(prompt.output, add_special_tokens=False)["input_ids"]
        sequences.append(TracedSequence(prompt.name, prompt.category, ids, np.asarray(output, np.int32)))
    about = {
        "model": loaded.name,
        "vocab_size": int(loaded.model.config.get_text_config().vocab_size),
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


def _conversation(loaded: Loaded, prompt: Prompt, answers: list[TracedSequence]) -> torch.Tensor:
    messages = []
    for turn, answer in zip(prompt.turns, answers, strict=False):
        messages.append({"role": "user", "content": turn})
        text = loaded.tokenizer.decode(answer.output.tolist(), skip_special_tokens=True)
        messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": prompt.turns[len(answers)]})
    return loaded.prompt_ids(messages)


@torch.no_grad()
def _decode(
    loaded: Loaded,
    prompts: list[torch.Tensor],
    labels: list[tuple[str, str]],
    max_new_tokens: int,
    top_k: int,
    temperature: float,
) -> list[TracedSequence]:
    model, width = loaded.model, max(ids.shape[1] for ids in prompts)
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    pad = loaded.tokenizer.pad_token_id if loaded.tokenizer.pad_token_id is not None else min(ends, default=0)
    ids = torch.cat([torch.nn.functional.pad(p, (width - p.shape[1], 0), value=pad) for p in prompts])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(p), (width - p.shape[1], 0)) for p in prompts])
    watch = _Watch(top_k)
    choice: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        choice = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    with fast_linear(model):
        output = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([watch]),
            **choice,
        )
    top_ids, top_probs = torch.stack(watch.ids, 1).numpy(), torch.stack(watch.probs, 1).numpy()
    sequences = []
    for row, (name, category) in enumerate(labels):
        emitted = output[row, width:].tolist()
        length = next((i + 1 for i, token in enumerate(emitted) if token in ends), len(emitted))
        sequences.append(
            TracedSequence(
                name,
                category,
                prompts[row][0].to(torch.int32).cpu().numpy(),
                np.asarray(emitted[:length], np.int32),
                top_ids[row, :length],
                top_probs[row, :length],
            )
        )
    return sequences
