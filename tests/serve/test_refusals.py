"""What the server refuses, in OpenAI's form; who leaves frees a place; whoever comes too much waits or is told so."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

import pytest

from aded.engines.base.completion import Sampling, Steps
from support.servers import running, served, service_of

httpx = pytest.importorskip("httpx2", reason="openai and transformers bring it")
CHAT = {"messages": [{"role": "user", "content": "the other nose"}]}


def post(address: str, path: str = "/v1/chat/completions", body: Any = CHAT, **headers: str) -> Any:
    return httpx.post(address + path, json=body, headers=headers, timeout=60)


class Slow:
    """Says one token a moment, until it is let go or nobody waits any more."""

    at_once, context = True, 100

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = self.ended = 0
        self.fails: Exception | None = None

    def grammar_tokenizer(self) -> Any:
        raise AssertionError

    def aside(self) -> Any:
        return nullcontext()

    def complete(self, prompt: list[int], sampling: Sampling, *, steps: Steps, **settings: Any) -> None:
        self.begun += 1
        try:
            if self.fails is not None:
                raise self.fails
            steps.plain(70)
            while not self.go.is_set():
                time.sleep(0.01)
                steps.plain(71)
        finally:
            self.ended += 1


def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, None),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 1000}, 400, "n"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**9}, 400, None),
        ({"seed": 2**70}, 400, "seed"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"logit_bias": {"-1": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"300": 1}}, 400, "logit_bias"),
        ({"wizardry": 1}, 400, "wizardry"),
        ({"model": "another"}, 404, None),
        ({"stream_options": {"include_usage": True}}, 400, None),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wizard"}}}},
            400,
            "response_format",
        ),
        ({"aded": {"drafter": "nobody"}}, 400, None),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
    ],
)
def test_a_wrong_request_is_one_clear_error(
    address: str, change: dict[str, Any], status: int, param: str | None
) -> None:
    if "response_format" in change:
        pytest.importorskip("llguidance", reason="the extra serve brings it")
    reply = post(address, body=CHAT | change)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("prompt", "says"),
    [("", "empty"), ([], "answers"), ([300], "token id"), ([[1], [-1]], "token id"), (["x"] * 17, "16 answers")],
)
def test_a_wrong_prompt(address: str, prompt: Any, says: str) -> None:
    reply = post(address, "/v1/completions", {"prompt": prompt})
    assert reply.status_code == 400, reply.text
    assert says in reply.json()["error"]["message"]


def test_a_long_prompt_says_what_there_is_room_for(address: str) -> None:
    reply = post(address, "/v1/completions", {"prompt": "x" * 600})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert "512 tokens" in reply.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_what_is_no_json(address: str, body: bytes) -> None:
    reply = httpx.post(address + "/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_other_addresses(address: str) -> None:
    assert httpx.get(address + "/health").json() == {"status": "ok"}
    assert httpx.get(address + "/v1/nothing").json()["error"]["code"] == "not_found"
    assert httpx.get(address + "/v1/completions").status_code == 405
    name = httpx.get(address + "/v1/models").json()["data"][0]["id"]
    assert httpx.get(f"{address}/v1/models/{name}").json()["id"] == name
    assert httpx.get(f"{address}/v1/models/another").status_code == 404
    assert post(address, body=CHAT | {"max_tokens": 5}).status_code == 200
    metrics = httpx.get(address + "/metrics").text
    assert 'aded_tokens_total{kind="answer"}' in metrics
    assert "aded_waiting_requests 0.0" in metrics


def test_keys_hosts_and_sizes(tiny: Any) -> None:
    app = {"keys": {"secret": "me"}, "hosts": ["127.0.0.1"], "most_body": 1000}
    with served(*tiny, app=app) as address:
        assert httpx.get(address + "/health").status_code == 200
        assert httpx.get(address + "/").status_code == 200
        for path in ("/v1/models", "/aded/info"):
            reply = httpx.get(address + path, headers={"Authorization": "Bearer wrong"})
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert httpx.get(address + path, headers={"Authorization": "Bearer secret"}).status_code == 200
        # Who has no key learns nothing of what a request should look like, nor is it read.
        assert post(address, body={"wizardry": "x" * 2000}).status_code == 401
        assert httpx.get(address + "/metrics").status_code == 200
        assert httpx.get(address + "/health", headers={"Host": "elsewhere.example"}).status_code == 400
        assert post(address, body={"messages": "x" * 2000}, Authorization="Bearer secret").status_code == 413
        # Its length need not be said beforehand.
        connection = http.client.HTTPConnection(urlsplit(address).netloc)
        connection.request(
            "POST",
            "/v1/completions",
            body=iter([b"x" * 600, b"x" * 600]),
            headers={"Content-Type": "application/json", "Authorization": "Bearer secret"},
        )
        reply = connection.getresponse()
        assert reply.status == 413
        assert json.loads(reply.read())["error"]["code"] == "request_too_large"
        connection.close()


def test_more_than_may_wait_are_told_so_and_the_rest_is_answered(tiny: Any) -> None:
    slow = Slow()
    with served(tiny[0], slow, parallel=2, most_waiting=1) as address:
        replies: list[Any] = []
        asking = [threading.Thread(target=lambda: replies.append(post(address))) for _ in range(3)]
        for thread in asking:
            thread.start()
        until(lambda: slow.begun == 2 and "aded_waiting_requests 1.0" in httpx.get(address + "/metrics").text)
        refused = post(address)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["type"] == "rate_limit_error"
        slow.go.set()
        for thread in asking:
            thread.join()
        assert [reply.status_code for reply in replies] == [200] * 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_who_leaves_frees_a_place(tiny: Any, stream: bool, waits: bool) -> None:
    slow = Slow()
    with running_one(tiny, slow) as (address, service):
        first = leaving(address, stream)
        until(lambda: slow.begun == 1)
        second = leaving(address, stream) if waits else None
        if second is not None:
            until(lambda: service.worker.waiting == 1)
            second.close()
            until(lambda: service.worker.waiting == 0)
            assert slow.begun == 1
        first.close()
        until(lambda: slow.ended == 1 and service.worker.running == 0)


def running_one(tiny: Any, slow: Slow) -> Any:
    from contextlib import contextmanager

    from aded.serve.app import create_app

    @contextmanager
    def one() -> Any:
        service = service_of(tiny[0], slow, parallel=1)
        with running(create_app(service)) as address:
            yield address, service

    return one()


def leaving(address: str, stream: bool) -> http.client.HTTPConnection:
    """A connection that has asked, and reads nothing."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    body = json.dumps(CHAT | {"stream": stream})
    connection.request("POST", "/v1/chat/completions", body=body, headers={"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_one_error_and_the_next_is_served(tiny: Any, stream: bool) -> None:
    slow = Slow()
    slow.fails = RuntimeError("a secret path")
    slow.go.set()
    with running_one(tiny, slow) as (address, _):
        failed = post(address, body=CHAT | {"stream": stream})
        assert failed.status_code == 500
        assert failed.json()["error"]["type"] == "server_error"
        assert "secret" not in failed.text
        slow.fails = None
        assert post(address, body=CHAT | {"stream": stream}).status_code == 200


def test_it_ends_while_requests_run_and_wait(tiny: Any) -> None:
    slow = Slow()
    with running_one(tiny, slow) as (address, service):
        codes: list[Any] = []

        def ask() -> None:
            try:
                codes.append(post(address).status_code)
            except httpx.HTTPError as error:
                codes.append(type(error))

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        until(lambda: slow.begun == 1 and service.worker.waiting == 1)
    for thread in asking:
        thread.join(30)
    assert 1 <= slow.begun == slow.ended
    assert len(codes) == 2
