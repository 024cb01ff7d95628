"""Whether residuals look like noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .products import sum_of_squares

Array = NDArray[Any]
MOST_CORRELATION, MANY_SIGMA = 0.4, 4.0  # of neighbours; standard deviations of that of as many values of noise


def correlation(r: Array, seen: Array) -> tuple[float, int]:
    """Of residuals r (K, T, p), that of values next to each other in time, near 0 for noise; and of how many pairs.

    Source: the ratio of Durbin & Watson (1950), Biometrika 37, 409, is 2 (1 - correlation).
    """
    everywhere = np.broadcast_to(seen, r.shape)
    both = everywhere[:, 1:] & everywhere[:, :-1]
    n_pairs, total = int(np.count_nonzero(both)), sum_of_squares(r)
    if n_pairs == 0 or total == 0:
        return 0.0, n_pairs
    products = float((r[:, 1:] * r[:, :-1] * both).sum())
    return products / n_pairs / (total / int(np.count_nonzero(everywhere))), n_pairs


def is_noise(r: Array, seen: Array) -> bool:
    """Whether residuals r (K, T, p) are as little alike from time to time as noise is."""
    rho, n_pairs = correlation(r, seen)
    return rho <= min(MOST_CORRELATION, MANY_SIGMA / np.sqrt(max(1, n_pairs)))
