"""Attention whose result for a query depends on that query and what it sees, in order, and on nothing else.

Not on other queries, on where siblings lie, on padding or on threads. In bfloat16 the arithmetic is that of torch's own
kernel for one query (`scaled_dot_product_attention` on CPUs with AVX-512 or AVX2), so that the bits are its bits: keys
in blocks of 512 with a running maximum; the weights' exponential by a polynomial for whole groups of 16 keys, or of 8,
and for the rest of a block that of float64, rounded, while blocks are brought to one scale by the C library's in
float32. Scores
and weighted values are the matrix library's, which sums in one order on some processors (`fours`) and in another on
others (`pairs`). In float32 (`floats`) the order is our own: the library's depends on more than a query.

Queries that share keys are computed together, up to eight at a time, each in sums of its own.
"""

from aded.kernels.attention.mask import visible
from aded.kernels.attention.share import EIGHTS, FLOATS, FOURS, PAIRS, share

__all__ = ["EIGHTS", "FLOATS", "FOURS", "PAIRS", "share", "visible"]
