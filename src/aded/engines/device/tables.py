"""The drafter's tables in the device's memory: the same slots and buckets as on the host, all of them in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aded.representative.interpolation import CELLS
from aded.representative.lookup import Table, slots_in

if TYPE_CHECKING:
    from aded.drafters.base import Movable
    from aded.representative import InterpolationWeights

__all__ = ["LAST_STAMP", "DeviceTables", "Part", "power_of_two"]

LAST_STAMP = 2**31 - 2  # stamps are int32 here


@dataclass(frozen=True)
class Part:
    """Where a table, or several of one shape, lie among all.

    Attributes:
        first: its first slot.
        value: the first of its successors and weights.
        slots: of one table.
        successors: of one slot.
        tables: how many there are.
    """

    first: int
    value: int
    slots: int
    successors: int
    tables: int = 1

    @property
    def end(self) -> int:
        """The slot behind it."""
        return self.first + self.slots * self.tables

    @property
    def start(self) -> int:
        """What to add to a slot's number times its successors to find them."""
        return self.value - self.first * self.successors

    @property
    def value_end(self) -> int:
        """The successor behind it."""
        return self.value + self.slots * self.tables * self.successors

    def of(self, table: int) -> Part:
        """One of its tables."""
        first, skipped = self.slots * table, self.slots * table * self.successors
        return Part(self.first + first, self.value + skipped, self.slots, self.successors)


