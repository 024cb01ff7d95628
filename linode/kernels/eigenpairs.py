"""Eigenpairs of a batch of matrices with the inverse of their basis, refined: NumPy and LAPACK, on the host.

Diagonal, Hermitian and skew-Hermitian matrices are found exactly and have unitary eigenvectors. For the rest one Newton
step on all pairs leaves the errors that rounding the matrix entry by entry would make, which stiff and graded ones
need.
Sources: LAPACK geev, heevd; Golub & Van Loan (2013), 7.2; Newton step: Dongarra, Moler & Wilkinson (1983), SIAM J.
Numer. Anal. 20.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from .modal import NEAR

Array = NDArray[Any]
MIN_GAP = 1e4  # in units of the eigenvalues' rounding error: leaves (1 / MIN_GAP)^2 of the eigenvectors' error
EPS = float(np.finfo(np.float64).eps)
REACH = 4.0  # a plan for times up to t_max is good for times up to t_max / REACH too
UNITS = 1000.0  # componentwise condition of the problem beyond which the limit grows in proportion,
MAX_EXPLAINED = 1e6  # to no more than this
TINY = 1e-200
MIN_SHARE = 32  # systems a thread, below which starting it costs more than it saves


def structure(A: Array) -> str | None:
    """What all matrices of the batch (S, n, n) are, exactly, that makes their eigenvectors unitary."""
    transpose = A.swapaxes(-1, -2)
    if A.shape[-1] > 1 and A[0, 0, 1] != 0 and abs(A[0, 0, 1]) != abs(A[0, 1, 0]):
        return None  # most matrices are none of these
    if not (A - A * np.eye(A.shape[-1])).any():
        return "diagonal"
    if np.array_equal(A, transpose.conj()):
        return "Hermitian"
    return "skew-Hermitian" if np.array_equal(A, -transpose.conj()) else None


def unitary_eigenpairs(A: Array, kind: str) -> tuple[Array, Array]:
    """lam (S, n) and unitary V (S, n, n) for a `structure`."""
    if kind == "diagonal":
        return np.diagonal(A, axis1=-2, axis2=-1), np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape)
    if kind == "Hermitian":
        lam, V = np.linalg.eigh(A)
        return lam.astype(V.dtype), V
    omega, V = np.linalg.eigh(1j * A)
    # rounding must not split a null space into pairs: its eigenvectors are no conjugates of each other
    noise = A.shape[-1] * EPS * np.abs(omega).max(-1, keepdims=True)
    return -1j * np.where(np.abs(omega) <= noise, 0.0, omega), V


@dataclass(frozen=True)
class Eigenpairs:
    """lam (S, n), V (S, n, n) and V^-1, zero where they were not accepted, and why (S,): kappa_1(V), what rounding does
    to dL/dXi, and the time from which on both are accepted.
    """

    lam: Array
    V: Array
    V_inv: Array
    kappa: Array
    amplification: Array
    t_needed: Array
    accepted: Array


def eigenpairs(A: Array, limit: float, t_max: float = 0.0) -> Eigenpairs:
    """Of A (S, n, n), for times up to t_max: accepted where kappa and the amplification are below the limit.

    The entries of a gradient for modes j and k cancel in V^-H M V^H to 1 / (s_j s_k), s the conditions of eigenvalues,
    and lost 1 / (gap t) before, where their difference was divided by the gap. The limit is larger where the condition
    of the problem explains it: componentwise, that is at least min |a_ii| t, since adding min |a_ii| to the diagonal
    changes no entry by more than itself. Real where all eigenvalues of a single real matrix are. Raises
    numpy.linalg.LinAlgError where the QR algorithm does not converge.
    """
    lam, V = _geev(A)
    V_inv = _inverse(V)
    size = np.abs(V_inv)
    kappa = one_norm(V) * size.sum(-2).max(-1)
    within = kappa <= max(limit, MAX_EXPLAINED)
    if not within.all():  # what is near infinity must not reach the others
        V, V_inv, size = (np.where(within[:, None, None], x, 0) for x in (V, V_inv, size))
    difference = lam[:, None] - lam[:, :, None]
    gap = np.abs(difference)
    pairs = np.sqrt((size * size).sum(-1))  # columns of V have length 1
    pairs = pairs[:, :, None] * pairs[:, None]
    t_short = t_max / REACH
    loss = np.where(gap > 0, 1 / np.clip(gap * t_short, NEAR, 1), 1)
    amplification = (pairs * loss).max((-1, -2))
    worst = np.maximum(kappa, amplification)
    accepted = worst <= limit
    t_needed = np.where(accepted & (pairs.max((-1, -2)) <= NEAR * limit), 0.0, t_short)
    if not accepted.all():
        explained = limit / UNITS * np.maximum(np.abs(np.diagonal(A, axis1=-2, axis2=-1)).min(-1), TINY)
        late = np.maximum(np.minimum(worst, 1e100) / explained, t_short)
        decay = np.maximum(-lam.real.max(-1), TINY)  # of the slowest mode: later states are too small to matter
        by_condition = ~accepted & (worst <= MAX_EXPLAINED) & (late <= t_max) & (late * decay <= 1)
        t_needed = np.where(accepted, t_needed, late)
        accepted = accepted | by_condition
        V, V_inv = (np.where(accepted[:, None, None], x, 0) for x in (V, V_inv))
        if not accepted.any():
            return Eigenpairs(lam, V, V_inv, kappa, amplification, t_needed, accepted)
    refined = _refined(A, lam, V, V_inv, difference, gap > (MIN_GAP * EPS * one_norm(A) * kappa)[:, None, None])
    return Eigenpairs(*refined, kappa, amplification, t_needed, accepted)


def _inverse(V: Array) -> Array:
    if len(V) > 1:
        return torch.linalg.inv_ex(torch.from_numpy(V))[0].numpy()
    getrf, getri = (lapack.zgetrf, lapack.zgetri) if np.iscomplexobj(V) else (lapack.dgetrf, lapack.dgetri)
    factors, pivots, singular = getrf(V[0])
    return np.full_like(V, np.nan) if singular else getri(factors, pivots)[0][None]


def _geev(A: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of length 1; a large batch is shared out among torch's threads."""
    if len(A) == 1 and not np.iscomplexobj(A):
        re, im, _, V, info = lapack.dgeev(A[0], compute_vl=0)  # without the overheads of numpy and torch
        if info:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        upper = np.flatnonzero(im > 0)
        if not len(upper):
            return re[None], V[None]
        wide = V.astype(np.complex128)
        wide.imag[:, upper] = V[:, upper + 1]
        wide[:, upper + 1] = wide[:, upper].conj()
        return (re + 1j * im)[None], wide[None]
    n_shares = min(torch.get_num_threads(), len(A) // MIN_SHARE)
    if n_shares < 2:
        return _eig(A)
    with ThreadPoolExecutor(n_shares) as pool:
        parts = list(pool.map(_eig, np.array_split(A, n_shares)))  # LAPACK releases the interpreter's lock
    return np.concatenate([lam for lam, _ in parts]), np.concatenate([V for _, V in parts])


def _eig(A: Array) -> tuple[Array, Array]:
    try:
        lam, V = torch.linalg.eig(torch.from_numpy(A))  # for small matrices half the time of numpy's
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        raise np.linalg.LinAlgError(str(error)) from None
    return lam.numpy(), V.numpy()


def _refined(
    A: Array, lam: Array, V: Array, V_inv: Array, difference: Array, distinct: Array
) -> tuple[Array, Array, Array]:
    """One Newton step on all eigenpairs: errors left are those of rounding A entry by entry.

    difference (S, n, n) is lam_k - lam_j at j, k. Eigenvalues that are not `distinct` (S, n, n), which rounding could
    have split, are left as they are: any basis of their space will do.
    """
    is_complex = lam.imag != 0
    F = V_inv @ (A @ V - V * lam[:, None])
    turn = np.divide(F, difference, out=np.zeros_like(F), where=distinct)
    lam = lam + np.diagonal(F, axis1=-2, axis2=-1)
    V, V_inv = V + V @ turn, V_inv - turn @ V_inv
    V_inv = 2 * V_inv - (V_inv @ V) @ V_inv  # Newton-Schulz
    if np.iscomplexobj(V) and not np.iscomplexobj(A):  # real modes of a real matrix stay real
        lam.imag *= is_complex
        V.imag *= is_complex[:, None]
        V_inv.imag *= is_complex[..., None]
    return lam, V, V_inv


def one_norm(A: Array) -> Array:
    return np.asarray(np.abs(A).sum(-2).max(-1))
