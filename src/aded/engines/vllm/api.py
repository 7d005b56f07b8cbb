"""What vLLM loads: drafts a chain for every running request, from the tokens alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aded.engines.vllm.repairs import repair_sampling
from aded.engines.vllm.served import Served, unsupported
from aded.engines.vllm.settings import Settings
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
        repair_sampling()

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
        slot_mappings: Any = None,
        **more: Any,
    ) -> list[list[int]]:
        """A draft for each row, possibly empty.

        Args:
            sampled_token_ids: what each request emitted in the last step; nothing where its prompt is not done.
            num_tokens_no_spec: tokens of each request, those included.
            token_ids_cpu: int32 (rows, length), the tokens.
            slot_mappings: where each token of the last pass lies in the cache, by layer. Their number is what is read.
        """
        if self._served.step is None:
            return [[] for _ in sampled_token_ids]
        if not isinstance(sampled_token_ids, list) or not isinstance(token_ids_cpu, np.ndarray):
            raise unsupported("propose() was called with something else than sampled token ids and token ids")
        return self._served.step(sampled_token_ids, num_tokens_no_spec, token_ids_cpu, _scheduled(slot_mappings))

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to load: there is no draft model."""

    def save(self) -> None:
        """Save what was learned, where a state file was named. What fails is logged: serving goes on."""
        self._served.save()


def _scheduled(slot_mappings: Any) -> int | None:
    """Tokens in a pass, some of them padding where vLLM replays a recorded graph; None if it cannot be told."""
    parts = slot_mappings if isinstance(slot_mappings, list) else [slot_mappings]  # a pass can be made in parts
    try:
        firsts: list[Any] = [next(iter(part.values()), None) for part in parts]  # layers agree
        return sum(int(first.shape[0]) for first in firsts) or None
    except AttributeError:
        return None
