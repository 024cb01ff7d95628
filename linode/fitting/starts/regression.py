"""Guesses of (Xi, B, b) by linear regression on neighbouring samples of all states.

By the integrated equation; by the trapezoid rule, with rows weighted by 1 or by 1 / gap; and where samples are uniform
by the logarithm of the one-step map, exact without noise (dynamic mode decomposition).
Source: Varah (1982), SIAM J. Sci. Stat. Comput. 3, 28; Schmid (2010), J. Fluid Mech. 656, 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data import Data
from ..products import Array
from ..sensitivity import make_basis, single


@dataclass(frozen=True)
class Guess:
    """A start: B, b and C are None where they are known or do not exist."""

    name: str
    Xi: Array
    B: Array | None = None
    b: Array | None = None
    C: Array | None = None


def regressions(data: Data, bias: bool) -> Iterator[Guess]:
    """Guesses from data whose channels are the states; those that too few samples make infinite are left out."""
    return (guess for guess in _regressions(data, bias) if np.isfinite(guess.Xi).all())


def _regressions(data: Data, bias: bool) -> Iterator[Guess]:
    seen = np.asarray((data.w > 0).all(-1))
    h = np.diff(data.t, axis=1)
    pair = seen[:, 1:] & seen[:, :-1] & (h > 0)
    if not pair.any():
        return
    before, after, gap = data.y[:, :-1][pair], data.y[:, 1:][pair], h[pair][:, None]
    drive = [np.zeros((len(gap), 0))]
    if data.u_between is not None:
        drive.append(data.u_between[pair])
    if bias:
        drive.append(np.ones((len(gap), 1)))
    forcing, n, m = np.concatenate(drive, -1), data.p, data.m

    def guess(name: str, Xi: Array, G: Array) -> Guess:
        return Guess(name, Xi, G[:, :m] if m else None, G[:, m] if bias else None)

    if data.step is not None:
        solution = _least(np.c_[before, forcing], after)
        found = logarithm(solution[:, :n], data.step)
        if found is not None:
            basis = make_basis(found)
            if basis is not None:
                held = ((basis.V * single(basis.lam, np.array(data.step))) @ basis.V_inv).real
                yield guess("one-step map", found, np.linalg.lstsq(held, solution[:, n:], rcond=None)[0])
    yield guess("integrals", *_integrals(data, seen, bias))
    middle = np.c_[(before + after) / 2, forcing]
    for name, weight in (("trapezoid, differences", gap), ("trapezoid, slopes", np.ones_like(gap))):
        solution = _least(weight * middle, weight * (after - before) / gap)
        yield guess(name, solution[:, :n], solution[:, n:])


def _integrals(data: Data, seen: Array, bias: bool) -> tuple[Array, Array]:
    """Xi and the gains from z(t) = z(0) + Xi int z + B int u + b t, by the trapezoid rule."""
    X, Y = [], []
    for k in range(data.K):
        own = seen[k]
        if own.sum() < 3:
            continue
        t, z = data.t[k, own], data.y[k, own]
        h = np.diff(t)[:, None]
        parts = [np.cumsum(h * (z[1:] + z[:-1]) / 2, 0)]
        if data.u_between is not None:
            steps = data.u_between[k] * np.diff(data.t[k])[:, None]
            total = np.vstack([np.zeros((1, data.m)), np.cumsum(steps, 0)])[own]
            parts.append(total[1:] - total[0])
        if bias:
            parts.append(t[1:, None] - t[0])
        rows = np.vstack([np.zeros((1, sum(x.shape[1] for x in parts))), np.concatenate(parts, 1)])
        X.append(rows - rows.mean(0))
        Y.append(z - z.mean(0))
    if not X:
        return np.full((data.p, data.p), np.nan), np.zeros((data.p, 0))
    solution = _least(np.concatenate(X), np.concatenate(Y))
    return solution[:, : data.p], solution[:, data.p :]


def _least(X: Array, Y: Array) -> Array:
    """The least-squares solution (q, k) of Y = X solution^T."""
    size = np.linalg.norm(X, axis=0)
    size = np.where(size > 0, size, 1.0)
    return (np.linalg.lstsq(X / size, Y, rcond=1e-10)[0] / size[:, None]).T


def logarithm(A: Array, h: float) -> Array | None:
    """A real Xi with exp(Xi h) near A; negative eigenvalues of A, which have no real logarithm, lose their sign."""
    mu, V = np.linalg.eig(A)
    mu = np.where((mu.imag == 0) & (mu.real <= 0), np.maximum(np.abs(mu), 1e-6), mu)  # at most 6 decades a step
    try:
        Xi = (V * (np.log(mu.astype(complex)) / h)) @ np.linalg.inv(V)
    except np.linalg.LinAlgError:
        return None
    return Xi.real if np.isfinite(Xi).all() else None
