"""What the device's kernels share: the hash of a context, where it can be kept, and what is kept there.

The same as `aded.representative.lookup` and `.interpolation` do on the host, for all places that a request reads at
once (`DeviceTables` says what a place is). Vectors of places are as long as the next power of two; the rest of their
lanes read nothing. The hash is that of the host in int64, which is the same arithmetic as in uint64 but for shifts.
"""

from __future__ import annotations

import triton
import triton.language as tl

_FIRST = tl.constexpr(0x9E3779B97F4A7C15 - 2**64)
_MIX = tl.constexpr(0xBF58476D1CE4E5B9 - 2**64)
_MIX_AGAIN = tl.constexpr(0x94D049BB133111EB - 2**64)
_LOW_35 = tl.constexpr(2**35 - 1)
_LOW_32 = tl.constexpr(2**32 - 1)
_WAYS = tl.constexpr(4)
_PASSAGE = tl.constexpr(8)
_PER_COUNT = tl.constexpr(6)  # cells of slots that were seen about as often


@triton.jit
def first_hash(token):
    """The hash of no context; of any token, for its shape."""
    return token.to(tl.int64) * 0 + _FIRST


@triton.jit
def longer_hash(h, token):
    """The hash of a context with one token more in front."""
    h = (h ^ (token.to(tl.int64) + 1)) * _MIX
    h = h ^ ((h >> 29) & _LOW_35)
    h = h * _MIX_AGAIN
    return h ^ ((h >> 32) & _LOW_32)


@triton.jit
def bucket(key, slots):
    """The first of the slots of a table of so many in which a key can be."""
    return ((((key >> 32) & _LOW_32) * (slots // _WAYS)) >> 32) * _WAYS


@triton.jit
def places_of(layout, group, request, COUNT: tl.constexpr, PLACES: tl.constexpr, LAYERS: tl.constexpr):
    """What a request of a group reads at each place, the rows of `DeviceTables.layout`: first slot, slots, what to add
    to find successors, how many they are, and the context's length, (places,) each."""
    place = tl.arange(0, PLACES)
    base = layout + group.to(tl.int64) * 5 * PLACES + place
    slots = tl.load(base + PLACES)
    first = tl.load(base) + tl.where((place % LAYERS == 0) & (place < COUNT), request * slots, 0)
    return first, slots, tl.load(base + 2 * PLACES), tl.load(base + 3 * PLACES), tl.load(base + 4 * PLACES)


@triton.jit
def find(keys, first, slots, key):
    """Where each place's table keeps a key, -1 for nowhere: tables of `slots` slots from `first` on, all (places,)."""
    can = (key != 0) & (slots > 0)
    at = (first + bucket(key, slots))[:, None] + tl.arange(0, _WAYS)[None, :]
    there = tl.load(keys + at, mask=can[:, None], other=0)
    return tl.max(tl.where(can[:, None] & (there == key[:, None]), at, -1), 1)


@triton.jit
def read(counts, successors, weights, edges, slot, start, kept, order, WIDEST: tl.constexpr):
    """What is in the slots of all places: ids and weights (places, widest), and of each place whether anything is known
    there, what to divide its weights by, and its cell.

    Args:
        edges: float32, (2, 8): of the cells' counts and of how sure they are; infinite where there are fewer.
        slot: (places,); -1 for none.
        start, kept, order: rows 2 to 4 of the layout.
    """
    there, lane = slot >= 0, tl.arange(0, WIDEST)
    inside = there[:, None] & (lane[None, :] < kept[:, None])
    at = (start + slot * kept)[:, None] + lane[None, :]
    ids = tl.load(successors + at, mask=inside, other=-1)
    mass = tl.load(weights + at, mask=inside, other=0.0)
    count = tl.load(counts + slot, mask=there, other=0.0)
    total, top = tl.sum(mass, 1), tl.max(mass, 1)
    known = total > 0
    total = tl.where(order < _PASSAGE, tl.maximum(total, 1.0), total)
    total = tl.where(known, total, 1.0)
    edge = tl.arange(0, 8)
    often = tl.sum((count[:, None] > tl.load(edges + edge)[None, :]).to(tl.int32), 1)
    sure = tl.sum(((top / total)[:, None] > tl.load(edges + 8 + edge)[None, :]).to(tl.int32), 1)
    return ids, mass, known, total, often * _PER_COUNT + sure
