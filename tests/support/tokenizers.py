"""Tokenizers for models too small to have one."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "home"]


class Words:
    """The least a tokenizer must do."""

    chat_template = None
    pad_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(100)}

    def __call__(self, text: str, return_tensors: str = "") -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[ord(c) % 39 + 1 for c in text]])}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(97 + i % 26) for i in ids)


def word_level() -> PreTrainedTokenizerFast:
    """Knows `WORDS` and nothing else; it can be saved beside a model."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
