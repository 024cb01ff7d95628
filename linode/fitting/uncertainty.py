"""What a covariance of Xi means for its eigenvalues, and names for what data do not determine."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.linalg import lapack

from ..kernels.blocked import matmul

Array = NDArray[Any]
N_SAMPLES = 128  # each with its mirror image
MOST_NAMED, MOST_TERMS = 3, 4
SMALL = 0.1  # of the largest coefficient of a direction


def eigenvalue_covariances(Xi: Array, lam: Array, covariance: Array) -> Array:
    """(n, 2, 2) of (Re, Im) of eigenvalues lam (n,), from samples of Xi, which hold for defective ones too.

    Infinite where the covariance (n^2, n^2) is.
    """
    n = len(lam)
    if not np.isfinite(covariance).all():
        return np.full((n, 2, 2), np.inf)
    factor, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    root = np.zeros_like(covariance)
    root[pivots - 1, :rank] = np.tril(factor)[:, :rank]
    draws = np.random.default_rng(0).standard_normal((N_SAMPLES, rank))
    moves = matmul(draws, root[:, :rank].T).reshape(-1, n, n)
    moved = np.linalg.eigvals(np.concatenate([Xi + moves, Xi - moves]))
    off = matched(moved, lam) - lam
    parts = np.stack([off.real, off.imag], -1)  # (samples, n, 2)
    spread = np.einsum("sni,snj->nij", parts, parts) / len(parts)
    # what is known of one of a pair is known of the other
    mirror = np.abs(lam[:, None] - lam.conj()).argmin(-1)
    return (spread + spread[mirror] * np.array([[1, -1], [-1, 1]])) / 2


def matched(moved: Array, lam: Array) -> Array:
    """Each row of moved (S, n) in the order of lam (n,)."""
    distance = np.abs(moved[:, None, :] - lam[:, None])  # (S, lam, moved)
    nearest = distance.argmin(-1)
    clear = (np.sort(nearest, -1) == np.arange(len(lam))).all(-1)
    for s in np.flatnonzero(~clear):
        nearest[s] = scipy.optimize.linear_sum_assignment(distance[s])[1]  # loaded when it is first asked for
    return np.take_along_axis(moved, nearest, -1)


def named_directions(null: Array, n: int, m: int) -> str:
    """Directions (k, size) in the space of Xi, B and b, in words."""
    names = [f"Xi[{i}, {j}]" for i in range(n) for j in range(n)]
    names += [f"B[{i}, {j}]" for i in range(n) for j in range(m)] + [f"b[{i}]" for i in range(n)]
    words = []
    for direction in null[:MOST_NAMED]:
        largest = np.abs(direction).max()
        order = np.argsort(-np.abs(direction), kind="stable")
        terms = [i for i in order if abs(direction[i]) >= SMALL * largest]
        ratio = direction / direction[order[0]]
        shown = [f"{'+' if ratio[i] > 0 else '-'} {abs(ratio[i]):.2g} {names[i]}" for i in terms[1:MOST_TERMS]]
        words.append(" ".join([names[order[0]], *shown, *(["..."] if len(terms) > MOST_TERMS else [])]))
    if len(null) > MOST_NAMED:
        words.append(f"and {len(null) - MOST_NAMED} more")
    return ", ".join(words)
