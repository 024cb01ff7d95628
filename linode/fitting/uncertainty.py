"""What a covariance of Xi means for its eigenvalues, and names for what data do not determine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.linalg import lapack

from .products import matmul
from .rates import Factors

Array = NDArray[Any]
N_SAMPLES = 128  # each with its mirror image
MOST_NAMED, MOST_TERMS = 3, 4
FAR = 6.0  # standard errors between eigenvalues, from which on the first order is enough
SMALL = 0.1  # of the largest coefficient of a direction


def covariances_by_rates(factors: Factors, theta: Array, covariance: Array, lam: Array) -> Array:
    """(n, 2, 2) of (Re, Im) of eigenvalues lam (n,) from the covariance of their factors, by samples of these.

    Smooth where eigenvalues meet. Infinite where the covariance is.
    """
    if not np.isfinite(covariance).all():
        return np.full((len(lam), 2, 2), np.inf)
    moves = draws(covariance)
    return spread(factors.eigenvalues(np.concatenate([theta + moves, theta - moves])), lam)


def covariances_by_matrix(Xi: Array, lam: Array, covariance: Array) -> Array:
    """(n, 2, 2) of (Re, Im) of eigenvalues lam (n,) from the covariance (n^2, n^2) of Xi.

    To first order where they are far apart, else by samples of Xi. Infinite where the covariance is.
    """
    n = len(lam)
    if not np.isfinite(covariance).all():
        return np.full((n, 2, 2), np.inf)
    first, gap = first_order(Xi, lam, covariance), np.abs(lam[:, None] - lam) + np.diag(np.full(n, np.inf))
    near = ~(np.sqrt(np.maximum(first.trace(axis1=1, axis2=2), 0.0)) * FAR <= gap.min(-1))
    if near.any():
        moves = draws(covariance).reshape(-1, n, n)
        first[near] = spread(np.linalg.eigvals(np.concatenate([Xi + moves, Xi - moves])), lam)[near]
    return first


def first_order(Xi: Array, lam: Array, covariance: Array) -> Array:
    """By d lambda = w^T dXi v with w^T v = 1; infinite where there is no basis of eigenvectors."""
    own, V = np.linalg.eig(Xi)
    try:
        W = np.linalg.inv(V)
    except np.linalg.LinAlgError:
        return np.full((len(lam), 2, 2), np.inf)
    order = np.abs(lam[:, None] - own).argmin(-1)
    slopes = (W[order, :, None] * V.T[order, None, :]).reshape(len(lam), -1)
    parts = np.stack([slopes.real, slopes.imag], 1)  # (n, 2, n^2)
    return parts @ covariance @ parts.swapaxes(1, 2)


def draws(covariance: Array) -> Array:
    """(N_SAMPLES, k), the same ones each time."""
    factor, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    root = np.zeros_like(covariance)
    root[pivots - 1, :rank] = np.tril(factor)[:, :rank]
    return matmul(np.random.default_rng(0).standard_normal((N_SAMPLES, rank)), root[:, :rank].T)


def spread(moved: Array, lam: Array) -> Array:
    """(n, 2, 2) of eigenvalues moved (S, n) about lam (n,)."""
    off = matched(moved, lam) - lam
    parts = np.stack([off.real, off.imag], -1)  # (S, n, 2)
    found = np.einsum("sni,snj->nij", parts, parts) / len(parts)
    # what is known of one of a pair is known of the other
    mirror = np.abs(lam[:, None] - lam.conj()).argmin(-1)
    return (found + found[mirror] * np.array([[1, -1], [-1, 1]])) / 2


def matched(moved: Array, lam: Array) -> Array:
    """Each row of moved (S, n) in the order of lam (n,)."""
    distance = np.abs(moved[:, None, :] - lam[:, None])  # (S, lam, moved)
    nearest = distance.argmin(-1)
    clear = (np.sort(nearest, -1) == np.arange(len(lam))).all(-1)
    for s in np.flatnonzero(~clear):
        nearest[s] = scipy.optimize.linear_sum_assignment(distance[s])[1]  # loaded when it is first asked for
    return np.take_along_axis(moved, nearest, -1)


def names_of(n: int, m: int) -> list[str]:
    """Of the entries of Xi, B and b, row by row."""
    names = [f"Xi[{i}, {j}]" for i in range(n) for j in range(n)]
    return names + [f"B[{i}, {j}]" for i in range(n) for j in range(m)] + [f"b[{i}]" for i in range(n)]


def named_directions(null: Array, names: Sequence[str]) -> list[str]:
    """Directions (k, size) in words; names: of their entries."""
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
    return words
