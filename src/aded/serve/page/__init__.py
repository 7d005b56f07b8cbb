"""The page that shows what drafting does: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_REPLAY = "/* replay */ null"


def page(replay: dict[str, Any] | None = None) -> str:
    """The page.

    Args:
        replay: an answer to show in place of asking for one: `info`, as `Service.facts`, `prompt`, `steps` as requests
            with `aded.trace` get them, `figures`, and `plain_tokens_per_second` where that was measured.
    """
    files = resources.files(__package__)
    html, style, script = (files.joinpath(name).read_text("utf-8") for name in ("index.html", "style.css", "script.js"))
    if replay is not None:
        # Inside a script element nothing may look like its end.
        script = script.replace(_REPLAY, json.dumps(replay).replace("<", "\\u003c"), 1)
    return html.replace("/* style */", style, 1).replace("/* script */", script, 1)
