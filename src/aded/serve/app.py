"""The server's addresses, in OpenAI's form, and the page that shows what drafting does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import aded
from aded.errors import AdedError
from aded.serve.exchange import GoneError, failure_of, reply
from aded.serve.limits import TOO_LARGE, BodyLimit, Keys
from aded.serve.page import page
from aded.serve.replies import failure
from aded.serve.requests import ChatRequest, CompletionRequest
from aded.serve.service import Service
from aded.serve.worker import FullError

_LOG = logging.getLogger("aded.serve")


def create_app(
    service: Service,
    *,
    keys: Mapping[str, str] | None = None,
    hosts: Sequence[str] = ("*",),
    most_body: int = 4 * 2**20,
) -> FastAPI:
    """A server over a loaded model.

    Args:
        keys: API keys, and the tenant each stands for; none: everybody may ask, as one.
        hosts: names under which the server may be called; "*" is any.
        most_body: bytes of a request at most.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(title="ADED", version=aded.__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, most=most_body)
    if keys:
        app.add_middleware(Keys, keys=keys)
    if "*" not in hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _add_errors(app)
    model = service.loaded.name

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, asked: ChatRequest) -> Response:
        return await reply(service, request, "chat", asked, service.chat, _tenant(request))

    @app.post("/v1/completions", response_model=None)
    async def completion(request: Request, asked: CompletionRequest) -> Response:
        return await reply(service, request, "text", asked, service.completion, _tenant(request))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(model)]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model:
            raise HTTPException(404, f"there is no model {name!r} here; this server has {model}")
        return _model(model)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/aded/info")
    async def info() -> dict[str, Any]:
        return service.facts

    @app.get("/", response_class=HTMLResponse)
    async def live() -> HTMLResponse:
        return HTMLResponse(page(), headers={"Cache-Control": "no-cache", "X-Frame-Options": "DENY"})

    return app


def _tenant(request: Request) -> str | None:
    """On whose behalf a request is; None: nobody's in particular."""
    tenant: str | None = getattr(request.state, "tenant", None)
    return tenant


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "aded"}


def _add_errors(app: FastAPI) -> None:
    """Failures in OpenAI's form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        param = ".".join(place) or None
        said = f"{param}: {first['msg']}" if param else str(first["msg"])
        return JSONResponse(failure(said, "invalid_request_error", param=param), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 413: TOO_LARGE}.get(error.status_code)
        body = failure(str(error.detail), "invalid_request_error", code)
        return JSONResponse(body, error.status_code, headers=error.headers)

    async def foreseen(request: Request, error: Exception) -> JSONResponse:
        status, body, headers = failure_of(error)
        if status >= 500:
            _LOG.error("an answer failed", exc_info=error)
        return JSONResponse(body, status, headers=headers)

    @app.exception_handler(GoneError)
    async def gone(request: Request, error: GoneError) -> Response:
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(AdedError, foreseen)
    app.add_exception_handler(FullError, foreseen)
    app.add_exception_handler(Exception, foreseen)
