"""Releases of transformers are told apart by what they offer."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from transformers import GenerationMixin
from transformers.cache_utils import DynamicCache

import aded
from aded.engines.transformers import compat
from support.models import PROMPT, build


def test_the_release_that_is_here_is_supported() -> None:
    compat.check_release()


@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_release_that_cannot_work_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    if change == "gone":
        monkeypatch.delattr(GenerationMixin, "_prefill")
    else:
        monkeypatch.setattr(GenerationMixin, "_prefill", lambda self, inputs: None)
    reason = f"transformers {transformers.__version__} is not supported (GenerationMixin._prefill"
    with pytest.raises(aded.UnsupportedError, match=re.escape(reason)):
        compat.check_release()


def test_a_cache_goes_in_and_comes_out_under_the_releases_own_name() -> None:
    model = build("llama")
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        outputs = model(input_ids=PROMPT, **compat.with_cache(cache))
    assert compat.cache_of(outputs) is cache
    assert cache.get_seq_length() == PROMPT.shape[1]
    assert compat.cache_of(model(input_ids=PROMPT, use_cache=False)) is None
