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

from .nodes import INVERSE_FACTORIALS, N_TERMS

Array = NDArray[Any]
SIZES = np.array([1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64])  # of groups
ROWS_PER_GROUP = 20  # that take as long as a group beyond the first of its node: its terms are copied


class SharedTimes:
    """Times t (T,) of all trajectories."""

    def __init__(self, t: Array, H: float) -> None:
        k, s = split(t, H)
        self.n_nodes = int(k.max()) + 1
        self.order = None if (k[1:] >= k[:-1]).all() else np.argsort(k, kind="stable")
        if self.order is not None:
            k, s = k[self.order], s[self.order]
        self.M = monomials(s)
        edges = np.searchsorted(k, np.arange(self.n_nodes + 1)).tolist()
        self.runs = [(node, slice(a, b)) for node, (a, b) in enumerate(pairwise(edges)) if b > a]

    def states(self, W: Array) -> Array:
        """z from the terms at the nodes."""
        z = np.empty((W.shape[0], W.shape[2], self.M.shape[1], W.shape[-1]), W.dtype)
        for node, rows in self.runs:
            np.matmul(self.M[:, rows].T, W[:, node], out=z[:, :, rows])
        if self.order is None:
            return z
        ordered = np.empty_like(z)
        ordered[:, :, self.order] = z
        return ordered

    def gather(self, g: Array) -> Array:
        """The gradient with respect to the terms."""
        S, R, _, n = g.shape
        if self.order is not None:
            g = g[:, :, self.order]
        make = np.empty if len(self.runs) == self.n_nodes else np.zeros
        gW = make((S, self.n_nodes, R, N_TERMS, n), g.dtype)
        for node, rows in self.runs:
            np.matmul(self.M[:, rows], g[:, :, rows], out=gW[:, node])
        return gW


class OwnTimes:
    """Times t (S, R, T) of each trajectory.

    Every node of every trajectory has a group, and further ones where its times are more than fit; time i has a row
    `slot[i]` of the padded groups.
    """

    def __init__(self, t: Array, H: float) -> None:
        k, s = split(t, H)
        (S, R, T), N = t.shape, int(k.max()) + 1
        self.shape, self.n_nodes, self.n_cells = t.shape, N, S * R * N
        first_cell = np.arange(0, self.n_cells, N)[:, None]
        cell = (k.reshape(-1, T) + first_cell).reshape(-1)  # by trajectory and node
        counts = np.bincount(cell, minlength=self.n_cells)
        first, number = (np.cumsum(counts) - counts)[cell], np.arange(len(cell))
        if (cell[1:] >= cell[:-1]).all():
            rank = number - first
        else:
            order = np.argsort(cell, kind="stable")
            rank = np.empty_like(cell)
            rank[order] = number - first[order]
        self.size = L = _size(counts)
        more = np.maximum(-(-counts // L) - 1, 0)
        place = np.arange(self.n_cells).reshape(S, N, R).transpose(0, 2, 1).reshape(-1)  # of each cell among the terms
        self.more = np.repeat(place, more)
        slot = place[cell] * L + rank
        late = (rank >= L).nonzero()[0]
        if len(late):
            further = self.n_cells + (np.cumsum(more) - more)[cell[late]] + rank[late] // L - 1
            slot[late] = further * L + rank[late] % L
        self.slot = slot
        padded = np.zeros((self.n_cells + len(self.more)) * L)
        padded[slot] = s.reshape(-1)
        self.M = monomials(padded).reshape(N_TERMS, -1, L).transpose(1, 0, 2)

    def states(self, W: Array) -> Array:
        """z from the terms at the nodes."""
        terms, rows = W.reshape(self.n_cells, *W.shape[3:]), self.M.swapaxes(1, 2)
        z = np.empty((len(rows), self.size, W.shape[-1]), W.dtype)
        np.matmul(rows[: self.n_cells], terms, out=z[: self.n_cells])
        if len(self.more):
            np.matmul(rows[self.n_cells :], terms[self.more], out=z[self.n_cells :])
        return z.reshape(-1, W.shape[-1])[self.slot].reshape(*self.shape, -1)

    def gather(self, g: Array) -> Array:
        """The gradient with respect to the terms."""
        (S, R, _), n = self.shape, g.shape[-1]
        padded = np.zeros((len(self.M) * self.size, n), g.dtype)
        padded[self.slot] = g.reshape(-1, n)
        groups = padded.reshape(len(self.M), self.size, n)
        gW = self.M[: self.n_cells] @ groups[: self.n_cells]
        if len(self.more):
            np.add.at(gW, self.more, self.M[self.n_cells :] @ groups[self.n_cells :])
        return gW.reshape(S, self.n_nodes, R, N_TERMS, n)


def split(t: Array, H: float) -> tuple[Array, Array]:
    """The node of every time, and s: t = (k + s) H."""
    k = np.rint(t * (1 / H))
    return k.astype(np.int64), (t - k * H) * (1 / H)


def monomials(s: Array) -> Array:
    """s^j / j!, (N_TERMS, len(s))."""
    M = np.empty((N_TERMS, len(s)))
    M[0], M[1] = 1, s
    known = 2
    while known < N_TERMS:
        more = min(known - 1, N_TERMS - known)
        np.multiply(M[1 : more + 1], M[known - 1], out=M[known : known + more])
        known += more
    M *= INVERSE_FACTORIALS[:N_TERMS, None]
    return M


def _size(counts: Array) -> int:
    """Of the groups for cells with so many times each, that takes the least work."""
    histogram = np.bincount(counts)
    further = np.maximum(-(-np.arange(len(histogram)) // SIZES[:, None]) - 1, 0) @ histogram
    return int(SIZES[np.argmin((len(counts) + further) * SIZES + ROWS_PER_GROUP * further)])
