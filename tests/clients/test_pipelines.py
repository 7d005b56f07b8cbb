"""transformers' text-generation pipeline, and LangChain over it: the same texts, and drafts accepted."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as tf

import aded
from support.counted import Counted

PROMPTS = ["List the days of the week twice.", "Count from one to ten, in words, twice.", "Say hello three times."]


def pipeline(model: Any, tokenizer: Any, **options: Any) -> Any:
    tokenizer.padding_side = "left"
    return tf.pipeline(
        "text-generation", model=model, tokenizer=tokenizer, max_new_tokens=24, do_sample=False, **options
    )


@pytest.mark.parametrize("size", [1, 3])
def test_a_pipeline_with_chat_messages(embedded, counted: Counted, size: int) -> None:
    model, tokenizer = embedded
    messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[: size + 1]]
    answers = pipeline(model, tokenizer)
    plain = answers(messages, batch_size=size)
    aded.accelerate(model, drafter=counted, max_draft_tokens=12)
    assert answers(messages, batch_size=size) == plain
    assert 0 < counted.accepted < counted.drafted


def test_langchain(embedded, counted: Counted) -> None:
    langchain = pytest.importorskip("langchain_huggingface", reason="the extra `clients` installs it")
    model, tokenizer = embedded
    answers = pipeline(model, tokenizer, return_full_text=False)
    chain = langchain.HuggingFacePipeline(pipeline=answers, batch_size=2)
    chat = langchain.ChatHuggingFace(llm=chain)

    def said() -> list[Any]:
        alone, several = chain.invoke(PROMPTS[0]), chain.batch(PROMPTS)
        return [alone, several, chat.invoke(PROMPTS[1]).content, list(chain.stream(PROMPTS[2]))]

    plain = said()
    aded.accelerate(model, drafter=counted, max_draft_tokens=12)
    assert said() == plain
    assert 0 < counted.accepted < counted.drafted
