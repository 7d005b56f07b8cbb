"""How large a request may be."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aded.serve.replies import failure

TOO_LARGE = "request_too_large"


class BodyLimit:
    """Refuses bodies of more bytes than `most`, whether or not their length was said beforehand."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app, self._most = app, most
        self._why = f"a request may have {most} bytes at most"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._most:
            body = json.dumps(failure(self._why, "invalid_request_error", TOO_LARGE)).encode()
            headers: Any = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": body})
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
