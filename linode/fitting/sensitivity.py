"""Trajectories with all their derivatives by Xi, B and z0 at once, for least squares: NumPy, in an eigenbasis.

z' = Xi z + B u with u held between times. In the eigenbasis a change E of Xi changes mode a by sum_b E_ab D_ab(t),
where D_ab' = lambda_a D_ab + w_b and w are the states. Without input D is a divided difference of exp; with one it
follows from a recurrence. One product with the basis per time gives the derivatives (T, n, n^2). The basis must not be
close to singular.
Source: Wilcox (1967), J. Math. Phys. 8, 962 (derivatives of exponentials); Opitz (1964) for divided differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from .products import Array

SLOW = 0.01  # |lambda t| up to which a series replaces second differences, which lose four digits there
N_SLOW = 5  # terms of the series: the next one is below SLOW^5 / 7! = 2e-14
CLOSE = 1e-3  # |gap| t from which on a difference loses at most three digits
MOST_CONDITION = 1e7  # |V| |V^-1|: errors of the derivatives grow as its square, 1e-16 1e14


@dataclass(frozen=True)
class Response:
    """States and derivatives of K trajectories at T times.

    z (K, T, n), by_z0 (K, T, n, n), by_Xi (K, T, n, n^2), by_B (K, T, n, n m); the last two None if not asked for.
    """

    z: Array
    by_z0: Array
    by_Xi: Array | None
    by_B: Array | None

    def at(self, index: Array) -> Response:
        """The rows at the times of index (K, T')."""
        k = np.arange(len(index))[:, None]
        parts = (self.z, self.by_z0, self.by_Xi, self.by_B)
        return Response(*(None if x is None else x[k, index] for x in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Basis:
    """Xi = V diag(lam) V_inv."""

    lam: Array
    V: Array
    V_inv: Array


def make_basis(Xi: Array) -> Basis | None:
    """The eigenbasis of Xi; None where it is close to singular."""
    lam, V = np.linalg.eig(Xi)
    try:
        V_inv = np.linalg.inv(V)
    except np.linalg.LinAlgError:
        return None
    if not np.linalg.norm(V) * np.linalg.norm(V_inv) <= MOST_CONDITION:
        return None
    return Basis(lam.astype(complex), V.astype(complex), V_inv.astype(complex))


def respond(basis: Basis, B: Array, z0: Array | None, t: Array, u: Array | None, want_jacobian: bool) -> Response:
    """States and derivatives at times t (K, T) since z0 (K, n), or since zero where z0 is None.

    B (n, m); u (K, T, m), held from each time on, or (m,), constant.
    """
    lam, V, V_inv = basis.lam, basis.V, basis.V_inv
    n, m = len(lam), B.shape[1]
    kept = lam.imag >= 0  # one of each conjugate pair; `share` counts it twice
    share = np.where(lam[kept].imag > 0, 2.0, 1.0)
    left, right = V[:, kept] * share, V_inv[kept]
    E = np.exp(lam * t[..., None])  # (K, T, n)
    c = np.zeros((len(t), n)) if z0 is None else z0 @ V_inv.T
    w, f = E * c[:, None], V_inv @ B  # (K, T, n), (n, m)
    by_z0 = _real(left * E[..., None, kept], right)
    D = F = None
    if m and u is not None and u.ndim > 1:
        w, D, F = _driven(lam, kept, c, f, t, u, want_jacobian)
    else:
        if want_jacobian:
            D = c[:, None, None] * pairs(lam, kept, t, E)
        if m and u is not None:
            first = single(lam, t)
            w = w + first * (f @ u)
            if want_jacobian:
                D = D + triples(lam, kept, t) * (f @ u)
                F = first[..., kept, None] * u
    z = _real(w[..., kept], left.T)
    if not want_jacobian:
        return Response(z, by_z0, None, None)
    G = (left[:, None] * right.T).reshape(n * n, -1)  # [(r, p), a]
    by_Xi = _real(G, D @ V.T).reshape(*t.shape, n, n * n)
    by_B = np.zeros((*t.shape, n, 0)) if F is None else _real(G, F).reshape(*t.shape, n, n * m)
    return Response(z, by_z0, by_Xi, by_B)


def _driven(
    lam: Array, kept: Array, c: Array, f: Array, t: Array, u: Array, want_jacobian: bool
) -> tuple[Array, Array | None, Array | None]:
    """w (K, T, n), D (K, T, kept, n) and F (K, T, kept, m) by the recurrence from each time to the next.

    All trajectories form one recurrence, with a factor 0 where one begins; for each mode it is a bidiagonal system with
    many right-hand sides, which LAPACK solves.
    """
    K, T, m = u.shape
    n = len(lam)
    steps, where = np.unique(np.diff(t, axis=1), return_inverse=True)
    where = where.reshape(K, T - 1)
    decay, first = np.exp(lam * steps[:, None]), single(lam, steps)
    drive = u[:, :-1] @ f.T  # (K, T - 1, n)
    decays = np.zeros((K, T, n), complex)  # to each time from the one before
    decays[:, 1:] = decay[where]
    gains = np.empty((K, T, n), complex)
    gains[:, 0], gains[:, 1:] = c, first[where] * drive
    w = np.stack([_chain(decays[..., a], gains[..., a, None])[..., 0] for a in range(n)], -1)
    if not want_jacobian:
        return w, None, None
    moved = np.zeros((K, T, int(kept.sum()), n + m), complex)
    before = w[:, :-1, None]
    moved[:, 1:, :, :n] = pairs(lam, kept, steps, decay)[where] * before
    moved[:, 1:, :, :n] += triples(lam, kept, steps)[where] * drive[:, :, None]
    moved[:, 1:, :, n:] = first[:, kept][where][..., None] * u[:, :-1, None]
    X = np.stack([_chain(decays[..., a], moved[:, :, i]) for i, a in enumerate(np.flatnonzero(kept))], 2)
    return w, X[..., :n], X[..., n:]


def _chain(decays: Array, gains: Array) -> Array:
    """x with x[i] = decays[i] x[i - 1] + gains[i], (K, T, q), from decays (K, T) that are 0 at the first times."""
    K, T, q = gains.shape
    bands = np.ones((2, K * T), complex)
    bands[1, :-1] = -decays.ravel()[1:]
    return lapack.ztbtrs(bands, gains.reshape(K * T, q), uplo="L", diag="U")[0].reshape(K, T, q)


def _real(x: Array, y: Array) -> Array:
    """Real part of x @ y."""
    return np.concatenate([x.real, -x.imag], -1) @ np.concatenate([y.real, y.imag], -2)


def single(a: Array, t: Array) -> Array:
    """int_0^t e^{a s} ds, (*t, n)."""
    tt = t[..., None]
    x = a * tt
    safe = np.where(x == 0, 1.0, x)
    return tt * np.where(x == 0, 1.0, np.expm1(safe) / safe)


def pairs(a: Array, kept: Array, t: Array, E: Array) -> Array:
    """int_0^t e^{a_j (t - s)} e^{a_k s} ds, (*t, kept, n): the divided difference of e^{x t}; E = e^{a t} (*t, n).

    Distant eigenvalues: plain subtraction is accurate enough here.
    """
    gap = a[kept, None] - a
    near = np.abs(gap) * np.abs(t).max(initial=0.0) <= CLOSE
    full = (E[..., kept, None] - E[..., None, :]) / np.where(near, 1.0, gap)
    j, k = np.nonzero(near)
    full[..., j, k] = E[..., k] * single(gap[j, k], t)
    return full


def triples(a: Array, kept: Array, t: Array) -> Array:
    """int_0^t e^{a_j (t - s)} int_0^s e^{a_k r} dr ds, (*t, kept, n): the divided difference at (a_j, a_k, 0)."""
    x, y, tt = a[kept, None], a[None, :], t[..., None, None]
    first = single(a, t)
    swap = np.abs(x) < np.abs(y)
    larger = np.where(swap, y, x)
    smaller_first = np.where(swap, first[..., kept, None], first[..., None, :])
    direct = (pairs(a, kept, t, np.exp(a * t[..., None])) - smaller_first) / np.where(larger == 0, 1.0, larger)
    near = np.abs(larger) * tt <= SLOW
    if near.any():
        xt, yt = (np.broadcast_to(v * tt, direct.shape)[near] for v in (x, y))
        total, h, power = np.zeros_like(xt), np.ones_like(xt), np.ones_like(xt)
        for k in range(N_SLOW):
            total += h / math.factorial(k + 2)
            power = power * yt
            h = h * xt + power
        direct[near] = np.broadcast_to(tt * tt, direct.shape)[near] * total
    return direct
