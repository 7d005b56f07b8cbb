"""A request's way through the server: begun, told piece by piece or in whole, and given up when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from aded.errors import AdedError, ContextFullError
from aded.serve.answers import Finish, Piece
from aded.serve.replies import DONE, Kind, Replies, event, failure, joined, usage
from aded.serve.service import Asked, Service
from aded.serve.tools import HeldCalls, ToolCall, split_calls
from aded.serve.worker import FullError

__all__ = ["GoneError", "failure_of", "reply"]

_LOG = logging.getLogger("aded.serve")
_LOOK_S = 0.5  # seconds between two looks whether the client is still there
_RETRY_S = 1  # seconds after which to try again where the line is full


async def reply(
    service: Service, request: Request, kind: Kind, asked: Any, begin: Callable[..., Asked], tenant: str | None
) -> Response:
    """The answer to a request.

    Args:
        kind: "chat" or "text", see `Replies`.
        begin: puts the request into the line: `Service.chat` or `Service.completion`.
        tenant: on whose behalf it is.
    """
    if asked.model not in (None, service.loaded.name):
        raise HTTPException(404, f"there is no model {asked.model!r} here; this server has {service.loaded.name}")
    if asked.stream_options is not None and not asked.stream:
        raise HTTPException(400, "stream_options: only for stream=true")
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Any]()  # pieces with numbers; an error, or None, is last

    def put(item: Any) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, item)

    # Templates and tokenizers take their time.
    started = await run_in_threadpool(begin, asked, tenant, lambda number, piece: put((number, piece)), put)
    replies = Replies(kind, service.loaded.name, service.loaded.shown)
    watched = _Watched(request, pieces)
    try:
        if not asked.stream:
            return JSONResponse(await _whole(watched, started, replies, asked))
        await watched.first()  # what fails at once has a status of its own
    except BaseException:
        service.worker.cancel(started.job)
        raise
    return _Stream(_stream(watched, started, replies, asked), lambda: service.worker.cancel(started.job))


class _Stream(StreamingResponse):
    """A stream that somebody is told of when it is over, also if it never began."""

    def __init__(self, events: AsyncIterator[bytes], over: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


class GoneError(Exception):
    """The client is not there any more."""


class _Watched:
    """The pieces of a request's answers, as long as the client is there."""

    def __init__(self, request: Request, pieces: asyncio.Queue[Any]) -> None:
        self._request, self._pieces = request, pieces
        self._first: list[Any] = []

    async def first(self) -> None:
        """Wait for the first piece, and keep it."""
        self._first.append(await self._take())

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """All pieces; raises what went wrong.

        Raises:
            GoneError: the client left.
        """
        while (item := self._first.pop() if self._first else await self._take()) is not None:
            yield item

    async def _take(self) -> Any:
        while True:
            try:
                item = await asyncio.wait_for(self._pieces.get(), _LOOK_S)
            except TimeoutError:
                if await self._request.is_disconnected():
                    raise GoneError from None
                continue
            if isinstance(item, BaseException):
                raise item
            return item


async def _whole(pieces: _Watched, started: Asked, replies: Replies, asked: Any) -> dict[str, Any]:
    count = len(started.answerings)
    texts, finishes, traces = [""] * count, list[Finish | None]([None] * count), list[Any]()
    scored: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    async for number, piece in pieces:
        if part := replies.logprobs(piece.tokens, piece.logprobs, len(texts[number])):
            scored[number].append(part)
        texts[number] += piece.text
        finishes[number] = piece.finish
        if piece.trace is not None:
            traces.append({"index": number} | piece.trace)
    choices = []
    for number, text in enumerate(texts):
        text, calls = split_calls(text) if started.tools else (text, [])
        choices.append(replies.choice(number, text, calls, finishes[number], joined(scored[number])))
    more = {} if asked.aded is None else {"aded": _figures(started) | ({"steps": traces} if traces else {})}
    return replies.whole(choices, _usage(started), more)


async def _stream(pieces: _Watched, started: Asked, replies: Replies, asked: Any) -> AsyncIterator[bytes]:
    count = len(started.answerings)
    lengths, begun = [0] * count, [False] * count
    held = [HeldCalls() if started.tools else None for _ in range(count)]
    counted = {"usage": None} if asked.stream_options is not None and asked.stream_options.include_usage else {}
    try:
        async for number, piece in pieces:
            text, calls, calling = piece.text, list[ToolCall](), held[number]
            if calling is not None:
                text = calling.add(piece.text)
                if piece.finish is not None:
                    rest, calls = calling.end()
                    text += rest
            part = replies.logprobs(piece.tokens, piece.logprobs, lengths[number])
            lengths[number] += len(piece.text)
            more = counted | ({} if piece.trace is None else {"aded": {"step": piece.trace}})
            # The reason to end comes in a part of its own, as clients expect it.
            if text or calls or part or piece.trace:
                first, begun[number] = not begun[number], True
                yield event(replies.chunk([replies.delta(number, text, None, part, calls=calls, role=first)], **more))
            if piece.finish is not None:
                finish = "tool_calls" if calls else piece.finish
                yield event(replies.chunk([replies.delta(number, "", finish, None)], **counted))
    except GoneError:
        return
    except Exception as error:
        _LOG.error("an answer failed", exc_info=error)
        yield event(failure_of(error)[1])
        return
    ended: dict[str, Any] = {"usage": _usage(started)} if counted else {}
    if asked.aded is not None:
        ended["aded"] = _figures(started)
    if ended:
        yield event(replies.chunk([], **ended))
    yield DONE


def _usage(started: Asked) -> dict[str, Any]:
    return usage(started.prompt_tokens, started.tokens, started.accepted, started.drafted)


def _figures(started: Asked) -> dict[str, Any]:
    """What a request took, in steps and seconds."""
    counts = [answering.steps for answering in started.answerings]
    return {
        "tokens": started.tokens,
        "steps": sum(x.steps for x in counts),
        "drafted": started.drafted,
        "accepted": started.accepted,
        "exact": counts[0].exact if any(x.total_s for x in counts) else None,
        "time_to_first_token_s": started.first_s,
        "seconds": started.seconds,
    }


def failure_of(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a failure."""
    if isinstance(error, FullError):
        said = "too many requests wait here; try again in a moment"
        return 429, failure(said, "rate_limit_error", "too_many_requests"), {"Retry-After": str(_RETRY_S)}
    if isinstance(error, ContextFullError):
        return 400, failure(str(error), "invalid_request_error", "context_length_exceeded"), {}
    if isinstance(error, AdedError):
        named, _, _ = str(error).partition(": ")
        param = named if named.isidentifier() else None
        return 400, failure(str(error), "invalid_request_error", param=param), {}
    return 500, failure("the server failed; its log says why", "server_error"), {}
