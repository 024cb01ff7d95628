"""Guesses of Xi and C from inputs and few channels, by projecting later observations on earlier ones.

Of block rows of future outputs, what future inputs explain is removed; what past inputs and outputs explain of the rest
spans the observability matrix. Irregular or missing samples are interpolated, which is good enough for a start.
Source: Verhaegen (1994), Automatica 30, 61 (PO-MOESP); van Overschee & De Moor (1996), Subspace Identification for
Linear Systems, chapter 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..data import Data
from ..products import Array
from .regression import Guess, logarithm

MOST_BLOCKS = 20  # block rows: their cost grows as the cube; by hand
COLUMNS = 2.0  # columns a row at least, so that the projections average noise; by hand


def subspace(data: Data, n: int, delay: float = 0.0) -> Iterator[Guess]:
    """Guesses with Xi and C, from two numbers of block rows; none where there are too few samples."""
    step = data.step
    if step is None:
        h = np.diff(data.t, axis=1)
        step = float(np.median(h[h > 0]))
    pieces = [resampled(data, k, step, data.inputs_at(delay)[k]) for k in range(data.K)]
    p, m = data.p, data.m
    least, total = -(-n // p) + 1, max(len(y) for y, _ in pieces)
    most = 0
    for blocks in range(least, MOST_BLOCKS + 1):
        columns = sum(max(0, len(y) - 2 * blocks + 1) for y, _ in pieces)
        if columns >= COLUMNS * 2 * blocks * (m + p) and 2 * blocks < total:
            most = blocks
    for blocks in sorted({most, (most + least) // 2} if most else set(), reverse=True):
        found = _guess(pieces, n, blocks, step)
        if found is not None:
            yield Guess(f"subspace of {blocks} blocks", found[0], C=found[1])


def resampled(data: Data, k: int, step: float, u: Array) -> tuple[Array, Array]:
    """Observations (N, p) and inputs (N, m) of trajectory k on a uniform grid, by straight lines."""
    count = int(data.counts[k])
    t, y, w = data.t[k, :count], data.y[k, :count], data.w[k, :count]
    grid = t[0] + step * np.arange(int((t[-1] - t[0]) / step * (1 + 1e-9)) + 1)
    columns = [np.interp(grid, t[own], y[own, j]) if own.any() else 0 * grid for j, own in enumerate((w > 0).T)]
    held = np.maximum(np.searchsorted(t, grid + 1e-9 * step, side="right") - 1, 0)
    return np.stack(columns, -1), u[:count][held]


def _guess(pieces: list[tuple[Array, Array]], n: int, blocks: int, step: float) -> tuple[Array, Array] | None:
    """Xi and C in the basis of the observability matrix; None where its rank is below n."""

    def hankel(x: Array, first: int) -> Array:
        columns = len(x) - 2 * blocks + 1
        return np.concatenate([x[first + i : first + i + columns].T for i in range(blocks)])

    long = [(y, u) for y, u in pieces if len(y) >= 2 * blocks]
    future_u, past_u = (np.concatenate([hankel(u, first) for _, u in long], 1) for first in (blocks, 0))
    future_y, past_y = (np.concatenate([hankel(y, first) for y, _ in long], 1) for first in (blocks, 0))
    p = long[0][0].shape[1]
    stack = np.concatenate([future_u, past_u, past_y, future_y])
    size = np.linalg.norm(stack, axis=1, keepdims=True)
    scale = np.where(size > 0, size, 1.0)
    unit = scale[-len(future_y) :].reshape(blocks, p).max(0)  # one for each channel, so that blocks stay comparable
    scale[-len(future_y) :] = np.tile(unit, blocks)[:, None]
    L = np.asarray(np.linalg.qr((stack / scale).T, mode="r")).T
    i, j = len(future_u), len(future_u) + len(past_u) + len(past_y)
    U, s, _ = np.linalg.svd(L[j:, i:j], full_matrices=False)
    if len(s) < n or s[n - 1] <= 1e-12 * s[0]:
        return None
    seen = U[:, :n] * np.sqrt(s[:n])  # C, C A, C A^2, ...
    A = np.linalg.lstsq(seen[:-p], seen[p:], rcond=None)[0]
    Xi = logarithm(A, step)
    return None if Xi is None else (Xi, unit[:, None] * seen[:p])
