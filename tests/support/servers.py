"""A server in a thread of the test's own process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

import aded
from aded.drafters.base import Drafter
from aded.serve.app import create_app
from aded.serve.drafting import Drafters
from aded.serve.service import Limits, Service


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def service_of(
    loaded: Any, completer: Any, *, drafter: Drafter | None = None, most_drafted: int = 8, **limits: Any
) -> Service:
    """A service with a fixed budget, and a small drafter."""
    drafter = drafter or aded.create_drafter("adaptive", memory_mb=4, tenant_mb=1)
    limits = {"temperature": 0.0} | limits
    drafters = Drafters("adaptive", drafter, None, None, 1e9)
    return Service(loaded, completer, drafters, most_drafted, Limits(**limits))


@contextmanager
def served(loaded: Any, completer: Any, *, app: dict[str, Any] | None = None, **settings: Any) -> Iterator[str]:
    """The address of a server over a model."""
    with running(create_app(service_of(loaded, completer, **settings), **(app or {}))) as address:
        yield address
