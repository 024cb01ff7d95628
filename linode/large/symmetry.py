"""The diagonal D for which D^-1 Xi D is Hermitian, where there is one.

Reversible Markov chains have it (detailed balance), and advection with diffusion on a line. a_ij a_ji > 0 on every
edge gives log(d_j / d_i) = log(|a_ji| / |a_ij|) / 2; the sums of these round all cycles must be 0.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from .linear import Matrix, Pattern

LARGEST_SPREAD = 1e4  # of d: it multiplies errors
ROUNDING = 1e-10  # of log d


def scaling(A: Matrix) -> np.ndarray | None:
    """d (n,), or None where there is none, or one whose largest and smallest entry are too far apart."""
    pattern, data = A.pattern, A.data
    if not pattern.is_symmetric or not len(data):
        return None
    mirror = data[pattern.transposition[2]]
    product = data * mirror
    off = (pattern.indices != pattern.rows) & ((data != 0) | (mirror != 0))
    if data.dtype.kind == "c":
        if data.imag[pattern.diagonal].any() or (np.abs(product.imag) > 1e-14 * np.abs(product)).any():
            return None
        product = product.real
    if not (product[off] > 0).all():
        return None
    step = np.zeros(len(data))
    step[off] = np.log(np.abs(mirror[off] / data[off])) / 2  # log d of the column less that of the row
    height = heights(pattern, off, step)
    if float(np.ptp(height)) > np.log(LARGEST_SPREAD):
        return None
    if float(np.abs(step - (height[pattern.indices] - height[pattern.rows]) * off).max()) > ROUNDING:
        return None
    return np.exp(height - (height.max() + height.min()) / 2)


def heights(pattern: Pattern, is_edge: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Heights whose differences along a spanning tree of every component are the steps, each component from 0."""
    n, indptr, columns = pattern.n, pattern.indptr, pattern.indices
    if is_edge.sum() + len(pattern.diagonal) != len(columns):  # entries that are 0 are no edges
        graph = csr_array((np.ones(int(is_edge.sum())), (pattern.rows[is_edge], columns[is_edge])), shape=(n, n))
        indptr, columns_of_graph = graph.indptr, graph.indices
    else:
        columns_of_graph = columns
    graph = csr_array((np.ones(len(columns_of_graph)), columns_of_graph, indptr), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    roots = np.unique(labels, return_index=True)[1]
    # one node more, with an edge to a node of each component: one search then reaches all
    wide = csr_array(
        (
            np.ones(len(columns_of_graph) + len(roots)),
            np.concatenate([columns_of_graph, roots]),
            np.append(indptr, len(columns_of_graph) + len(roots)),
        ),
        shape=(n + 1, n + 1),
    )
    _, parent = breadth_first_order(wide, n, directed=True)
    parent = parent[:n]
    to_parent = np.flatnonzero((columns == parent[pattern.rows]) & is_edge)
    height = np.zeros(n + 1)
    height[pattern.rows[to_parent]] = -step[to_parent]
    above = np.append(parent, n)
    while (above != n).any():  # pointer doubling: log2 of the depth passes, where level by level takes the depth
        height, above = height + height[above], above[above]
    return height[:n] + height[n]
