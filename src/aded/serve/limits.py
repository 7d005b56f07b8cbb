"""Who may ask, and how large a request may be: what is known before a request is read."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aded.serve.replies import failure

TOO_LARGE = "request_too_large"
_OPEN = ("/", "/health", "/metrics")  # to everybody: nothing of any prompt or answer is there


class Keys:
    """Refuses requests without an API key, and notes on whose behalf others are.

    Args:
        keys: API keys, and the tenant each stands for.
    """

    def __init__(self, app: ASGIApp, *, keys: Mapping[str, str]) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
            # All are compared, so that time tells nothing of any.
            right = [tenant for key, tenant in self._keys.items() if hmac.compare_digest(given.encode(), key.encode())]
            if kind.lower() != "bearer" or not right:
                said = "give an API key of this server: Authorization: Bearer KEY"
                await _refuse(send, 401, failure(said, "authentication_error", "invalid_api_key"))
                return
            scope.setdefault("state", {})["tenant"] = right[0]
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies of more bytes than `most`, whether or not their length was said beforehand."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app, self._most = app, most
        self._why = f"a request may have {most} bytes at most"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdecimal() and int(said) > self._most:
            await _refuse(send, 413, failure(self._why, "invalid_request_error", TOO_LARGE))
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise HTTPException(413, self._why)  # whoever reads the body passes it on to the app's handler
            return message

        await self._app(scope, counted, send)


async def _refuse(send: Send, status: int, body: dict[str, object]) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
