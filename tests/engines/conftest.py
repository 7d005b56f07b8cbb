"""A small random model for servers."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model of 64 tokens: few enough to count what is sampled."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = str(tmp_path_factory.mktemp("small"))
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64, initializer_range=0.3)).save_pretrained(folder)
    return folder
