"""V2's side of a speculator, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aded.budget import CalibratedBudget
from aded.engines.vllm import served

ROWS, LENGTH, LONGEST = 6, 200, 4


class Runner:
    """V2's side of a speculator: slots of tokens, to which `texts` are appended as far as drafts agree with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        speculator = pytest.importorskip("aded.engines.vllm.speculator", reason="vLLM is not installed: make vllm-test")
        monkeypatch.setattr(served, "_first_rank", lambda: True)
        monkeypatch.setattr(served, "_fingerprint", lambda model: "tokenizer")
        monkeypatch.setattr(speculator, "get_tp_group", lambda: SimpleNamespace(world_size=1))
        monkeypatch.setattr(speculator, "draw_by_position", lambda: None)
        self.tokens = torch.zeros((ROWS, LENGTH), dtype=torch.int32)
        self.lengths = torch.zeros(ROWS, dtype=torch.int32)
        self.prompts = SimpleNamespace(np=np.zeros(ROWS, np.int32))
        self.running: dict[str, tuple[int, list[int]]] = {}  # slot and text
        states = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=self.tokens),
            total_len=SimpleNamespace(gpu=self.lengths),
            prefill_len=self.prompts,
            req_id_to_index=self.running,
        )
        config = SimpleNamespace(
            speculative_config=SimpleNamespace(num_speculative_tokens=LONGEST, enable_adaptive_verification=True),
            parallel_config=SimpleNamespace(data_parallel_rank=0),
            scheduler_config=SimpleNamespace(max_num_seqs=ROWS),
            model_config=SimpleNamespace(max_model_len=LENGTH, get_vocab_size=lambda: 1000),
            additional_config={"aded": {"memory_mb": 1, "sequence_mb": 0.2, **settings}},
        )
        self.speculator = speculator.AdedSpeculator(config, torch.device("cpu"), states)
        self.drafts: dict[str, list[int]] = {}

    @property
    def budget(self) -> CalibratedBudget:
        budget: CalibratedBudget = self.speculator._served.step._speculator.budget
        return budget

    def add(self, name: str, slot: int, text: list[int], prompt: int, **extra: str) -> None:
        sampling = SimpleNamespace(extra_args=extra or None)
        request = SimpleNamespace(req_id=name, lora_request=None, sampling_params=sampling)
        self.speculator.added([request])
        self.tokens[slot, :prompt] = torch.tensor(text[:prompt])
        self.lengths[slot] = self.prompts.np[slot] = prompt
        self.running[name], self.drafts[name] = (slot, text), []

    def step(self, *, verified: int = LONGEST, waiting: tuple[str, ...] = ()) -> dict[str, int]:
        """One step that verifies at most so many tokens of each draft; how many each request emitted."""
        names, sampled, rejected = list(self.running), [], []
        for name in names:
            slot, text = self.running[name]
            at, draft = int(self.lengths[slot]), self.drafts[name][:verified]
            kept = next((i for i, token in enumerate(draft) if token != text[at + i]), len(draft))
            n = 0 if name in waiting else kept + 1
            self.tokens[slot, at : at + n] = torch.tensor(text[at : at + n])
            self.lengths[slot] += n
            sampled.append(n)
            rejected.append(len(draft) - kept if n else 0)
        slots = np.array([self.running[name][0] for name in names])
        batch = SimpleNamespace(
            num_reqs=len(names), req_ids=names, idx_mapping_np=slots, idx_mapping=torch.from_numpy(slots)
        )
        last = self.tokens.gather(1, (self.lengths.long() - 1).clamp(min=0)[:, None]).long()
        counts = (torch.tensor(x, dtype=torch.int32) for x in (sampled, rejected))
        nothing: tuple[Any, ...] = (None,) * 4
        drafts = self.speculator.propose(batch, *nothing, *counts, last, None, None, None)
        assert drafts.shape == (len(names), LONGEST)
        self.likely = self.speculator.draft_token_confidence_probs[: len(names)].clone()
        for i, name in enumerate(names):
            self.drafts[name] = drafts[i].tolist()
            at = int((self.likely[i] > 0).sum())
            assert self.drafts[name][at:] == [int(last[slots[i]])] * (LONGEST - at), "filled up with the last token"
        return dict(zip(names, sampled, strict=True))


def cycle(first: int) -> list[int]:
    return [first + i % 7 for i in range(2 * LENGTH)]
