"""Eigenpairs of a batch of matrices with the inverse of their basis, refined: NumPy and LAPACK, on the host.

Diagonal, Hermitian and skew-Hermitian matrices are found exactly and have unitary eigenvectors. For the rest one Newton
step on all pairs leaves the errors that rounding the matrix entry by entry would make, which stiff and graded ones
need. Conjugate pairs of a real matrix are exactly that, in the order of `pairs`.
Sources: LAPACK geev, heevd; Golub & Van Loan (2013), 7.2 (condition of an eigenvalue); Newton step: Dongarra, Moler &
Wilkinson (1983), SIAM J. Numer. Anal. 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .arrays import amax, product
from .gaps import NEAR
from .modal import Modes
from .pairs import Pairs
from .single import Single

Array = NDArray[Any]
MIN_GAP = 1e4  # in units of the eigenvalues' rounding error: leaves (1 / MIN_GAP)^2 of the eigenvectors' error
EPS = float(np.finfo(np.float64).eps)
REACH = 4.0  # a plan for times up to t_max is good for times up to t_max / REACH too
UNITS = 1000.0  # componentwise condition of the problem beyond which the limit grows in proportion,
MAX_EXPLAINED = 1e6  # to no more than this
GRADIENT_SLACK = 4.0  # gradients may lose this much more than states
GRADED = 128.0  # |A| s / |lam| of a mode up to which LAPACK's error needs no correction: some ten units of rounding
TINY = 1e-200


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


def unitary_modes(A: Array, kind: str) -> Modes:
    """For a `structure`."""
    if kind == "diagonal":
        lam, V = np.diagonal(A, axis1=-2, axis2=-1), np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape)
    elif kind == "Hermitian":
        omega, V = np.linalg.eigh(A)
        lam = omega.astype(V.dtype)
    else:
        omega, V = np.linalg.eigh(1j * A)
        # rounding must not split a null space into pairs: its eigenvectors are no conjugates of each other
        noise = A.shape[-1] * EPS * np.abs(omega).max(-1, keepdims=True)
        lam = -1j * np.where(np.abs(omega) <= noise, 0.0, omega)
    return arranged(lam, V, V.swapaxes(-1, -2).conj(), np.iscomplexobj(A))


@dataclass(frozen=True)
class Eigenpairs:
    """Modes, and (S,) which of the systems were accepted, from which t_max on, and the figures that were looked at:
    bounds of kappa_1(V) and of what rounding does to dL/dXi.
    """

    modes: Modes
    accepted: Array
    t_needed: Array
    kappa: Array
    amplification: Array


def is_plain(single: Single, size: float, limit: float) -> bool:
    """Whether `eigenpairs`, for a matrix of 1-norm `size`, would accept it for all times and leave it as it is."""
    square = _row_squares(single.V_inv)
    s = np.sqrt(square)
    return bool(
        np.add.reduce(s) * math.sqrt(len(s)) <= limit
        and np.maximum.reduce(square) <= GRADIENT_SLACK * limit * NEAR
        and not (size * s > GRADED * abs(single.lam)).any()
    )


def eigenpairs(A: Array, size: Array, limit: float, t_max: float = 0.0, modes: Modes | None = None) -> Eigenpairs:
    """Of A (S, n, n), of 1-norms size (S,), for times up to t_max: accepted where kappa_1(V) is below the limit, and
    the amplification of rounding in dL/dXi below GRADIENT_SLACK times that.

    The entries of a gradient for modes j and k cancel in V^-H M V^H to 1 / (s_j s_k), s the conditions of eigenvalues,
    and lost 1 / (gap t) before, where their difference was divided by the gap; pairs that cannot afford the second are
    left to be subtracted analytically. Raises numpy.linalg.LinAlgError where the QR algorithm does not converge.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of bases near singular, which are refused
        modes = _modes(A) if modes is None else modes
        square = _row_squares(modes.V_inv)
        s = np.sqrt(square)  # conditions: columns of V have length 1
        kappa = np.add.reduce(s, -1) * math.sqrt(A.shape[-1])  # a bound, seldom far above kappa_1
        amplification = amax(square, -1) / NEAR  # a bound whatever the gaps
        t_needed, accepted = np.zeros(len(A)), (kappa <= limit) & (amplification <= GRADIENT_SLACK * limit)
        if not accepted.all():
            i = (~accepted).nonzero()[0]
            kappa[i], amplification[i], accepted[i], t_needed[i] = _judged(A, modes, s, limit, t_max, i)
            if not accepted.all():  # what is near infinity must not reach the others
                modes.clear(~accepted)
        graded = size[:, None] * s > np.abs(modes.lam) * GRADED
        i = (accepted & graded.any(-1)).nonzero()[0]
        if len(i):
            _refine(A, modes, MIN_GAP * EPS * size * np.minimum(kappa, MAX_EXPLAINED), i)
        return Eigenpairs(modes, accepted, t_needed, kappa, amplification)


