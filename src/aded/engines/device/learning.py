"""What each step teaches, learned on the device: what `aded.drafters.learning` does on the host, for all at once.

An entry is a token that was emitted, with what stood before it. What comes of a step depends on neither the number of
programs nor their order: each bucket of a table belongs to one program, which goes through all entries in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aded.engines.device.drafting import class_of
from aded.engines.device.lookup import bucket, find, first_hash, longer_hash, places_of, read

_UNNAMED = tl.constexpr(1e-4)  # what no table knows: a token nobody named
_LEAST_SHARE = tl.constexpr(0.01)
_MOST_SHARE = tl.constexpr(0.995)
_NOWHERE = tl.constexpr(2**30)
_NEVER = tl.constexpr(2**40)  # above all stamps


@triton.jit(do_not_specialize=["most", "stride"])  # they change from step to step
def observe(
    entry_keys,
    own_starts,
    shared_starts,
    entry_tokens,
    cells,
    posteriors,
    rows,
    emitted,
    ends,
    most,
    tokens,
    stride,
    groups,
    asked,
    said,
    orders,
    mine,
    keys,
    counts,
    successors,
    weights,
    layout,
    shares,
    edges,
    ORDERS: tl.constexpr,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
    PLACES: tl.constexpr,
    LAYERS: tl.constexpr,
    WIDEST: tl.constexpr,
    CELLS: tl.constexpr,
    JUDGED: tl.constexpr,
):
    """Of each entry, where tables can keep it, and which places had explained it; one program an entry.

    Args:
        entry_keys: int64, (entries, orders): the hash of each of its contexts, written; 0 where there is none.
        own_starts, shared_starts: int64, (entries, orders): first slot of the bucket where the request's own table and
            the shared one can keep it, written; -1 where it is not to be learned.
        entry_tokens: int32, (entries,): written.
        cells: int32, (entries, places): the cell of each place that is to be judged, written; -1 for none.
        posteriors: float32, (entries, places): that the place, and none after it, produced the token, written.
        most: entries of a row; those beyond what it emitted are empty.
        said: int32, (requests,): tokens of each that the model said before; what stands before them is no context for
            the shared table.
        orders, mine: int32, (orders,): see `DeviceTables`.
        JUDGED: whether places are judged.

    Others are those of `aded.engines.device.drafting.draft`.
    """
    entry = tl.program_id(0)
    row, i = entry // most, entry % most
    request = tl.load(rows + row).to(tl.int64)
    n, flags, group = tl.load(emitted + row), tl.load(asked + request), tl.load(groups + request)
    alive = (i < n) & (flags > 0)
    shared = alive & (flags > 1)
    before = tl.load(ends + row) - n + i  # tokens
    at = tokens + request * stride + before
    token = tl.load(at, mask=alive, other=-1)
    j, place = tl.arange(0, ORDERS), tl.arange(0, PLACES)
    lengths, learned = tl.load(orders + j), tl.load(mine + j) > 0
    first, slots, start, kept, order = places_of(layout, group, request, COUNT, PLACES, LAYERS)
    h, whole = first_hash(token), alive
    key, by_place = tl.where(lengths == 0, h, 0), tl.where(order == 0, h, 0)
    for back in range(1, WIDTH + 1):
        whole = whole & (before >= back)
        one = tl.load(at - back, mask=whole, other=-1)
        whole = whole & (one >= 0)
        h = longer_hash(h, one)
        key = tl.where((lengths == back) & whole, h | 1, key)
        by_place = tl.where((order == back) & whole, h | 1, by_place)
    key, by_place = tl.where(alive, key, 0), tl.where(alive, by_place, 0)
    base = layout + group.to(tl.int64) * 5 * PLACES  # the first place is its own table's, the second the shared one's
    own_first, own_slots = tl.load(base), tl.load(base + PLACES)
    their_first, their_slots = tl.load(base + 1), tl.load(base + PLACES + 1)
    can = (key != 0) & learned
    tl.store(entry_keys + entry * ORDERS + j, key)
    own = own_first + request * own_slots + bucket(key, own_slots)
    tl.store(own_starts + entry * ORDERS + j, tl.where(can, own, -1))
    can = can & shared & (their_slots > 0) & (lengths <= tl.load(said + request) + i)
    tl.store(shared_starts + entry * ORDERS + j, tl.where(can, their_first + bucket(key, their_slots), -1))
    tl.store(entry_tokens + entry, token)
    if JUDGED:  # noqa: SIM102  # known when it is compiled; the other is not
        if alive:
            slot = find(keys, first, slots, by_place)
            ids, mass, there, total, cell = read(counts, successors, weights, edges, slot, start, kept, order, WIDEST)
            there = there.to(tl.int32) * flags > 1
            ratio = tl.sum(tl.where(ids == token, mass, 0.0), 1) / total
            share = tl.load(shares + (group * PLACES + place) * CELLS + cell, mask=there, other=0.0)
            below, found = ratio.sum(0) * 0 + _UNNAMED, tl.zeros((PLACES,), tl.float32)
            for back in range(COUNT):
                one = place == COUNT - 1 - back
                s, r = tl.sum(tl.where(one, share, 0.0), 0), tl.sum(tl.where(one, ratio, 0.0), 0)
                is_there = tl.sum((one & there).to(tl.int32), 0) > 0
                both = s * r + (1.0 - s) * below
                found = tl.where(one, s * r / both, found)
                below = tl.where(is_there, both, below)
            tl.store(cells + entry * PLACES + place, tl.where(there, cell, -1))
            tl.store(posteriors + entry * PLACES + place, found)


@triton.jit(do_not_specialize=["count", "most"])  # they change from step to step
def judge(
    shares, seen, cells, posteriors, rows, emitted, count, most, groups, least_step, prior,
    PLACES: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Move the shares of a group's place toward what was observed; one program a place and group.

    Args:
        shares, seen: see `InterpolationWeights`, float32, (groups, places, cells).
        cells, posteriors, rows, emitted, most, groups: see `observe`.
        count: rows.
        least_step, prior: the least step of an update, and how many observations the start counts as.
    """
    place, group, lane = tl.program_id(0), tl.program_id(1), tl.arange(0, CELLS)
    own = (group * PLACES + place) * CELLS + lane
    share, times = tl.load(shares + own), tl.load(seen + own)
    for row in range(count):
        if tl.load(groups + tl.load(rows + row)) == group:
            for i in range(tl.minimum(tl.load(emitted + row), most)):
                entry = row * most + i
                here = lane == tl.load(cells + entry * PLACES + place)
                times += here.to(tl.float32)
                step = tl.maximum(1.0 / (times + prior), least_step)
                moved = share + step * (tl.load(posteriors + entry * PLACES + place) - share)
                share = tl.where(here, tl.minimum(tl.maximum(moved, _LEAST_SHARE), _MOST_SHARE), share)
    tl.store(shares + own, share)
    tl.store(seen + own, times)


