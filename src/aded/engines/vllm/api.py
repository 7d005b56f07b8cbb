"""What vLLM loads: drafts a chain for every running request, from the tokens alone."""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.engines.base.settings import Settings
from aded.engines.base.wrapping import wrap
from aded.engines.vllm.engine import Ran, asked_of
from aded.engines.vllm.repairs import repair_sampling
from aded.engines.vllm.served import Served, unsupported
from aded.errors import UnsupportedError


class AdedProposer:
    """A proposer for `speculative_config={"model": "aded.vllm"}`.

    `num_speculative_tokens` is the longest draft. Each step's drafts are as long as they pay on this machine, all
    running requests together; see `AdaptiveBudget`. Settings: see `Settings`.

    With tensor parallelism the first rank drafts, as vLLM takes drafts from it alone; the others return none. With data
    parallelism each replica learns for itself, and the first saves.

    Args:
        vllm_config: vLLM's configuration.

    Raises:
        AdedError: a setting, state file or corpus that cannot be used, pipeline stages, or a vLLM with another
            interface.
    """

    def __init__(self, vllm_config: Any) -> None:
        stages = int(getattr(getattr(vllm_config, "parallel_config", None), "pipeline_parallel_size", 1))
        if stages > 1:
            raise UnsupportedError(
                f"this vLLM cannot speculate over pipeline stages, and there are {stages} (pipeline_parallel_size): "
                "only the last would have a drafter, and all ask for it; use tensor parallelism, or no speculation"
            )
        self._served = Served(vllm_config)
        self.ran: Ran | None = None  # of the step whose tokens come next
        repair_sampling()
        _hear_of_steps()

    @property
    def settings(self) -> Settings:
        """What was set."""
        return self._served.settings

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        *others: Any,
        **more: Any,
    ) -> list[list[int]]:
        """A draft for each row, possibly empty.

        Args:
            sampled_token_ids: what each request emitted in the last step; nothing where its prompt is not done.
            num_tokens_no_spec: tokens of each request, those included.
            token_ids_cpu: int32 (rows, length), the tokens.
        """
        if self._served.step is None:
            return [[] for _ in sampled_token_ids]
        ran, self.ran = self.ran, None
        if ran is None:
            raise unsupported("propose() was called by something else than GPUModelRunner.propose_draft_token_ids")
        if not isinstance(sampled_token_ids, list) or not isinstance(token_ids_cpu, np.ndarray):
            raise unsupported("propose() was called with something else than sampled token ids and token ids")
        return self._served.step(sampled_token_ids, num_tokens_no_spec, token_ids_cpu, ran)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to load: there is no draft model."""

    def save(self) -> None:
        """Save what was learned, where a state file was named. What fails is logged: serving goes on."""
        self._served.save()


def _hear_of_steps() -> None:
    """vLLM tells a proposer token ids and nothing else. Its runner knows whose they are, what was verified of each, and
    what each request asks."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    wrap(GPUModelRunner, "propose_draft_token_ids", _told)


def _told(propose: Any) -> Any:
    @wraps(propose)
    def tell(self: Any, scheduler_output: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(self.drafter, AdedProposer):
            self.drafter.ran = ran_of(self, scheduler_output)
        return propose(self, scheduler_output, *arguments, **more)

    return tell


def ran_of(runner: Any, scheduled: Any) -> Ran:
    """What is known of the step that a runner has just run.

    Raises:
        UnsupportedError: this vLLM keeps it elsewhere.
    """
    try:
        drafts = scheduled.scheduled_spec_decode_tokens
        verified = {name: len(tokens) for name, tokens in drafts.items()}
        names, total = list(runner.input_batch.req_ids), int(scheduled.total_num_scheduled_tokens)
        return Ran(names, verified, total, runner.requests, lambda name: asked_of(runner.requests[name]))
    except AttributeError as error:
        raise unsupported(str(error)) from error
