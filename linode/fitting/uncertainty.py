"""Covariances of eigenvalues from that of Xi, and names for directions that the data do not determine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from scipy.linalg import lapack

from .products import Array, matmul
from .rates import Factors

N_SAMPLES = 128  # each with its mirror image: a standard error is then known to 6 %, 1 / sqrt(256)
MOST_NAMED, MOST_TERMS = 3, 4  # directions, and terms of one, in a message; by hand
FAR = 6.0  # standard errors between eigenvalues from which on first order is enough; by hand
SMALL = 0.1  # coefficients below this part of the largest one are not named; by hand


def covariances_by_rates(factors: Factors, theta: Array, covariance: Array, lam: Array) -> Array:
    """Covariances (n, 2, 2) of (Re, Im) of eigenvalues lam (n,) from that of their factors, by samples of these.

    Factors are smooth where eigenvalues meet. The result is infinite where the covariance is.
    """
    if not np.isfinite(covariance).all():
        return np.full((len(lam), 2, 2), np.inf)
    moves = draws(covariance)
    return spread(factors.eigenvalues(np.concatenate([theta + moves, theta - moves])), lam)


def covariances_by_matrix(Xi: Array, lam: Array, covariance: Array) -> Array:
    """Covariances (n, 2, 2) of (Re, Im) of eigenvalues lam (n,) from that of Xi, (n^2, n^2).

    To first order where eigenvalues are far apart, else by samples of Xi. Infinite where the covariance is.
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
    """The same to first order, d lambda = w^T dXi v with w^T v = 1; infinite where Xi has no eigenbasis."""
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
    """Normal samples (N_SAMPLES, k) with this covariance, from a fixed seed."""
    factor, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    root = np.zeros_like(covariance)
    root[pivots - 1, :rank] = np.tril(factor)[:, :rank]
    return matmul(np.random.default_rng(0).standard_normal((N_SAMPLES, rank)), root[:, :rank].T)


def spread(moved: Array, lam: Array) -> Array:
    """Covariances (n, 2, 2) about lam (n,) of moved eigenvalues (S, n), each row in any order; infinite if one is."""
    if not np.isfinite(moved).all():
        return np.full((len(lam), 2, 2), np.inf)
    off = matched(moved, lam) - lam
    parts = np.stack([off.real, off.imag], -1)  # (S, n, 2)
    found = np.einsum("sni,snj->nij", parts, parts) / len(parts)
    # conjugate eigenvalues share their variance
    mirror = np.abs(lam[:, None] - lam.conj()).argmin(-1)
    return (found + found[mirror] * np.array([[1, -1], [-1, 1]])) / 2


def matched(moved: Array, lam: Array) -> Array:
    """Each row of moved (S, n) in the order in which its eigenvalues are nearest to lam (n,)."""
    distance = np.abs(moved[:, None, :] - lam[:, None])  # (S, lam, moved)
    nearest = distance.argmin(-1)
    clear = (np.sort(nearest, -1) == np.arange(len(lam))).all(-1)
    for s in np.flatnonzero(~clear):
        nearest[s] = scipy.optimize.linear_sum_assignment(distance[s])[1]  # scipy loads it when it is first used
    return np.take_along_axis(moved, nearest, -1)


def names_of(n: int, m: int) -> list[str]:
    """Names of the entries of Xi, B and b, row by row."""
    names = [f"Xi[{i}, {j}]" for i in range(n) for j in range(n)]
    return names + [f"B[{i}, {j}]" for i in range(n) for j in range(m)] + [f"b[{i}]" for i in range(n)]


def named_directions(null: Array, names: Sequence[str]) -> list[str]:
    """Directions (k, size) in words, such as "Xi[0, 1] - 2 Xi[1, 0]"; names: of their entries."""
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
