"""The likeliest chain of each request, one program a request: what `aded.search.chains` does on the host."""

from __future__ import annotations

import triton
import triton.language as tl

from aded.engines.device.lookup import find, first_hash, longer_hash, places_of, read

_UNREAD = tl.constexpr(0.05)  # of the mass may stay unread, as on the host
_NOWHERE = tl.constexpr(2**30)


@triton.jit
def class_of(path, depth, class_edges):
    """The class of a token by its path's probability and its depth, of 3 x 16; see `aded.budget.acceptance`.

    Args:
        class_edges: float32, (16,), infinite where there are fewer.
    """
    beyond = tl.sum((path > tl.load(class_edges + tl.arange(0, 16))).to(tl.int32), 0)
    return tl.minimum((depth + 1) // 2, 2) * 16 + beyond


@triton.jit
def likeliest(ids, mass, COUNT: tl.constexpr, PLACES: tl.constexpr, WIDEST: tl.constexpr):
    """The token with the most mass over all places, and its mass; of several, the one that is read first."""
    place, lane = tl.arange(0, PLACES), tl.arange(0, WIDEST)
    sums = tl.zeros((PLACES, WIDEST), tl.float32)
    for e in range(COUNT):
        one = (place == e)[:, None]
        theirs = tl.sum(tl.where(one, ids, 0), 0)
        more = tl.sum(tl.where(one, mass, 0.0), 0)
        same = ids[:, :, None] == theirs[None, None, :]
        sums += tl.sum(tl.where(same, more[None, None, :], 0.0), 2)
    best = tl.max(tl.max(sums, 1), 0)
    number = place[:, None] * WIDEST + lane[None, :]
    first = tl.min(tl.min(tl.where(sums == best, number, _NOWHERE), 1), 0)
    return tl.sum(tl.sum(tl.where(number == first, ids, 0), 1), 0), best


@triton.jit(do_not_specialize=["stride"])  # or the first step would compile again
def draft(
    drafts,
    likely,
    paths,
    rows,
    emitted,
    ends,
    tokens,
    stride,
    groups,
    asked,
    keys,
    counts,
    successors,
    weights,
    layout,
    shares,
    edges,
    classes,
    class_edges,
    every,
    sequences,
    requests,
    max_length,
    vocabulary,
    min_probability,
    limit,
    LONGEST: tl.constexpr,
    PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    COUNT: tl.constexpr,
    PLACES: tl.constexpr,
    LAYERS: tl.constexpr,
    WIDEST: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Write each row's draft, how likely each of its tokens is to be accepted if those before it were, and its paths.

    Args:
        drafts, likely: int64 and float32, (rows, longest): written; past an end stand the request's last token and 0.
        paths: float32, (requests, longest): path probabilities by request, written; 0 past an end.
        rows: int32, (rows,): the request of each.
        emitted, ends: int32, (rows,): tokens each emitted in this step, and all it has.
        tokens: int32, (requests, stride).
        groups, asked: int32, (requests,): see `DeviceDrafter`.
        keys ... shares: see `DeviceTables`; edges: see `aded.engines.device.lookup.read`.
        classes, class_edges, every, sequences: see `aded.engines.device.learning.calibrate`.
        requests: as many as can run.
        max_length: tokens of the longest sequence the model takes.
        vocabulary: ids are below it.
        min_probability: a draft ends before its path is less likely.
        limit: most tokens of a draft, up to longest.
        LONGEST, PADDED: tokens of a draft, and the next power of two.
        WIDTH, SPAN: tokens of context, and a power of two of no less than both together.
        COUNT, PLACES, LAYERS: places, the next power of two, and tables that a request reads.
        WIDEST, CELLS: successors of a slot, and cells of a place, powers of two.
    """
    row = tl.program_id(0)
    request = tl.load(rows + row).to(tl.int64)
    group, end = tl.load(groups + request), tl.load(ends + row)
    most = tl.minimum(max_length - end - 1, limit)
    most = tl.where((tl.load(emitted + row) > 0) & (tl.load(asked + request) > 0), most, 0)
    lane = tl.arange(0, SPAN)
    at = end - WIDTH + lane
    known = (lane < WIDTH) & (at >= 0)
    text = tl.load(tokens + request * stride + at, mask=known, other=-1)
    last = tl.sum(tl.where(lane == WIDTH - 1, text, 0), 0)
    place, deep = tl.arange(0, PLACES), tl.arange(0, PADDED)
    first, slots, start, kept, order = places_of(layout, group, request, COUNT, PLACES, LAYERS)
    cells = shares + (group * PLACES + place) * CELLS
    factor = tl.load(sequences + request) / tl.load(sequences + requests + request)
    factor = factor * tl.load(every) / tl.load(every + 1)
    out = tl.zeros((PADDED,), tl.int32) + last
    out_paths, out_likely = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32)
    path, above, depth = factor * 0 + 1.0, factor * 0 + 1.0, end * 0
    going = most > 0
    while going:
        h = first_hash(last)
        key = tl.where(order == 0, h, 0)
        whole = going
        for back in range(1, WIDTH + 1):
            token = tl.sum(tl.where(lane == WIDTH + depth - back, text, 0), 0)
            whole = whole & (token >= 0)
            h = longer_hash(h, token)
            key = tl.where((order == back) & whole, h | 1, key)
        slot = find(keys, first, slots, key)
        ids, mass, there, total, cell = read(counts, successors, weights, edges, slot, start, kept, order, WIDEST)
        share = tl.where(there, tl.load(cells + cell, mask=there, other=0.0), 0.0)
        free = tl.cumprod(1.0 - share, 0) / (1.0 - share)  # when a place is read
        scale = tl.where(free > _UNREAD, free * share / total, 0.0)
        token, prob = likeliest(ids, mass * scale[:, None], COUNT, PLACES, WIDEST)
        going = (token < vocabulary) & (prob >= min_probability / path)
        path = path * tl.minimum(prob, 1.0)
        of = class_of(path, depth, class_edges)
        by_class = tl.minimum(path * tl.load(classes + of) / tl.load(classes + 48 + of), 1.0)
        certain = tl.minimum(above, by_class * factor)
        here = (deep == depth) & going
        out = tl.where(here, token, out)
        out_paths = tl.where(here, path, out_paths)
        out_likely = tl.where(here, certain / above, out_likely)
        text = tl.where(lane == WIDTH + depth, token, text)
        above = certain
        depth += 1
        going = going & (depth < most)
    inside = deep < LONGEST
    tl.store(drafts + row * LONGEST + deep, out.to(tl.int64), mask=inside)
    tl.store(likely + row * LONGEST + deep, out_likely, mask=inside)
    tl.store(paths + request * LONGEST + deep, out_paths, mask=inside)
