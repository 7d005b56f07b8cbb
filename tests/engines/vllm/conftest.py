"""Small random models for vLLM."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def even(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random model whose heads can be shared by two; its weights are large enough not to say one thing only."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = str(tmp_path_factory.mktemp("even"))
    tokenizer = AutoTokenizer.from_pretrained(os.environ["ADED_TEST_MODEL"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(tokenizer), initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
