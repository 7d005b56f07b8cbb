"""Links from pages to files of the repository: on the site they are names, for the files are not part of it."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Keep the text of links that lead out of the pages."""
    return _OUTSIDE.sub(r"\1", markdown)
