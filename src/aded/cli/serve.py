"""`aded serve`."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aded.cli import options
from aded.errors import AdedError, SettingsError

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
_GRACE_S = 10  # seconds that answers have to end in when the server is stopped


def serve(
    engine: options.Engine = "transformers",
    model: options.Model = None,
    drafter: options.DrafterName = "adaptive",
    max_draft_tokens: options.MaxDraftTokens = "auto",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None, typer.Option(help="Whoever asks has to give it; NAME=KEY for several, who share nothing.")
    ] = None,
    api_keys: Annotated[Path | None, typer.Option(help="A file with a NAME=KEY a line.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Requests answered in turns; others wait.")] = 4,
    max_waiting: Annotated[int, typer.Option(min=0, max=100_000, help="Requests that may wait; then 429.")] = 64,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer. Default: as many as the model has room for.")
    ] = None,
    max_body_mb: Annotated[float, typer.Option(min=0.001, max=1024, help="Most MiB of a request.")] = 4.0,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Of requests that say none; 0 is greedy.")] = 1.0,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    state: options.State = None,
    save_every: Annotated[float, typer.Option(min=1.0, help="Seconds between two saves of --state.")] = 300.0,
    corpus: options.CorpusFile = None,
    share: options.Share = None,
) -> None:
    """Serve a model at OpenAI's addresses, and a page that shows what drafting does. End with Ctrl-C."""
    try:
        import uvicorn

        from aded.serve.app import create_app
        from aded.serve.drafting import Drafters
        from aded.serve.service import Limits, Service
    except ModuleNotFoundError as error:
        raise AdedError(f'aded serve needs {error.name}: pip install "aded[serve]"') from error

    notes = Console(stderr=True, highlight=False, quiet=quiet)
    keys = _keys(api_key or [], api_keys)
    given = (engine, model, drafter, max_draft_tokens, False, dtype, threads, device, state, corpus, share)
    runner = options.open_runner(*given, notes)
    # What is shared is said to each request.
    drafters = Drafters(drafter, runner.drafter, share, state, save_every)  # type: ignore[arg-type]
    drafters.of(None, next(iter(keys.values()), None))  # what cannot be is refused at once
    limits = Limits(parallel, max_waiting, max_new_tokens, temperature)
    completer = options.engine_module(engine, "completion").EngineCompleter(runner.loaded)
    service = Service(runner.loaded, completer, drafters, runner.max_draft_tokens, limits)
    notes.print("[dim]measuring what a step costs here[/dim]")
    service.warm_up()
    hosts = _hosts(host)
    app = create_app(service, keys=keys, hosts=hosts, most_body=int(max_body_mb * 2**20))
    logging.basicConfig(level=logging.WARNING, format="aded: %(message)s")
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": _GRACE_S}
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, **settings))
    bound = server.config.bind_socket()
    where = f"[{host}]" if ":" in host else host
    notes.print(f"{runner.loaded.name} at http://{where}:{bound.getsockname()[1]} (page), /v1 (OpenAI's form)")
    if not keys and not _is_loopback(host):
        notes.print("[yellow]everybody who reaches this address may ask; --api-key NAME=KEY changes that[/yellow]")
    server.run(sockets=[bound])


def _keys(said: list[str], file: Path | None) -> dict[str, str]:
    """API keys and whom each stands for."""
    lines = list(said)
    if file is not None:
        try:
            lines += [line for line in file.read_text("utf-8").splitlines() if line.strip() and line[0] != "#"]
        except (OSError, UnicodeDecodeError) as error:
            raise AdedError(f"cannot read the keys in {file}: {error}") from error
    keys: dict[str, str] = {}
    for line in lines:
        name, equals, key = line.strip().partition("=")
        name, key = (name.strip(), key.strip()) if equals else ("default", name)
        if not name or not key:
            raise SettingsError(f"{line!r} is no API key; give NAME=KEY")
        keys[key] = name
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(host: str) -> tuple[str, ...]:
    """Names it may be called by: no page elsewhere may reach a server of this machine by a name of its own."""
    return (*_LOOPBACK_NAMES, host) if _is_loopback(host) else ("*",)
