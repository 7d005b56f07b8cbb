from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=60)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def embedded():
    """The embedded model and its tokenizer, in float32."""
    from aded.engines.transformers.loading import load

    loaded = load(None, dtype="float32")
    return loaded.model, loaded.tokenizer