class DeviceTables:
    """Own tables of all requests, the common one, those of tenants, and a corpus.

    Each group of requests reads the common table or a tenant's, by weights of its own. What a request reads is numbered
    in the order of reading: from the longest context down, and its own table before the shared one before the corpus.
    Such a number is called a place.

    Args:
        drafter: whose tables they are; they begin with what it has learned.
        requests: as many as can run at once.
        device: where they are kept.

    Attributes:
        orders: context lengths, ascending, int32 (padded,); padded with -1.
        mine: which of them are learned, int32 (padded,).
        count: places.
        layers: tables that a request reads.
        widest: successors of a slot at most.
        keys, stamps, counts: int64, int32 and float32, (slots,): as in `Table`.
        successors, weights: int32 and float32, (values,).
        layout: int64, (groups, 5, padded places): of what is read at each place, its first slot, its slots, what to add
            to a slot's number times its successors to find them, its successors, and its context's length. A request's
            own table begins as many times its slots further on as the request's number.
        shares, seen: float32, (groups, padded places, cells): see `InterpolationWeights`.
    """

    def __init__(self, drafter: Movable, requests: int, device: torch.device) -> None:
        orders = sorted({order for layer in drafter.shared for order in layer.orders})
        self.layers = 1 + len(drafter.shared)
        self.count = len(orders) * self.layers
        self._padded = power_of_two(self.count)
        lengths = np.full(power_of_two(len(orders)), -1, np.int32)
        lengths[: len(orders)] = orders
        self.orders = torch.from_numpy(lengths).to(device)
        self.mine = torch.from_numpy(np.isin(lengths, drafter.representative.orders).astype(np.int32)).to(device)
        own, common = drafter.sequence_successors, drafter.representative.arrays
        self._own = Part(0, 0, slots_in(drafter.sequence_mb, own), own, requests)
        width = drafter.representative.successors
        self._common = Part(self._own.end, self._own.value_end, len(common.keys), width)
        slots, tenants = slots_in(drafter.tenant_mb, width), drafter.most_tenants
        self._tenants = Part(self._common.end, self._common.value_end, slots, width, tenants)
        last = self._tenants
        self._corpus: Part | None = None
        if drafter.corpus is not None:
            arrays = drafter.corpus.arrays
            last = self._corpus = Part(last.end, last.value_end, *arrays.successors.shape)
        self.widest = power_of_two(max(own, width, last.successors))
        self.keys = torch.zeros(last.end, dtype=torch.int64, device=device)
        self.stamps = torch.zeros(last.end, dtype=torch.int32, device=device)
        self.counts = torch.zeros(last.end, device=device)
        self.successors = torch.zeros(last.value_end, dtype=torch.int32, device=device)
        self.weights = torch.zeros(last.value_end, device=device)
        self.groups = 2 + tenants  # the last one has no shared table
        self._order_of = np.repeat(lengths[: len(orders)][::-1], self.layers)
        self.layout = torch.from_numpy(np.stack([self._read(group) for group in range(self.groups)])).to(device)
        shape = self.groups, self._padded, power_of_two(CELLS)
        self.shares, self.seen = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        if drafter.corpus is not None and self._corpus is not None:
            self._write(self._corpus, drafter.corpus.arrays)
        for group in range(self.groups):
            self.believe(group, drafter.weights)

    @property
    def longest(self) -> int:
        """Tokens of context a lookup can use."""
        return int(self._order_of.max())

    def believe(self, group: int, weights: InterpolationWeights) -> None:
        """Give a group these weights of the interpolation."""
        for array, given in ((self.shares, weights.shares), (self.seen, weights.seen)):
            by_place = np.ascontiguousarray(given[:, ::-1].transpose(1, 0, 2)).reshape(self.count, -1)
            array[group].zero_()
            array[group, : self.count, : by_place.shape[1]] = torch.from_numpy(by_place).to(array.device)

    def keys_of(self, group: int) -> torch.Tensor:
        """The keys of a group's table, int64 (slots,)."""
        part = self._shared(group)
        return self.keys[part.first : part.end]

    def values_of(self, layer: int) -> tuple[int, int]:
        """Of requests' own tables (0) or shared ones (1): a slot's successors begin at the first of these and its
        number times the second, which says how many there are."""
        part = self._own if layer == 0 else self._common
        return part.start, part.successors

    def forget(self, request: int) -> None:
        """Empty a request's own table."""
        part = self._own.of(request)
        self.keys[part.first : part.end] = 0

    def put(self, group: int, table: Table) -> int:
        """Take what a table holds in place of a group's; returns the latest stamp in it."""
        part = self._shared(group)
        if len(table.keys) != part.slots:
            raise ValueError(f"a table of {len(table.keys)} slots does not fit into {part.slots}")
        if not table.keys.any():
            self.keys[part.first : part.end] = 0
            return 0
        return self._write(part, table)

    def get(self, group: int, table: Table) -> None:
        """Put a group's table into `table`."""
        part = self._shared(group)
        slots, values = slice(part.first, part.end), slice(part.value, part.value_end)
        table.keys[:] = self.keys[slots].cpu().numpy().view(np.uint64)
        table.stamps[:] = self.stamps[slots].cpu().numpy()
        table.counts[:] = self.counts[slots].cpu().numpy()
        table.successors[:] = self.successors[values].cpu().numpy().reshape(table.successors.shape)
        table.weights[:] = self.weights[values].cpu().numpy().reshape(table.weights.shape)

    def halve_stamps(self) -> None:
        """Keep the order of all stamps, at half their value."""
        self.stamps >>= 1

    def _shared(self, group: int) -> Part:
        return self._common if group == 0 else self._tenants.of(group - 1)

    def _read(self, group: int) -> NDArray[np.int64]:
        """What a group reads at each place, int64 (5, padded places)."""
        shared = self._shared(group) if group < self.groups - 1 else Part(0, 0, 0, 1)
        parts = [self._own, shared, *([] if self._corpus is None else [self._corpus])]
        found = np.zeros((5, self._padded), np.int64)
        found[4] = -1
        for place in range(self.count):
            part = parts[place % self.layers]
            found[:, place] = part.first, part.slots, part.start, part.successors, self._order_of[place]
        return found

    def _write(self, part: Part, table: Table) -> int:
        stamps: NDArray[Any] = np.asarray(table.stamps)
        while (last := int(stamps.max(initial=0))) > LAST_STAMP // 2:
            stamps = stamps >> 1
        given = (table.keys.view(np.int64), stamps.view(np.int32), table.counts)
        for array, one in zip((self.keys, self.stamps, self.counts), given, strict=True):
            array[part.first : part.end] = torch.from_numpy(np.array(one)).to(array.device)
        for array, one in ((self.successors, table.successors), (self.weights, table.weights)):
            array[part.value : part.value_end] = torch.from_numpy(np.array(one).reshape(-1)).to(array.device)
        return last


def power_of_two(n: int) -> int:
    """The least power of two that is no less."""
    return 1 << (n - 1).bit_length()
