"""Tables of tenants: one each, bounded together, saved in one file with the common table."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from numpy.typing import NDArray

from aded.forks import ForkLock
from aded.representative import storage
from aded.representative.table import Representative

T = TypeVar("T")

_PREFIX = "tenant."
_NOTHING_MB = 0.1  # of a table that is read and never learned into


def tenant_key(name: str) -> str:
    """32 hexadecimal digits for a tenant's name, which may be a secret: names are not kept."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Tenants(Generic[T]):
    """The tenants heard of lately, and what drafts for each.

    Args:
        common: whose vocabulary and context lengths a tenant's table has.
        memory_mb: MiB of each table.
        most: tenants kept; for one more, the one not heard of for longest is forgotten.

    Attributes:
        nothing: an empty table, for tenants that can have none of their own.
    """

    def __init__(self, common: Representative, memory_mb: float, most: int) -> None:
        self._common, self.memory_mb, self.most = common, memory_mb, most
        self._tenants: OrderedDict[str, tuple[Representative, T]] = OrderedDict()
        self._forgotten = 0  # times that tenants no longer there had learned
        self._left: WeakSet[Representative] = WeakSet()  # tables of tenants no longer there whose calls go on
        self.nothing = Representative(memory_mb=_NOTHING_MB, orders=common.orders, successors=common.successors)
        self._lock = ForkLock()

    def of(self, name: str, make: Callable[[Representative], T]) -> T | None:
        """What drafts for a tenant; `make` makes it of a new table. None where there is no room for one: as many tables
        as are kept are besides held by calls of tenants that were forgotten."""
        key = tenant_key(name)
        with self._lock:
            if key not in self._tenants:
                if len(self._left) >= self.most:
                    return None
                self._add(key, self.new(), make)
            self._tenants.move_to_end(key)
            return self._tenants[key][1]

    @property
    def tables(self) -> dict[str, Representative]:
        """Each tenant's table by the tenant's key, the one not heard of for longest first."""
        with self._lock:
            return {key: table for key, (table, _) in self._tenants.items()}

    @property
    def clock(self) -> int:
        """Times that all of them learned."""
        with self._lock:
            return self._forgotten + sum(table.clock for table, _ in self._tenants.values())

    def new(self) -> Representative:
        """A table for a tenant."""
        common = self._common
        return Representative(
            memory_mb=self.memory_mb,
            orders=common.orders,
            successors=common.successors,
            forgetting=common.forgetting,
            vocab_size=common.vocab_size,
            fingerprint=common.fingerprint,
        )

    def put(self, tables: Mapping[str, Representative], make: Callable[[Representative], T]) -> None:
        """Take these in place of all."""
        with self._lock:
            self._tenants.clear()
            for key, table in tables.items():
                self._add(key, table, make)

    def _add(self, key: str, table: Representative, make: Callable[[Representative], T]) -> None:
        self._tenants[key] = (table, make(table))
        while len(self._tenants) > self.most:
            _, (old, _) = self._tenants.popitem(last=False)
            self._forgotten += old.clock
            self._left.add(old)


def save_tables(path: str | Path, common: Representative, tenants: Mapping[str, Representative]) -> None:
    """Write a state file: the common table as `Representative.save` does, and those of tenants beside it.

    Raises:
        StateFileError: it cannot be written.
    """
    arrays, header = common.saved()
    about: dict[str, Any] = {}
    for key, table in tenants.items():
        theirs, about[key] = table.saved()
        arrays |= {f"{_PREFIX}{key}.{name}": array for name, array in theirs.items()}
    storage.STATE.write(Path(path), arrays, header | ({"tenants": about} if about else {}))


def load_tables(
    path: str | Path, common: Representative, new: Callable[[], Representative], most: int
) -> dict[str, Representative]:
    """Load the common table from a state file; returns the tables of its `most` latest tenants by key.

    On an error all is as it was.

    Raises:
        StateFileError: see `Representative.load`.
    """
    arrays, header = storage.STATE.read(Path(path))
    about = header.get("tenants", {})
    if not isinstance(about, dict) or not all(isinstance(theirs, dict) for theirs in about.values()):
        raise storage.STATE.damaged(path, "tenants in its header")
    tables: dict[str, Representative] = {}
    for key, theirs in list(about.items())[-most:]:
        table = tables[key] = new()
        table.restore(_of_tenant(arrays, key), theirs, path)
    common.restore(arrays, header, path)
    return tables


def _of_tenant(arrays: Mapping[str, NDArray[Any]], key: str) -> dict[str, NDArray[Any]]:
    prefix = f"{_PREFIX}{key}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