def _judged(
    A: Array, modes: Modes, s: Array, limit: float, t_max: float, index: Array
) -> tuple[Array, Array, Array, Array]:
    """kappa, amplification, accepted and t_needed of some systems, pair by pair of eigenvalues; the modes learn which
    pairs are delicate.

    The limit is larger where the condition of the problem explains it: the componentwise condition of z(t) is about
    t |w_j| |A| |v_j|, with w_j and v_j the left and right eigenvectors of the mode that dominates it.
    """
    A, s, lam, p = A[index], s[index], modes.lam[index], modes.n_kept
    size, basis = np.abs(modes.V_inv[index]), np.abs(modes.V[index])
    kappa = basis.sum(-2).max(-1) * size.sum(-2).max(-1)
    kappa = np.where(np.isfinite(kappa), kappa, np.inf)
    gap = np.abs(lam[:, :p, None] - lam[:, None])
    pairs = s[:, :p, None] * s[:, None]
    pairs = np.where(np.isfinite(pairs), pairs, np.inf)
    t_short = t_max / REACH
    loss = np.where(gap > 0, 1 / np.clip(gap * t_short, NEAR, 1), 1)  # equal eigenvalues are not subtracted at all
    delicate = pairs * loss > GRADIENT_SLACK * limit
    if delicate.any():
        modes.delicate = np.zeros((len(modes.lam), *delicate.shape[1:]), dtype=bool)
        modes.delicate[index] = delicate
    amplification = (pairs * np.where(delicate, 1, loss)).max((-1, -2))
    worst = np.maximum(kappa, amplification / GRADIENT_SLACK)
    accepted = worst <= limit
    t_needed = np.where(accepted & (pairs.max((-1, -2)) <= NEAR * GRADIENT_SLACK * limit), 0.0, t_short)
    if accepted.all():
        return kappa, amplification, accepted, t_needed
    rate = (size * (np.abs(A) @ basis).swapaxes(-1, -2)).sum(-1)
    explained = limit / UNITS * np.maximum(rate.min(-1), TINY)
    late = np.minimum(worst, 1e100) / explained
    decay = np.maximum(-lam.real.max(-1), TINY)  # of the slowest mode: later states are too small to matter
    by_condition = ~accepted & (worst <= MAX_EXPLAINED) & (late <= t_max) & (late * decay <= 1)
    return kappa, amplification, accepted | by_condition, np.where(accepted, t_needed, np.maximum(late, t_short))


def _row_squares(x: Array) -> Array:
    y = x.view(np.float64) if x.dtype.kind == "c" else x
    squares: Array = np.vecdot(y, y)
    return squares


# ---- factors ---------------------------------------------------------------------------------------------------


def _modes(A: Array) -> Modes:
    """Eigenvalues, eigenvectors of length 1 and the inverse of their basis, infinite where it has none."""
    try:
        lam, V = (x.numpy() for x in torch.linalg.eig(torch.from_numpy(A)))  # for small matrices half of numpy's time
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        raise np.linalg.LinAlgError(str(error)) from None
    if A.dtype.kind == "c":
        return Modes(lam, V, _inverse(V))
    # a pair's v and conj(v) side by side become Re v and Im v, whose inverse is real
    Y = _inverse(np.where((lam.imag < 0)[:, None], -V.imag, V.real))
    V_inv = Y.astype(np.complex128)
    s, j = (lam.imag > 0).nonzero()
    V_inv[s, j] = (Y[s, j] - 1j * Y[s, j + 1]) / 2
    return arranged(lam, V, V_inv, False)


