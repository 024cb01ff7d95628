"""Channels grouped by the times at which they have values, for `projection`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .data import Data
from .products import Array


@dataclass(frozen=True)
class Channels:
    """G groups of at most q channels; those of a group belong to one trajectory and have proportional weights.

    Channel j of trajectory k is column[k, j] of group[k, j], and its weights are scale[k, j] times those of the group.
    """

    t: Array  # (G, T), times
    y: Array  # (G, T, q), weighted values, 0 where a group has fewer channels
    w: Array  # (G, T), weights, at most 1
    group: Array  # (K, p)
    column: Array  # (K, p)
    scale: Array  # (K, p)

    def coefficients(self, c: Array, k: int) -> Array:
        """(n, p), those of the unweighted channels of trajectory k, from c (G, n, q)."""
        return c[self.group[k], :, self.column[k]].T / self.scale[k]


def make_channels(data: Data) -> Channels:
    K, p = data.K, data.p
    group, column, scale = np.zeros((K, p), int), np.zeros((K, p), int), data.w.max(1)
    ts: list[Array] = []
    ws: list[Array] = []
    ys: list[Array] = []
    for k in range(K):
        shapes = data.w[k] / np.where(scale[k] > 0, scale[k], 1.0)
        if (shapes == shapes[:, :1]).all():
            patterns, inverse = shapes[:, :1], np.zeros(p, int)
        else:
            patterns, inverse = np.unique(shapes, axis=1, return_inverse=True)
            inverse = inverse.ravel()
        for i in range(patterns.shape[1]):
            own = np.flatnonzero(inverse == i)
            group[k, own], column[k, own] = len(ts), np.arange(len(own))
            ts.append(data.t[k])
            ws.append(patterns[:, i])
            ys.append((data.w[k] * data.y[k])[:, own])
    q = max(y.shape[1] for y in ys)
    ys = [np.pad(y, ((0, 0), (0, q - y.shape[1]))) for y in ys]
    return Channels(np.stack(ts), np.stack(ys), np.stack(ws), group, column, np.where(scale > 0, scale, 1.0))
