"""Recurrent and hybrid models: a state is put back where drafts were rejected."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

import aded
from aded.engines.transformers.compat import CACHE, with_cache
from aded.errors import UnsupportedError
from support.kinds import RECURRENT, recurrent
from support.models import PROMPT
from support.oracle import ChainThenWrong

OPTIONS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_states_are_put_back_and_taken_in_again(name: str, sampled: bool) -> None:
    model, options = recurrent(name), {**OPTIONS, "do_sample": sampled, "max_new_tokens": 40}
    torch.manual_seed(5)
    plain = model.generate(PROMPT, **options)
    for depth, budget in ((4, 6), (1, 3), (6, "auto")):
        stats = aded.Stats()
        drafter = ChainThenWrong(plain[0, PROMPT.shape[1] :].tolist(), depth=depth)
        torch.manual_seed(5)
        ours = model.generate(
            PROMPT, **options, custom_generate=aded.generate, drafter=drafter, max_draft_tokens=budget, stats=stats
        )
        assert torch.equal(plain, ours)
        if budget != "auto":
            assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("name", ["qwen3-next", "granite-hybrid", "lfm2"])
def test_the_cache_that_is_returned_is_as_plain_decodings(name: str) -> None:
    model = recurrent(name)
    options: dict[str, Any] = {**OPTIONS, "max_new_tokens": 30, "return_dict_in_generate": True}
    plain = model.generate(PROMPT, **options)
    drafter = ChainThenWrong(plain.sequences[0, PROMPT.shape[1] :].tolist())
    ours = model.generate(PROMPT, **options, custom_generate=aded.generate, drafter=drafter, max_draft_tokens=5)
    assert torch.equal(plain.sequences, ours.sequences)
    last = plain.sequences[:, -1:]
    with torch.no_grad():
        after = [model(input_ids=last, **with_cache(getattr(x, CACHE))).logits for x in (plain, ours)]
    torch.testing.assert_close(after[0], after[1])


def test_filled_states_are_refused() -> None:
    model = recurrent("qwen3-next")
    first = model.generate(PROMPT, **OPTIONS, max_new_tokens=4, return_dict_in_generate=True)
    more = torch.cat([first.sequences, PROMPT], dim=-1)
    cache = deepcopy(getattr(first, CACHE))
    with pytest.raises(UnsupportedError, match="recurrent state"):
        model.generate(more, **OPTIONS, max_new_tokens=4, custom_generate=aded.generate, **{CACHE: cache})


def test_steps_of_states_are_limited_where_plain_decoding_limits_them() -> None:
    """The library limits them in a prompt. In passes over one token it does not, and so ours over several must not."""
    model = recurrent("nemotron-h")
    mixer = next(layer for layer in model.modules() if "time_step_limit" in vars(layer))
    own = type(mixer)
    seen: list[Any] = []
    mixer.register_forward_pre_hook(lambda layer, given: seen.append(layer.time_step_limit[0]))
    model.generate(PROMPT, **OPTIONS, max_new_tokens=12, custom_generate=aded.generate, max_draft_tokens=4)
    assert seen[-1] == 0.0
    assert 2.0 in seen
    assert type(mixer) is own
    assert mixer.time_step_limit[0] == 2.0
