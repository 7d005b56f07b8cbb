"""Drafts and learning on the device, step by step: nothing here waits for the device but what is saved and counted."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from aded.budget.acceptance import (
    ALL_KEPT,
    ALL_PRIOR,
    CLASS_KEPT,
    CLASS_PRIOR,
    EDGES,
    SEQUENCE_KEPT,
    SEQUENCE_PRIOR,
    Evidence,
)
from aded.drafters.adaptive_slots import OWN_FORGETTING
from aded.drafters.learning import PROMPT_PROBABILITY
from aded.engines.base.asked import Asked
from aded.engines.device import drafting, learning
from aded.engines.device.tables import LAST_STAMP, DeviceTables, power_of_two
from aded.representative import InterpolationWeights
from aded.representative.interpolation import COUNTS, TOPS

if TYPE_CHECKING:
    from aded.drafters.base import Movable
    from aded.representative import Representative

__all__ = ["DeviceDrafter"]

_PIECE = 4096  # tokens of a prompt that are learned at once
_BLOCK = 16  # entries that a program reads at once
_AS_HERE = {"enable_fp_fusion": False}  # the host rounds each product and each sum


class DeviceDrafter:
    """The adaptive drafter for the requests of a server, on the device where its model runs.

    It drafts, judges and learns as `AdaptiveSlots` and `Acceptance` do on the host, with two differences that change
    drafts and no output: all of a step is judged before any of it is learned, and sums are in float32.

    Args:
        drafter: whose tables are read and learned into; it holds what was learned again once it is saved.
        requests: as many as can run at once.
        max_length: tokens of the longest sequence the model takes.
        vocabulary: its ids are below.
        longest: most tokens of a draft.
        most: tokens of each draft, up to `longest`.
        min_probability: a draft ends before its path is less likely.
        device: where.
        programs: that learn beside each other; None: one for each multiprocessor.

    Attributes:
        drafts, likely: int64 and float32, (requests, longest), of the last step: tokens, and the probability that each
            is accepted if those before it were; past a draft's end the request's last token, and 0.
        tables: what is read and learned.
    """

    def __init__(
        self,
        drafter: Movable,
        *,
        requests: int,
        max_length: int,
        vocabulary: int,
        longest: int,
        most: int,
        min_probability: float,
        device: torch.device,
        programs: int | None = None,
    ) -> None:
        self._drafter, self._device = drafter, device
        self._programs = programs or _multiprocessors(device)
        self._longest, self._most, self._max_length = longest, min(most, longest), max_length
        self._vocabulary, self._min_probability = vocabulary, min_probability
        self.tables = tables = DeviceTables(drafter, requests, device)
        self._tenants: dict[int, Representative] = {}  # by group
        self._group_of = np.zeros(requests, np.int64)  # of each request that runs, else 0

        def fresh(*shape: int, of: float = 0, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.full(shape, of, dtype=dtype, device=device)

        self._groups, self._said = fresh(requests), fresh(requests)
        self._asked = fresh(requests)  # of each: 0 no drafts, 1 drafts, 2 drafts and what it says is shared
        self._paths = fresh(requests, longest, dtype=torch.float32)
        self._classes = fresh(2, 3, 16, of=CLASS_PRIOR, dtype=torch.float32)
        self._every = fresh(2, of=ALL_PRIOR, dtype=torch.float32)
        self._sequences = fresh(2, requests, of=SEQUENCE_PRIOR, dtype=torch.float32)
        self._edges = torch.stack([_edges(COUNTS, 8), _edges(TOPS, 8)]).to(device)
        self._class_edges = _edges(EDGES, 16).to(device)
        self.drafts = fresh(requests, longest, dtype=torch.int64)
        self.likely = fresh(requests, longest, dtype=torch.float32)
        entries, orders = max(requests * (longest + 1), _PIECE), len(tables.orders)
        self._keys = fresh(entries, orders, dtype=torch.int64)
        self._own, self._shared = torch.empty_like(self._keys), torch.empty_like(self._keys)
        self._entry_tokens = fresh(entries)
        self._cells = fresh(requests * (longest + 1), tables.layout.shape[2])
        self._posteriors = self._cells.to(torch.float32)
        self._drafted = fresh(2, dtype=torch.int64)  # steps with drafts, and their tokens
        self._clock = self._steps = 0
        self._seconds = 0.0
        self._lock = Lock()  # held while a step is handed to the device, and while tables are read
        self.began = 0.0
        sizes = {"COUNT": tables.count, "PLACES": tables.layout.shape[2], "LAYERS": tables.layers}
        self._sizes = sizes | {"WIDEST": tables.widest, "CELLS": tables.shares.shape[2], "WIDTH": tables.longest}
        self._compile()
        self._upload()

    @property
    def clock(self) -> int:
        """Times it learned."""
        return self._clock

    def bind(self, vocab_size: int, fingerprint: str) -> None:
        """See `AdaptiveDrafter.bind`."""
        self._drafter.bind(vocab_size, fingerprint)

    def load(self, path: str | Path) -> None:
        """Load what was learned; see `AdaptiveDrafter.load`."""
        self._drafter.load(path)
        self._upload()

    def save(self, path: str | Path) -> None:
        """Save what was learned; see `AdaptiveDrafter.save`. Waits for the device, and a step may wait for it."""
        with self._lock:
            self._wait()
            for group, table in {0: self._drafter.representative, **self._tenants}.items():
                with table.learning():
                    self.tables.get(group, table.arrays)
                table.clock = self._clock
        self._drafter.save(path)

    def start(self, slot: int, tokens: torch.Tensor, prompt: int, asked: Asked) -> None:
        """A request begins, whatever was in the slot: its prompt is learned as text.

        Args:
            tokens: int32, (requests, length), those of all requests.
            prompt: how many of the slot's are there.
            asked: what it asks.
        """
        chosen = cast("Movable", asked.drafter(self._drafter) or self._drafter)
        group, shares = self._group(chosen), chosen.share != "nothing"
        with self._lock:
            self._group_of[slot] = group
            self._groups[slot], self._said[slot] = group, 0
            self._asked[slot] = 1 + int(shares and group < self.tables.groups - 1) if asked.drafts else 0
            self._sequences[:, slot], self._paths[slot] = SEQUENCE_PRIOR, 0
            self.tables.forget(slot)
            if not asked.drafts:
                return
            row = torch.full((1,), slot, dtype=torch.int32, device=self._device)
            for begin in range(1, prompt, _PIECE):
                end = min(begin + _PIECE, prompt)
                ends, count = (torch.full_like(row, n) for n in (end, end - begin))
                self._observe(row, count, ends, tokens, end - begin, judged=False)
                self._learn(self._own, end - begin, 0, PROMPT_PROBABILITY, OWN_FORGETTING)

    def end(self, slots: list[int]) -> None:
        """The requests in these slots have ended."""
        self._group_of[slots] = 0

    def step(
        self,
        rows: torch.Tensor,
        emitted: torch.Tensor,
        refused: torch.Tensor,
        ends: torch.Tensor,
        tokens: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Learn what was emitted, and draft: `drafts` and `likely` of these rows.

        Args:
            rows: the slot of each, (rows,).
            emitted, refused: tokens each emitted, at most `longest` + 1, and drafted ones that were verified and not
                accepted, (rows,).
            ends: tokens of each, those emitted included, (rows,).
            tokens: int32, (requests, length), those of all requests; rows may lie apart.
        """
        self.began = time.perf_counter()
        count, entries = len(rows), len(rows) * (self._longest + 1)
        rows, emitted, refused, ends = (array.to(torch.int32) for array in (rows, emitted, refused, ends))
        with self._lock:
            self._tick()
            self._observe(rows, emitted, ends, tokens, self._longest + 1, judged=True)
            self._judge(rows, emitted)
            self._learn(self._own, entries, 0, 1.0, OWN_FORGETTING)
            self._learn(self._shared, entries, 1, 1.0, self._drafter.representative.forgetting)
            self._calibrate(rows, emitted, refused)
            self._draft(rows, emitted, ends, tokens)
            found = self.likely[:count] > 0
            self._drafted += torch.stack([found.any().to(torch.int64), found.sum()])
        self._steps += 1
        self._seconds += time.perf_counter() - self.began
        return self.drafts[:count], self.likely[:count]

    def facts(self) -> dict[str, Any]:
        """What is counted for the server's metrics, as `Meter.facts` says it. Drafting seconds are those that the host
        spent on handing steps over."""
        steps, classes, keys = int(self._drafted[0]), self.evidence().by_class(), self.tables.keys_of(0)
        used = int(torch.count_nonzero(keys))
        return {
            "steps": {"drafted": steps, "nothing to draft": self._steps - steps},
            "draft_seconds": self._seconds,
            "learn_seconds": 0.0,
            "accepted": {name: share for name, share, _ in classes},
            "expected": {name: share for name, _, share in classes},
            "contexts": used,
            "filled": used / len(keys),
        }

    def evidence(self) -> Evidence:
        """What is known of how often its drafts are accepted."""
        found = Evidence()
        found.classes[:] = self._classes[:, :, : found.classes.shape[2]].cpu().numpy()
        found.every[:] = self._every.cpu().numpy()
        return found

    def _observe(
        self,
        rows: torch.Tensor,
        emitted: torch.Tensor,
        ends: torch.Tensor,
        tokens: torch.Tensor,
        most: int,
        *,
        judged: bool,
    ) -> None:
        tables = self.tables
        learning.observe[len(rows) * most,](
            self._keys, self._own, self._shared, self._entry_tokens, self._cells, self._posteriors, rows, emitted,
            ends, most, tokens, tokens.stride(0), self._groups, self._asked, self._said, tables.orders, tables.mine,
            tables.keys, tables.counts, tables.successors, tables.weights, tables.layout, tables.shares, self._edges,
            ORDERS=len(tables.orders), JUDGED=judged, **self._sizes, **_AS_HERE,
        )  # fmt: skip

    def _judge(self, rows: torch.Tensor, emitted: torch.Tensor) -> None:
        tables, (least_step, prior) = self.tables, map(float, InterpolationWeights.steps)
        learning.judge[tables.count, tables.groups](
            tables.shares, tables.seen, self._cells, self._posteriors, rows, emitted, len(rows), self._longest + 1,
            self._groups, least_step, prior, PLACES=self._sizes["PLACES"], CELLS=self._sizes["CELLS"], **_AS_HERE,
        )  # fmt: skip

    def _learn(self, starts: torch.Tensor, entries: int, layer: int, probability: float, forgetting: float) -> None:
        tables = self.tables
        learning.learn[self._programs,](
            self._keys, starts, self._entry_tokens, entries, tables.keys, tables.stamps, tables.counts,
            tables.successors, tables.weights, *tables.values_of(layer), self._clock, probability, forgetting,
            ORDERS=len(tables.orders), BLOCK=_BLOCK, WIDEST=tables.widest, **_AS_HERE,
        )  # fmt: skip

    def _calibrate(self, rows: torch.Tensor, emitted: torch.Tensor, refused: torch.Tensor) -> None:
        learning.calibrate[1,](
            self._classes, self._every, self._sequences, self._said, self._paths, rows, emitted, refused, len(rows),
            len(self._said), self._class_edges, CLASS_KEPT=CLASS_KEPT, CLASS_PRIOR=CLASS_PRIOR,
            SEQUENCE_KEPT=SEQUENCE_KEPT, ALL_KEPT=ALL_KEPT, LONGEST=self._longest, **_AS_HERE,
        )  # fmt: skip

    def _draft(self, rows: torch.Tensor, emitted: torch.Tensor, ends: torch.Tensor, tokens: torch.Tensor) -> None:
        tables = self.tables
        drafting.draft[len(rows),](
            self.drafts, self.likely, self._paths, rows, emitted, ends, tokens, tokens.stride(0), self._groups,
            self._asked, tables.keys, tables.counts, tables.successors, tables.weights, tables.layout, tables.shares,
            self._edges, self._classes, self._class_edges, self._every, self._sequences, len(self._said),
            self._max_length, self._vocabulary, self._min_probability, self._most, LONGEST=self._longest,
            PADDED=power_of_two(self._longest), SPAN=power_of_two(tables.longest + self._longest), **self._sizes,
            **_AS_HERE,
        )  # fmt: skip

    def _group(self, chosen: Movable) -> int:
        """The group of who asks for what this drafter shares; the last, which has no table, where there is no room."""
        table = chosen.representative
        if table is self._drafter.representative:
            return 0
        remembered = list(map(id, self._drafter.tenant_tables))
        if id(table) not in remembered:
            return self.tables.groups - 1
        free, in_use = 0, set(self._group_of.tolist())
        for group in range(1, self.tables.groups - 1):
            held = self._tenants.get(group)
            if held is table:
                return group
            if not free and group not in in_use and (held is None or id(held) not in remembered):
                free = group
        if not free:
            return self.tables.groups - 1
        with self._lock:
            self._tenants[free] = table
            self._clock = max(self._clock, self.tables.put(free, table.arrays))
            self.tables.believe(free, chosen.weights)
        return free

    def _upload(self) -> None:
        with self._lock:
            self._tenants.clear()
            self._clock = self.tables.put(0, self._drafter.representative.arrays)
            self.tables.believe(0, self._drafter.weights)

    def _compile(self) -> None:
        """Compile all kernels, by a step in which nothing happens."""
        none, tokens = torch.zeros(1, dtype=torch.int32, device=self._device), self._groups[None]
        self._observe(none, none, none, tokens, 1, judged=False)
        self.step(none, none, none, none, tokens)
        self._clock = self._steps = 0
        self._seconds = 0.0

    def _tick(self) -> None:
        if self._clock >= LAST_STAMP:
            self.tables.halve_stamps()
            self._clock //= 2
        self._clock += 1

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; where there is none kernels are interpreted, one program after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _edges(edges: Any, length: int) -> torch.Tensor:
    """Edges in float32, (length,), filled up with infinity: a float32 is above one when it is above the float64."""
    wide = np.full(length, np.inf, np.float32)
    exact = np.asarray(edges, np.float64)
    narrow = exact.astype(np.float32)
    wide[: len(exact)] = np.where(narrow > exact, np.nextafter(narrow, np.float32(-np.inf)), narrow)
    return torch.from_numpy(wide)