def _inverse(X: Array) -> Array:
    """Infinite where there is none."""
    inverse: Array = np.ascontiguousarray(torch.linalg.inv_ex(torch.from_numpy(X))[0].numpy())
    bad = ~np.isfinite(inverse.sum((-1, -2)))
    if bad.any():
        inverse[bad] = np.inf
    return inverse


def arranged(lam: Array, V: Array, V_inv: Array, is_complex: bool, exists: Array | None = None) -> Modes:
    """Modes from eigenvalues lam (S, e), V (S, n, e) and V_inv (S, e, n), of complex Xi or of real ones; of these, of
    each pair that with Im lam < 0 is made anew from the other.
    """
    if is_complex or lam.dtype.kind != "c":
        return Modes(lam, V, V_inv, None, exists)
    if not (lam.imag.any() or V.imag.any()):
        return Modes(lam.real, V.real, V_inv.real, None, exists)
    pairs = Pairs.of(np.count_nonzero(lam.imag > 0, axis=-1), lam.shape[-1])
    order = np.argsort(-np.sign(lam.imag), axis=-1, kind="stable")
    exists = None if exists is None else np.take_along_axis(exists, order, -1)
    return Modes(*_ordered(pairs, order, lam, V, V_inv), pairs, exists)


def _ordered(pairs: Pairs, order: Array, lam: Array, V: Array, V_inv: Array) -> tuple[Array, Array, Array]:
    """Modes in an order (S, e), with the last ones of every system made from its first, as their conjugates."""
    system, place = np.arange(len(lam))[:, None], np.arange(lam.shape[-1])
    is_conjugate = np.broadcast_to(pairs.is_conjugate, lam.shape)
    n_others = np.count_nonzero(~is_conjugate, axis=-1)[:, None]
    index = order[system, place - n_others * is_conjugate]
    lam, V, V_inv = lam[system, index], V.swapaxes(-1, -2)[system, index], V_inv[system, index]
    sign = np.where(is_conjugate, -1.0, 1.0)
    lam.imag *= sign
    V.imag *= sign[..., None]
    V_inv.imag *= sign[..., None]
    return lam, np.ascontiguousarray(V.swapaxes(-1, -2)), V_inv


def _refine(A: Array, modes: Modes, noise: Array, index: Array) -> None:
    """One Newton step on all eigenpairs of some systems: errors left are those of rounding A entry by entry.

    Eigenvalues closer than noise (S,), which rounding could have split, are left as they are: any basis of their space
    will do.
    """
    A, noise = A[index], noise[index, None, None]
    lam, V, V_inv = modes.lam[index], modes.V[index], modes.V_inv[index]
    difference = lam[:, None] - lam[:, :, None]
    F = product(V_inv, product(A, V) - V * lam[:, None])
    turn = np.divide(F, difference, out=np.zeros_like(F), where=np.abs(difference) > noise)
    lam, V = lam + np.diagonal(F, axis1=-2, axis2=-1), V + product(V, turn)
    if modes.pairs is None:
        modes.lam[index], modes.V[index], modes.V_inv[index] = lam, V, _inverse(V)
        return
    # V^-1 anew by LU factors, of the real basis: Newton's iteration for it would lose kappa(V) more than they do
    pairs = modes.pairs.subset(index)
    single = modes.lam[index].imag == 0  # real modes of a real matrix stay real
    lam.imag[single], V.imag[np.broadcast_to(single[:, None], V.shape)] = 0, 0
    lam, V, _ = _ordered(pairs, np.broadcast_to(np.arange(lam.shape[-1]), lam.shape), lam, V, V_inv)
    Y = _inverse(np.where(pairs.is_conjugate[:, None], -V.imag, V.real))
    weight = np.where(single, 1.0, 2.0)[..., None]
    modes.lam[index], modes.V[index], modes.V_inv[index] = lam, V, product(pairs.UH, Y) / weight
