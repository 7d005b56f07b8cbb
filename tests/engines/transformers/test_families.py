"""A quick sweep: classes of every kind, compared with plain `generate` in every way of asking."""

from __future__ import annotations

import pytest
import transformers

from sweep.check import check
from sweep.classes import QUICK
from sweep.exceptions import CHANGES
from sweep.shrink import small_model

REFUSED = {
    "OpenAIGPTLMHeadModel": "cache holds",
    "KyutaiSpeechToTextForConditionalGeneration": "further back",  # its cache alone keeps its window
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_a_class_gives_generates_output_or_is_refused(name: str) -> None:
    verdict = check(small_model(getattr(transformers, name), CHANGES.get(name, {})), quick=True)
    if name in REFUSED:
        assert verdict.kind == "refused"
        assert REFUSED[name] in verdict.reason
    else:
        assert verdict.kind == "equal", verdict.reason
        assert 0 < verdict.accepted < verdict.drafted
