"""State files as a whole: several joined into one, and what one holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aded.errors import StateFileError
from aded.representative import storage
from aded.representative.lookup import Table
from aded.representative.table import Representative
from aded.representative.tenants import load_tables, save_tables

_ALL = 2**31  # tenants: as many as a file has


def merge_states(paths: Sequence[str | Path], out: str | Path, memory_mb: float = 64.0) -> Representative:
    """Join what several learned of one model into one file: each context by how often each saw it.

    Tenants keep a table each, joined with that of the same tenant in other files; the later file's are the latest.

    Args:
        memory_mb: MiB of the joined table, in memory; where more was learned, what came long ago is left out. Tenants'
            tables are as large as they need.

    Returns:
        The joined table of all but tenants.

    Raises:
        StateFileError: there is none, one is missing or damaged, two are of different models, or `out` cannot be
            written.
    """
    headers, rows = [], 0
    for path in paths:
        arrays, header = storage.STATE.read(Path(path), mapped=True)
        storage.check_header(storage.STATE, header, path)
        headers.append(header)
        rows += max((len(array) for name, array in arrays.items() if name.endswith(".keys")), default=0)
    if not headers:
        raise StateFileError("there is no state file to join; name one or more")
    known: dict[str, Any] = {
        name: next((header[name] for header in headers if header[name]), headers[0][name])
        for name in ("vocab_size", "fingerprint")
    }
    known["orders"], known["successors"] = tuple(headers[0]["orders"]), max(header["successors"] for header in headers)
    like = Table.empty(0.1, known["successors"])
    # Filled to a half, a table forgets hardly anything.
    tenant_mb = max(2 * rows * like.nbytes / len(like.keys) / 2**20, 0.1)
    common = Representative(memory_mb=memory_mb, **known)
    tenants: dict[str, Representative] = {}
    for path in paths:
        one = Representative(memory_mb=memory_mb, **known)
        for key, table in load_tables(path, one, lambda: Representative(memory_mb=tenant_mb, **known), _ALL).items():
            if (before := tenants.pop(key, None)) is not None:
                table.merge(before)
            tenants[key] = table
        common.merge(one)
    save_tables(out, common, tenants)
    return common


def state_facts(path: str | Path) -> dict[str, Any]:
    """What a state file is of, and how much it holds.

    Raises:
        StateFileError: it is missing or damaged.
    """
    arrays, header = storage.STATE.read(Path(path))
    storage.check_header(storage.STATE, header, path)
    storage.checked_table(storage.STATE, arrays, header, path)
    facts = {name: header[name] for name in ("vocab_size", "fingerprint", "orders", "successors")}
    tenants = header.get("tenants", {})
    return facts | {
        "times_learned": header["clock"],
        "contexts": len(arrays["keys"]),
        "holds_prompts": header.get("prompts", True),
        "tenants": len(tenants) if isinstance(tenants, dict) else 0,
        "file_mb": Path(path).stat().st_size / 2**20,
    }
