"""Whether residuals look like white noise."""

from __future__ import annotations

import numpy as np

from .products import Array, sum_of_squares

MOST_CORRELATION = 0.4  # of neighbours; by hand: for few values, whose bound by noise is weaker
MANY_SIGMA = 4.0  # correlation in its standard deviations for white noise, 1 / sqrt(pairs): passed once in 30,000


def correlation(r: Array, seen: Array) -> tuple[float, int]:
    """Correlation of values of r (K, T, p) that follow each other in time, 0 on average for noise; the number of pairs.

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
    """Whether the correlation of residuals r (K, T, p) in time is as small as that of noise."""
    rho, n_pairs = correlation(r, seen)
    return rho <= min(MOST_CORRELATION, MANY_SIGMA / np.sqrt(max(1, n_pairs)))
