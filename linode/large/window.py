"""Localised states: products are taken only where a polynomial of some degree can reach.

A polynomial of degree m in a banded Xi carries a vector at most m bandwidths further. So a piece whose vectors are 0
(or far below rounding) but for a range of states runs on that range, widened: point masses of chains need little more
than their surroundings. States only: gradients with respect to z0 need all of Xi.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .series import Expansion

NOTHING = 1e-14  # of the largest entry: smaller ones are taken for 0
WORTH = 0.5  # of all states: larger windows gain nothing


def window(expansion: Expansion, vectors: Sequence[np.ndarray], hops: int) -> slice | None:
    """The states that so many hops reach from the vectors (n, R); None where that is most of them."""
    bandwidth = expansion.B.bandwidth
    n = len(vectors[0])
    if bandwidth is None or 2 * bandwidth * hops >= WORTH * n:
        return None
    is_there = np.zeros(n, bool)
    for v in vectors:
        sizes = np.abs(v)
        is_there |= (sizes > NOTHING * sizes.max(0)).any(1)
    found = np.flatnonzero(is_there)
    if not len(found):
        return None
    low, high = max(int(found[0]) - bandwidth * hops, 0), min(int(found[-1]) + bandwidth * hops + 1, n)
    return slice(low, high) if high - low < WORTH * n else None
