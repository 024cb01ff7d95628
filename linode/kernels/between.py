"""Times between equally spaced nodes: the polynomials that take states from each node to the times around it.

Times t = (k + s) H, |s| <= 1/2, are grouped by their node k, so that all polynomials are products of small matrices.
`SharedTimes` are those of all trajectories: one product a node. `OwnTimes` are other ones for each: groups of one size,
padded, all in one call. NumPy arrays.
Shapes: terms W (S, N, R, N_TERMS, n), z and g (S, R, T, n); see `nodes`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import products, scratch
from .nodes import INVERSE_FACTORIALS, N_TERMS

Array = NDArray[Any]
SIZES = np.array([1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64])  # of groups
MOST_ROWS, MOST_KEPT = 2**13, 2**16  # of one product; with polynomials that are made once
ROWS_PER_GROUP = 20  # that take as long as a group beyond the first of its node: its terms are copied


class SharedTimes:
    """Times t (T,) of all trajectories, as runs of rows from one node."""

    def __init__(self, t: Array, H: float, shift: float) -> None:
        k, self.s = split(t, H)
        self.shift = shift
        self.n_nodes = int(k.max()) + 1
        self.order = None if (k[1:] >= k[:-1]).all() else np.argsort(k, kind="stable")
        if self.order is not None:
            k, self.s = k[self.order], self.s[self.order]
        self.M = monomials(self.s, shift) if len(t) <= MOST_KEPT else None
        edges = np.searchsorted(k, np.arange(self.n_nodes + 1)).tolist()
        self.runs = [
            (node, slice(a, min(a + MOST_ROWS, stop)), a == start)
            for node, (start, stop) in enumerate(pairwise(edges))
            for a in range(start, stop, MOST_ROWS)
        ]
        self.is_everywhere = sum(is_first for _, _, is_first in self.runs) == self.n_nodes

    def _monomials(self, rows: slice) -> Array:
        return monomials(self.s[rows], self.shift) if self.M is None else self.M[:, rows]

    def states(self, W: Array, z: Array) -> None:
        """z from the terms at the nodes."""
        ordered = z if self.order is None else np.empty_like(z)
        for node, rows, _ in self.runs:
            products(self._monomials(rows).T, W[:, node], out=ordered[:, :, rows])
        if self.order is not None:
            z[:, :, self.order] = ordered

    def gather(self, g: Array) -> Array:
        """The gradient with respect to the terms, in scratch memory."""
        S, R, _, n = g.shape
        if self.order is not None:
            g = g[:, :, self.order]
        gW = scratch((S, self.n_nodes, R, N_TERMS, n), g.dtype)
        if not self.is_everywhere:
            gW[:] = 0
        for node, rows, is_first in self.runs:
            if is_first:
                products(self._monomials(rows), g[:, :, rows], out=gW[:, node])
            else:
                gW[:, node] += products(self._monomials(rows), g[:, :, rows])
        return gW


class OwnTimes:
    """Times t (S, R, T) of each trajectory.

    Every node of every trajectory has a group of rows, and further ones where its times are more than fit; time i has
    row `row[i]`, and row j time `time[j]`, or as padding any of the same trajectory.
    """

    def __init__(self, t: Array, H: float, shift: float) -> None:
        k, s = split(t, H)
        (S, R, T), N = t.shape, int(k.max()) + 1
        self.shape, self.n_nodes, self.n_cells = t.shape, N, S * R * N
        cell = (k.reshape(-1, T) + np.arange(0, self.n_cells, N)[:, None]).reshape(-1)  # by trajectory, then by node
        order = None if (cell[1:] >= cell[:-1]).all() else np.argsort(cell, kind="stable")
        counts = np.bincount(cell, minlength=self.n_cells)
        self.size = L = _size(counts)
        further = np.arange(L)
        # cells as the terms have them, by node, then by trajectory
        ends, counts_of = (x.reshape(S, R, N).swapaxes(1, 2).reshape(-1) for x in (np.cumsum(counts), counts))
        start = ends - counts_of
        self.crowded = (counts_of > L).nonzero()[0]
        n_more = -(-counts_of[self.crowded] // L) - 1
        self.first_more, self.more = np.cumsum(n_more) - n_more, np.repeat(self.crowded, n_more)
        nth = np.arange(len(self.more)) - np.repeat(self.first_more, n_more) + 1
        start = np.concatenate([start, start[self.more] + L * nth])
        count = np.minimum(np.concatenate([counts_of, counts_of[self.more] - L * nth]), L)
        is_time = further < count[:, None]
        last = np.broadcast_to((np.arange(1, S * R + 1) * T - 1).reshape(S, 1, R), (S, N, R)).reshape(-1)
        last = np.concatenate([last, last[self.more]])
        time = np.minimum(start[:, None] + np.minimum(further, count[:, None]), last[:, None])
        self.time = (time if order is None else order.take(time)).reshape(-1)
        self.row = np.empty_like(cell)
        self.row[self.time[is_time.reshape(-1)]] = is_time.reshape(-1).nonzero()[0]
        self.M = (
            monomials(s.reshape(-1).take(self.time), shift, is_time.reshape(-1)).reshape(N_TERMS, -1, L).swapaxes(0, 1)
        )

    def states(self, W: Array, z: Array) -> None:
        """z from the terms at the nodes."""
        terms, rows, n = W.reshape(self.n_cells, N_TERMS, -1), self.M.swapaxes(1, 2), W.shape[-1]
        padded = np.empty((len(rows), self.size, n), W.dtype)
        products(rows[: self.n_cells], terms, out=padded[: self.n_cells])
        if len(self.more):
            products(rows[self.n_cells :], terms[self.more], out=padded[self.n_cells :])
        if z.flags.c_contiguous:
            padded.reshape(-1, n).take(self.row, 0, out=z.reshape(-1, n), mode="clip")
        else:
            z[:] = padded.reshape(-1, n).take(self.row, 0).reshape(z.shape)

    def gather(self, g: Array) -> Array:
        """The gradient with respect to the terms, in scratch memory."""
        (S, R, _), n = self.shape, g.shape[-1]
        groups = g.reshape(-1, n).take(self.time, 0).reshape(len(self.M), self.size, n)
        gW = scratch((self.n_cells, N_TERMS, n), g.dtype)
        products(self.M[: self.n_cells], groups[: self.n_cells], out=gW)
        if len(self.more):
            more = products(self.M[self.n_cells :], groups[self.n_cells :])
            gW[self.crowded] += np.add.reduceat(more, self.first_more)
        return gW.reshape(S, self.n_nodes, R, N_TERMS, n)


def split(t: Array, H: float) -> tuple[Array, Array]:
    """The node of every time, and s: t = (k + s) H."""
    k = np.rint(t * (1 / H))
    return k.astype(np.int64), (t - k * H) * (1 / H)


def monomials(s: Array, shift: float, is_time: Any = None) -> Array:
    """exp(shift s) s^j / j!, (N_TERMS, len(s)); 0 where it is no time."""
    M = np.empty((N_TERMS, len(s)))
    M[0], M[1] = 1, s
    known = 2
    while known < N_TERMS:
        more = min(known - 1, N_TERMS - known)
        np.multiply(M[1 : more + 1], M[known - 1], out=M[known : known + more])
        known += more
    M *= INVERSE_FACTORIALS[:N_TERMS, None]
    if shift or is_time is not None:
        factor = np.exp(shift * s)
        M *= factor if is_time is None else factor * is_time
    return M


def _size(counts: Array) -> int:
    """Of the groups for cells with so many times each, that takes the least work."""
    histogram = np.bincount(counts)
    further = np.maximum(-(-np.arange(len(histogram)) // SIZES[:, None]) - 1, 0) @ histogram
    return int(SIZES[np.argmin((len(counts) + further) * SIZES + ROWS_PER_GROUP * further)])