@triton.jit(do_not_specialize=["entries", "clock"])  # they change from step to step
def learn(
    entry_keys,
    starts,
    entry_tokens,
    entries,
    keys,
    stamps,
    counts,
    successors,
    weights,
    value,
    kept,
    clock,
    probability,
    forgetting,
    ORDERS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEST: tl.constexpr,
):
    """Move what the tables keep toward the entries, as `aded.representative.lookup.learn` does.

    Each of the programs takes the buckets that are its own.

    Args:
        entry_keys, starts, entry_tokens: see `observe`.
        entries: how many there are.
        keys ... weights: see `DeviceTables`.
        value, kept: a slot's successors begin at `value` and its number times `kept`, and are so many.
        clock: stamp of this step.
        probability: of the entries' tokens.
        forgetting: the slowest rate of it.
        BLOCK: entries read at once.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    lane, way, k = tl.arange(0, BLOCK * ORDERS), tl.arange(0, 4), tl.arange(0, WIDEST)
    for begin in range(0, entries, BLOCK):
        number = begin * ORDERS + lane
        there = number < entries * ORDERS
        start = tl.load(starts + number, mask=there, other=-1)
        key = tl.load(entry_keys + number, mask=there, other=0)
        token = tl.load(entry_tokens + number // ORDERS, mask=there, other=-1)
        mine = (start >= 0) & ((start // 4) % programs == program)
        left = tl.sum(mine.to(tl.int32), 0)
        while left > 0:
            at = tl.min(tl.where(mine, lane, _NOWHERE), 0)
            one = lane == at
            its_key, its_start = tl.sum(tl.where(one, key, 0), 0), tl.sum(tl.where(one, start, 0), 0)
            its_token = tl.sum(tl.where(one, token, 0), 0)
            kept_keys = tl.load(keys + its_start + way)
            held = tl.sum((kept_keys == its_key).to(tl.int32), 0) > 0
            age = tl.where(kept_keys == 0, -1, tl.load(stamps + its_start + way).to(tl.int64))
            age = tl.where(held, tl.where(kept_keys == its_key, -1, _NEVER), age)
            oldest = tl.min(age, 0)
            slot = its_start + tl.min(tl.where(age == oldest, way, 4), 0)
            count = tl.where(held, tl.load(counts + slot), 0.0) + 1.0
            step = tl.maximum(1.0 / count, forgetting)
            place, inside = value + slot * kept + k, k < kept
            ids = tl.where(held, tl.load(successors + place, mask=inside, other=-1), -1)
            mass = tl.where(held, tl.load(weights + place, mask=inside, other=0.0), 0.0) * (1.0 - step)
            gain = step * probability
            same = inside & (ids == its_token)
            weakest = tl.min(tl.where(inside, mass, float("inf")), 0)
            put = inside & (mass == weakest)
            put = (k == tl.min(tl.where(put, k, WIDEST), 0)) & (gain > mass)
            known = tl.sum(same.to(tl.int32), 0) > 0
            mass = tl.where(known, tl.where(same, mass + gain, mass), tl.where(put, gain, mass))
            ids = tl.where(put & (known == 0), its_token, ids)
            tl.store(successors + place, ids, mask=inside)
            tl.store(weights + place, mass, mask=inside)
            tl.store(keys + slot, its_key)
            tl.store(stamps + slot, clock)
            tl.store(counts + slot, count)
            tl.debug_barrier()  # the next one may be in the same slot
            mine = mine & (lane != at)
            left -= 1


@triton.jit(do_not_specialize=["count"])  # they change from step to step
def calibrate(
    classes, every, sequences, said, paths, rows, emitted, refused, count, requests, class_edges,
    CLASS_KEPT: tl.constexpr, CLASS_PRIOR: tl.constexpr, SEQUENCE_KEPT: tl.constexpr, ALL_KEPT: tl.constexpr,
    LONGEST: tl.constexpr,
):  # fmt: skip
    """Take in what became of the last drafts, as `aded.budget.Acceptance` does; one program.

    Args:
        classes: float32, (2, 3, 16): tokens accepted and tokens expected by depth and probability.
        every: float32, (2,): of all.
        sequences: float32, (2, requests).
        said: see `observe`; grows by what each request emitted.
        paths: float32, (requests, longest): what was drafted.
        emitted, refused: int32, (rows,): tokens each emitted, and drafted ones that were verified and not accepted.
        count: rows.
        class_edges: float32, (16,).
    """
    lane = tl.arange(0, 64)
    inside = lane < 48
    kept = tl.load(classes + lane, mask=inside, other=0.0)
    wanted = tl.load(classes + 48 + lane, mask=inside, other=1.0)
    all_kept, all_wanted = tl.load(every), tl.load(every + 1)
    first_kept, first_wanted, first_factor = kept, wanted, all_kept / all_wanted  # what the drafts were corrected by
    for row in range(count):
        request, n = tl.load(rows + row).to(tl.int64), tl.load(emitted + row)
        tl.store(said + request, tl.load(said + request) + n)
        verified = tl.where(n > 0, n + tl.load(refused + row) - 1, 0)
        mine, theirs = tl.load(sequences + request), tl.load(sequences + requests + request)
        factor = mine / theirs * first_factor
        total, expected, accepted, above = factor * 0, factor * 0, factor * 0, factor * 0 + 1.0
        before_kept, before_wanted = kept, wanted  # all tokens of a draft count before any is learned
        for depth in range(LONGEST):
            path = tl.load(paths + request * LONGEST + depth)
            here = lane == class_of(path, depth, class_edges)
            a, b = tl.sum(tl.where(here, before_kept, 0.0), 0), tl.sum(tl.where(here, before_wanted, 0.0), 0)
            likely = tl.minimum(path * a / b, 1.0)
            a, b = tl.sum(tl.where(here, first_kept, 0.0), 0), tl.sum(tl.where(here, first_wanted, 0.0), 0)
            above = tl.minimum(above, tl.minimum(path * a / b, 1.0) * factor)
            counts = (depth < verified) & (path > 0)
            agreed = (depth < n - 1).to(tl.float32)
            total += tl.where(counts, above, 0.0)
            expected += tl.where(counts, likely, 0.0)
            accepted += tl.where(counts, agreed, 0.0)
            faded = (1.0 - CLASS_KEPT) * CLASS_PRIOR
            kept = tl.where(here & counts, CLASS_KEPT * kept + faded + agreed, kept)
            wanted = tl.where(here & counts, CLASS_KEPT * wanted + faded + path, wanted)
        if (verified > 0) & (total > 0):
            tl.store(sequences + request, SEQUENCE_KEPT * mine + accepted)
            tl.store(sequences + requests + request, SEQUENCE_KEPT * theirs + expected)
            all_kept = ALL_KEPT * all_kept + accepted
            all_wanted = ALL_KEPT * all_wanted + total
    tl.store(classes + lane, kept, mask=inside)
    tl.store(classes + 48 + lane, wanted, mask=inside)
    tl.store(every, all_kept)
    tl.store(every + 1, all_wanted)
