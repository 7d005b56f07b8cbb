"""What the server answers is what the engine says without it, through OpenAI's own client."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aded
from support.counted import Counted
from support.servers import served

openai = pytest.importorskip("openai", reason="the extra dev brings it")

Plain = Callable[..., list[int]]
TOLD = [{"role": "user", "content": "the other nose"}]


@pytest.fixture
def client(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def name(tiny: tuple[Any, Any]) -> str:
    return str(tiny[0].name)


def text_of(tiny: tuple[Any, Any], ids: list[int]) -> str:
    loaded, _ = tiny
    return str(loaded.decode([token for token in ids if token not in loaded.ends]))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_conversation(tiny: Any, client: Any, plain: Plain, stream: bool, temperature: float) -> None:
    asked: dict[str, Any] = {"model": name(tiny), "messages": TOLD, "temperature": temperature, "seed": 3}
    said = plain(tiny[0].chat_tokens(TOLD, []), 40, temperature, 3)
    if not stream:
        reply = client.chat.completions.create(**asked, max_completion_tokens=40)
        text, finish, usage = reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage
    else:
        parts = list(
            client.chat.completions.create(
                **asked, max_completion_tokens=40, stream=True, stream_options={"include_usage": True}
            )
        )
        assert parts[0].choices[0].delta.role == "assistant"
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        (finish,) = [part.choices[0].finish_reason for part in parts if part.choices and part.choices[0].finish_reason]
        usage = parts[-1].usage
    assert text == text_of(tiny, said)
    assert finish == ("stop" if said[-1] in tiny[0].ends else "length")
    assert usage.completion_tokens == len(said)
    assert usage.prompt_tokens == len(tiny[0].chat_tokens(TOLD, []))
    details = usage.completion_tokens_details
    assert 0 <= details.accepted_prediction_tokens <= len(said)


@pytest.mark.parametrize("drafter", ["adaptive", "prompt-lookup", "none", "plain"])
def test_whoever_drafts(tiny: Any, client: Any, plain: Plain, drafter: str) -> None:
    ours = {"aded": {"drafter": drafter, "max_draft_tokens": 6}}
    asked = {"model": name(tiny), "prompt": "the other nose", "max_tokens": 60, "extra_body": ours}
    reply = client.completions.create(**asked)
    assert reply.choices[0].text == text_of(tiny, plain(tiny[0].text_tokens("the other nose"), 60))
    details = reply.usage.completion_tokens_details
    if drafter in ("none", "plain"):
        assert details.accepted_prediction_tokens == details.rejected_prediction_tokens == 0
    else:
        assert details.accepted_prediction_tokens > 0
    figures = reply.model_extra["aded"]
    assert figures["tokens"] == reply.usage.completion_tokens
    assert figures["accepted"] == details.accepted_prediction_tokens


def test_drafts_were_accepted_and_rejected(tiny: Any, plain: Plain) -> None:
    counted = Counted()
    with served(*tiny, drafter=counted) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
        for prompt in ("the other nose", "another one", "in the ash"):
            reply = client.completions.create(model=name(tiny), prompt=prompt, max_tokens=60)
            assert reply.choices[0].text == text_of(tiny, plain(tiny[0].text_tokens(prompt), 60))
    assert 0 < counted.accepted < counted.drafted


def test_prompts_of_text_and_of_ids_and_several_answers(tiny: Any, client: Any, plain: Plain) -> None:
    ids = tiny[0].text_tokens("the other nose")
    for prompt in (ids, [ids], ["the other nose"]):
        reply = client.completions.create(model=name(tiny), prompt=prompt, max_tokens=20)
        assert reply.choices[0].text == text_of(tiny, plain(ids, 20))
    reply = client.completions.create(model=name(tiny), prompt=["one", "two"], max_tokens=8, n=2, temperature=1, seed=5)
    expected = [plain(tiny[0].text_tokens(p), 8, 1.0, 5 + i) for i, p in enumerate(["one", "one", "two", "two"])]
    assert [choice.text for choice in reply.choices] == [text_of(tiny, said) for said in expected]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(tiny: Any, client: Any, plain: Plain, stream: bool) -> None:
    text = text_of(tiny, plain(tiny[0].text_tokens("the other nose"), 60))
    middle = len(text) // 2
    stop = text[middle : middle + 3]
    asked = {"model": name(tiny), "prompt": "the other nose", "max_tokens": 60, "stop": [stop, "never said"]}
    if stream:
        parts = list(client.completions.create(**asked, stream=True))
        said = "".join(part.choices[0].text for part in parts)
        finish = parts[-1].choices[0].finish_reason
    else:
        choice = client.completions.create(**asked).choices[0]
        said, finish = choice.text, choice.finish_reason
    assert said == text[: text.find(stop)]
    assert finish == "stop"


def test_log_probabilities(tiny: Any, client: Any, plain: Plain) -> None:
    reply = client.chat.completions.create(
        model=name(tiny), messages=TOLD, max_tokens=12, logprobs=True, top_logprobs=3, temperature=0
    )
    said = plain(tiny[0].chat_tokens(TOLD, []), 12)
    content = reply.choices[0].logprobs.content
    assert [entry.token for entry in content] == [tiny[0].shown(token) for token in said]
    for entry in content:
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy
        assert entry.token == entry.top_logprobs[0].token
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) < 1
    old = client.completions.create(model=name(tiny), prompt="the other nose", max_tokens=5, logprobs=2).choices[0]
    assert len(old.logprobs.token_logprobs) == len(old.logprobs.tokens) == len(old.logprobs.text_offset) == 5
    parts = client.chat.completions.create(
        model=name(tiny), messages=TOLD, max_tokens=12, logprobs=True, top_logprobs=3, temperature=0, stream=True
    )
    streamed = [entry for part in parts if part.choices[0].logprobs for entry in part.choices[0].logprobs.content]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in content]


def test_penalties_and_biases(tiny: Any, client: Any) -> None:
    loaded, _ = tiny
    (wanted,) = loaded.encode("x")
    asked = {"model": name(tiny), "prompt": "the other nose", "max_tokens": 10}
    reply = client.completions.create(**asked, logit_bias={str(wanted): 100})
    assert reply.choices[0].text == "x" * 10
    reply = client.completions.create(**asked, logit_bias={str(wanted): 20}, frequency_penalty=2, presence_penalty=2)
    assert 1 <= reply.choices[0].text.count("x") < 10


def test_answers_follow_a_schema(tiny: Any, client: Any) -> None:
    pytest.importorskip("llguidance", reason="the extra serve brings it")
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for seed in range(3):
        # Unlikely tokens are chosen freely: a bias keeps a random model from spaces that JSON allows anywhere.
        bias = {str(token): -100 for text in (" ", "\n", "\t", "\r") for token in tiny[0].encode(text)}
        reply = client.chat.completions.create(
            model=name(tiny),
            messages=TOLD,
            max_tokens=80,
            temperature=1,
            seed=seed,
            response_format=form,
            logit_bias=bias,
        )
        said = json.loads(reply.choices[0].message.content)
        assert said["colour"] in ("red", "green")
        assert 1 <= said["count"] <= 9
        assert reply.choices[0].finish_reason == "stop"


def test_steps_are_told_for_the_page(tiny: Any, client: Any, plain: Plain) -> None:
    ours = {"aded": {"trace": True, "max_draft_tokens": 6}}
    parts = list(
        client.chat.completions.create(model=name(tiny), messages=TOLD, max_tokens=40, stream=True, extra_body=ours)
    )
    steps = [part.model_extra["aded"]["step"] for part in parts if "step" in (part.model_extra.get("aded") or {})]
    said = plain(tiny[0].chat_tokens(TOLD, []), 40)
    tokens = [token for step in steps for token in step["tokens"]]
    assert [token["text"] for token in tokens] == [tiny[0].shown(token) for token in said]
    assert any(token["drafted"] for token in tokens)
    assert not all(token["drafted"] for token in tokens)
    for step in steps:
        path = [step["nodes"][node]["text"] for node in step["path"]]
        drafted = [token["text"] for token in step["tokens"] if token["drafted"]]
        assert path[: len(drafted)] == drafted
    assert parts[-1].model_extra["aded"]["steps"] == len(steps)


def test_tenants_share_nothing(tiny: Any) -> None:
    drafter = aded.create_drafter("adaptive", memory_mb=4, tenant_mb=1)
    keys = {"key-a": "a", "key-b": "b"}
    taken: dict[str, list[int]] = {}
    with served(*tiny, drafter=drafter, app={"keys": keys}) as address:
        for key in ("key-a", "key-b", "key-a"):
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client:
                reply = client.completions.create(
                    model=name(tiny), prompt="the other nose", max_tokens=60, extra_body={"aded": {}}
                )
                taken.setdefault(key, []).append(reply.model_extra["aded"]["steps"])
        stranger = openai.OpenAI(base_url=f"{address}/v1", api_key="key-c", max_retries=0)
        with stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    assert taken["key-a"][0] == taken["key-b"][0] > taken["key-a"][1]
    assert drafter.representative.clock == 0  # the table of nobody in particular


def test_what_was_learned_is_saved_and_read_again(tiny: Any, tmp_path: Any) -> None:
    from aded.serve.drafting import Drafters

    first = aded.create_drafter("adaptive", memory_mb=4)
    kept = Drafters("adaptive", first, None, tmp_path / "state", 1e9)
    first.representative.learn_text(np.arange(20, dtype=np.int32), probability=0.9)
    kept.close()
    again = aded.create_drafter("adaptive", memory_mb=4)
    again.load(tmp_path / "state")
    assert again.clock == first.clock > 0


def test_a_prediction_takes_fewer_steps_and_changes_no_answer(tiny: Any, client: Any, plain: Plain) -> None:
    text = text_of(tiny, plain(tiny[0].chat_tokens(TOLD, []), 40))
    steps = []
    for prediction in ({}, {"prediction": {"type": "content", "content": [{"type": "text", "text": text}]}}):
        ours = {"aded": {"drafter": "none", "max_draft_tokens": 8}} | prediction
        reply = client.chat.completions.create(
            model=name(tiny), messages=TOLD, max_tokens=40, temperature=0, extra_body=ours
        )
        assert reply.choices[0].message.content == text
        steps.append(reply.model_extra["aded"]["steps"])
    assert steps[1] < steps[0]
