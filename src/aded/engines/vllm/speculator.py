"""For vLLM's Model Runner V2: the same drafts, each token with its probability to be accepted."""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.distributed.parallel_state import get_tp_group
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.spec_decode.speculator import BaseSpeculator

from aded.engines.base.asked import Asked
from aded.engines.base.wrapping import wrap
from aded.engines.vllm.engine import Emitted, StepDrafter, asked_of
from aded.engines.vllm.served import Served
from aded.engines.vllm.verification import draw_by_position

if TYPE_CHECKING:
    from aded.engines.device.drafter import DeviceDrafter

__all__ = ["AdedSpeculator"]


class AdedSpeculator(BaseSpeculator):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Drafts of fixed length for all requests, of which vLLM verifies as many as pay (`enable_adaptive_verification`).

    Where `DeviceDrafter` can be used it drafts and learns on the device, and nothing waits for the host. Else it drafts
    on the host, and waits for the step's tokens: (requests, width) ids a step are copied. With tensor parallelism the
    first rank drafts, and the others are sent what it drafted.

    Args:
        vllm_config: vLLM's configuration.
        device: where the model runs.
        req_states: what vLLM's runner keeps of each request, by slot.

    Attributes:
        draft_token_confidence_probs: probability that each token is accepted if those before it were, float32
            (requests, longest), in the order of the last batch; 0 past a draft's end.

    Raises:
        AdedError: see `Served`.
    """

    supports_mm_inputs = False
    draft_logits = None  # each draft is one token with all the probability

    def __init__(self, vllm_config: Any, device: torch.device, req_states: Any) -> None:
        self._served, self._requests = Served(vllm_config, device=device), req_states
        shape = self._served.requests, self._served.longest
        self._drafts = torch.zeros(shape, dtype=torch.int64, device=device)
        self.draft_token_confidence_probs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.enable_adaptive_verification = bool(vllm_config.speculative_config.enable_adaptive_verification)
        self._owners: list[str] = [""] * self._served.requests  # who was last seen in each slot
        self._asked: dict[str, Asked] = {}  # by request
        self._several = get_tp_group().world_size > 1
        draw_by_position()
        wrap(GPUModelRunner, "add_requests", _told)

    def added(self, requests: Iterable[Any]) -> None:
        """Requests were added, or come back: what they ask is kept while they are there."""
        self._asked |= {request.req_id: asked_of(request) for request in requests}

    def init_cudagraph_manager(self, cudagraph_mode: Any) -> None:
        """Nothing is recorded: drafts are made between passes."""

    def capture(self) -> None:
        """Nothing is recorded."""

    @torch.inference_mode()
    def propose(
        self,
        input_batch: Any,
        attn_metadata: Any,
        slot_mappings: Any,
        last_hidden_states: Any,
        aux_hidden_states: Any,
        num_sampled: torch.Tensor,
        num_rejected: torch.Tensor,
        last_sampled: torch.Tensor,
        *others: Any,
        dummy_run: bool = False,
        **more: Any,
    ) -> torch.Tensor:
        """Drafts for each request of the batch, int64 (requests, longest), filled up with its last token.

        Args:
            input_batch: the requests, in order.
            num_sampled: tokens each emitted in this step, int32 (requests,); 0 where its prompt is not done.
            num_rejected: drafted tokens of each that were verified and not accepted, int32 (requests,).
            last_sampled: last token of each slot, int64 (slots, 1).
            dummy_run: whether vLLM only tries how long a step takes.
        """
        count = input_batch.num_reqs
        drafts, likely = self._drafts[:count], self.draft_token_confidence_probs[:count]
        if dummy_run:
            return drafts
        counts = num_sampled[:count], num_rejected[:count]
        if self._served.there is not None:
            self._draft_there(self._served.there, input_batch, *counts)
        elif self._served.step is not None:
            drafts[:] = last_sampled.view(-1)[input_batch.idx_mapping[:count]].unsqueeze(1)
            likely.zero_()
            self._draft(self._served.step, input_batch, *counts)
        if self._several:
            group = get_tp_group()
            group.broadcast(drafts, src=0)
            group.broadcast(likely, src=0)
        return drafts

    def _draft_there(self, step: DeviceDrafter, batch: Any, sampled: torch.Tensor, rejected: torch.Tensor) -> None:
        """Write what is drafted for each request on the device, and how likely it is."""
        self._forget_ended(step)
        tokens, slots = self._requests.all_token_ids.gpu, batch.idx_mapping[: len(sampled)]
        for slot, name in zip(batch.idx_mapping_np[: len(sampled)].tolist(), batch.req_ids, strict=True):
            if self._owners[slot] != name:
                self._owners[slot] = name
                prompt = int(self._requests.prefill_len.np[slot])
                step.start(slot, tokens, prompt, self._asked.get(name, Asked(drafts=False)))
        ends = self._requests.total_len.gpu[slots.to(torch.int64)]
        drafts, likely = self._drafts[: len(sampled)], self.draft_token_confidence_probs[: len(sampled)]
        drafts[:], likely[:] = step.step(slots, sampled, rejected, ends, tokens)

    def _draft(self, step: StepDrafter, batch: Any, sampled: torch.Tensor, rejected: torch.Tensor) -> None:
        """The same on the host; what is there stays for requests that have none."""
        fresh, refused, ends, recent = self._emitted(batch, sampled, rejected, step.width)
        rows = np.flatnonzero(fresh)
        if not rows.size:
            return
        slots, names = np.asarray(batch.idx_mapping_np[: len(fresh)], np.int64)[rows], batch.req_ids
        self._forget_ended(step)
        new = np.array([self._owners[slot] != names[row] for slot, row in zip(slots, rows, strict=True)])
        for slot, row in zip(slots.tolist(), rows.tolist(), strict=True):
            self._owners[slot] = names[row]
        tokens = self._requests.all_token_ids.gpu

        def whole(i: int) -> NDArray[np.int32]:
            ids: NDArray[np.int32] = tokens[int(slots[i]), : int(ends[rows[i]])].cpu().numpy()
            return ids

        emitted = Emitted(slots, new, ends[rows], fresh[rows], recent[rows])

        def asked(i: int) -> Asked:
            return self._asked.get(names[rows[i]], Asked(drafts=False))

        chosen = step.advance(emitted, whole, asked, verified=(fresh + refused - 1)[rows])
        longest = chosen.ids.shape[1]
        ids = np.where(chosen.paths > 0, chosen.ids, recent[rows, -1:]).astype(np.int64)
        where = torch.from_numpy(rows).to(self._drafts.device)
        self._drafts[where, :longest] = torch.from_numpy(ids).to(where.device)
        likely = torch.from_numpy(step.confidences(chosen)).to(where.device)
        self.draft_token_confidence_probs[where, :longest] = likely

    def _forget_ended(self, step: StepDrafter | DeviceDrafter) -> None:
        """Let go of what requests had that have ended."""
        known = self._requests.req_id_to_index
        ended = [slot for slot, name in enumerate(self._owners) if name and name not in known]
        step.end(ended)
        for slot in ended:
            self._owners[slot] = ""
        if len(self._asked) > len(known):
            self._asked = {name: asked for name, asked in self._asked.items() if name in known}

    def _emitted(
        self, batch: Any, sampled: torch.Tensor, rejected: torch.Tensor, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """Tokens each request emitted, those it refused, all it has, and the last `width` of them, in one copy."""
        slots = batch.idx_mapping[: len(sampled)].to(torch.int64)
        ends = self._requests.total_len.gpu[slots].to(torch.int64)
        at = ends[:, None] - width + torch.arange(width, device=ends.device)
        last = self._requests.all_token_ids.gpu[slots[:, None], at.clamp(min=0)].masked_fill(at < 0, -1)
        columns = [sampled[:, None], rejected[:, None], ends[:, None], last]
        table = torch.cat([column.to(torch.int64) for column in columns], dim=1).cpu().numpy()
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3:].astype(np.int32)


def _told(add: Any) -> Any:
    @wraps(add)
    def tell(self: Any, scheduler_output: Any) -> Any:
        if isinstance(self.speculator, AdedSpeculator):
            self.speculator.added(scheduler_output.scheduled_new_reqs)
        return add(self, scheduler_output)

    return tell
