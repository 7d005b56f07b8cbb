"""For vLLM's Model Runner V2: draws each token as without drafts, and keeps the drafts that agree.

A draft of ours is one token with all the probability. So a token can be drawn from the model's distribution as if there
was no draft, which is accepted if it is the same: as often as by any other rule. vLLM's noise is a function of a
request's seed and of the position, so a seed gives the same text with drafts and without, as far as the logits are the
same. vLLM's own rule draws a second time where it refuses a draft.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from aded.engines.base.wrapping import wrap


def draw_by_position() -> None:
    """Make vLLM's sampler of drafts do so in this process. Drafts that bring a distribution are sampled as before."""
    from vllm.v1.worker.gpu.spec_decode import rejection_sampler

    wrap(rejection_sampler, "rejection_sample", _by_position)


def _by_position(rejection_sample: Any) -> Any:
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    @wraps(rejection_sample)
    def sample(
        target_logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        draft_sampled: torch.Tensor,
        cu_num_logits: torch.Tensor,
        pos: torch.Tensor,
        idx_mapping: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        temperature: torch.Tensor,
        seed: torch.Tensor,
        num_speculative_steps: int,
        synthetic_conditional_rates: torch.Tensor | None = None,
        use_fp64: bool = False,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        asked = [others.get(name) for name in ("use_block_verification", "fly_window_size")]
        brought = (draft_logits, synthetic_conditional_rates, others.get("contexts"))
        if any(asked) or any(one is not None for one in brought):
            arguments = (draft_sampled, cu_num_logits, pos, idx_mapping, expanded_idx_mapping, expanded_local_pos)
            rest = (temperature, seed, num_speculative_steps, synthetic_conditional_rates, use_fp64)
            found: tuple[torch.Tensor, torch.Tensor] = rejection_sample(
                target_logits, draft_logits, *arguments, *rest, **others
            )
            return found
        drawn = gumbel_sample(
            target_logits,
            expanded_idx_mapping,
            temperature,
            seed,
            pos,
            apply_temperature=False,  # it was, with all else that changes logits
            is_drafting=False,
            use_fp64=use_fp64,
        )
        return agreeing(drawn, draft_sampled, cu_num_logits, num_speculative_steps + 1)

    return sample


def agreeing(
    drawn: torch.Tensor, drafted: torch.Tensor, ends: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that each request emits, int64 (requests, most), and their number, int32 (requests,).

    Args:
        drawn: what the model says after each token of a pass, (tokens,).
        drafted: those tokens, (tokens,): of each request its last, then its draft.
        ends: where each request's tokens begin, and where the last one's end, (requests + 1,).
        most: columns of the answer.
    """
    at = ends[:-1, None] + torch.arange(most, device=drawn.device)
    inside, place = at < ends[1:, None], at.clamp(max=len(drawn) - 1)
    said = drawn[place]
    agrees = inside[:, 1:] & (drafted[place[:, 1:]] == said[:, :-1])
    return said, 1 + agrees.cumprod(dim=1, dtype=torch.int32).sum(dim=1, dtype=torch.int32)
