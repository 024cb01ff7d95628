"""Eigenpairs of a batch of matrices with the inverse of their basis, refined: LAPACK by torch, on the CPU.

Diagonal, Hermitian and skew-Hermitian matrices are found exactly and have unitary eigenvectors. For the rest one Newton
step on all pairs leaves the errors that rounding the matrix entry by entry would make, which stiff and graded ones
need. Conjugate pairs of a real matrix are exactly that, in the order that `Modes` asks for.
Sources: LAPACK geev, heevd; Golub & Van Loan (2013), 7.2 (condition of an eigenvalue); Newton step: Dongarra, Moler &
Wilkinson (1983), SIAM J. Numer. Anal. 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import small
from .modes import NEAR, Modes

MIN_GAP = 1e4  # rounding errors of eigenvalues apart: Newton's step then leaves 1e-8 of the eigenvectors' error
EPS = torch.finfo(torch.float64).eps
REACH = 4.0  # a plan for times up to t_max is good for times up to t_max / REACH too
UNITS = 1000.0  # above this componentwise condition of the problem the limit grows in proportion to it,
MAX_EXPLAINED = 1e6  # up to this
GRADIENT_SLACK = 4.0  # the limit for gradients is larger by this factor than that for states
GRADED = 128.0  # |A| s / |lam| of a mode above which its error by LAPACK, some ten units of rounding, is corrected
TINY = 1e-200


def structure(A: Tensor) -> str | None:
    """What all matrices of the batch (S, n, n) are, exactly, that makes their eigenvectors unitary."""
    if small.serves(A):
        return small.structure(A)
    adjoint = A.mT.conj_physical()
    if not bool((A * (1 - torch.eye(A.shape[-1], dtype=A.dtype, device="cpu"))).any()):
        return "diagonal"
    if torch.equal(A, adjoint):
        return "Hermitian"
    return "skew-Hermitian" if torch.equal(A, -adjoint) else None


def unitary_modes(A: Tensor, kind: str) -> Modes:
    """For a `structure`."""
    if kind == "diagonal":
        lam = A.diagonal(dim1=-2, dim2=-1).clone()
        V = torch.eye(A.shape[-1], dtype=A.dtype, device="cpu").repeat(len(A), 1, 1)
    elif kind == "Hermitian":
        omega, V = torch.linalg.eigh(A)
        lam = omega.to(V.dtype)
    else:
        omega, V = torch.linalg.eigh(1j * A)
        # rounding must not make conjugate pairs of zeros: eigenvectors of a null space are no conjugates of each other
        noise = A.shape[-1] * EPS * omega.abs().amax(-1, keepdim=True)
        lam = -1j * torch.where(omega.abs() <= noise, 0.0, omega)
    return arranged(lam, V, V.mT.conj_physical(), not A.is_complex())


@dataclass(frozen=True)
class Eigenpairs:
    """Modes, and (S,) which of the systems were accepted, from which t_max on, and the figures that were looked at:
    bounds of kappa_1(V) and of what rounding does to dL/dXi.
    """

    modes: Modes
    accepted: Tensor
    t_needed: Tensor
    kappa: Tensor
    amplification: Tensor


def eigenpairs(A: Tensor, size: Tensor, limit: float, t_max: Tensor) -> Eigenpairs:
    """Of A (S, n, n), of 1-norms size (S,), for times up to t_max (S,): accepted where kappa_1(V) is below the limit,
    and the amplification of rounding in dL/dXi below GRADIENT_SLACK times that.

    For modes j and k, cancellation in V^-H M V^H costs a gradient the factor s_j s_k, s the conditions of eigenvalues,
    and before that the division of a difference by the gap costs 1 / (gap t). Pairs for which the product is too large
    are marked as delicate: they are subtracted analytically.
    Raises `private.LinAlgError` where the QR algorithm does not converge.
    """
    lam, V = torch.linalg.eig(A)
    modes = arranged(lam, V, None, not A.is_complex())
    s = torch.linalg.vector_norm(modes.V_inv, dim=-1)  # conditions: columns of V have length 1
    kappa = s.sum(-1) * math.sqrt(A.shape[-1])  # a bound, seldom far above kappa_1
    amplification = s.square().amax(-1) / NEAR  # a bound whatever the gaps
    t_needed, accepted = torch.zeros_like(kappa), (kappa <= limit) & (amplification <= GRADIENT_SLACK * limit)
    if not bool(accepted.all()):
        i = (~accepted).nonzero()[:, 0]
        kappa[i], amplification[i], accepted[i], t_needed[i], delicate = _judged(A, modes, s, limit, t_max[i], i)
        if delicate is not None:
            modes = replace(modes, delicate=delicate)
    graded = size[:, None] * s > modes.lam.abs() * GRADED
    i = (accepted & graded.any(-1)).nonzero()[:, 0]
    if len(i):
        _refine(A, modes, MIN_GAP * EPS * size * kappa.clamp(max=MAX_EXPLAINED), i)
    return Eigenpairs(modes, accepted, t_needed, kappa, amplification)


def _judged(
    A: Tensor, modes: Modes, s: Tensor, limit: float, t_max: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """kappa, amplification, accepted and t_needed of some systems, pair by pair of eigenvalues; and which pairs are
    delicate, of all systems, or None.

    The limit is larger where the condition of the problem explains it: the componentwise condition of z(t) is about
    t |w_j| |A| |v_j|, with w_j and v_j the left and right eigenvectors of the mode that dominates it.
    """
    n_systems, p = len(A), modes.n_kept
    A, s, lam = A[index], s[index], modes.lam[index]
    size, basis = modes.V_inv[index].abs(), modes.V[index].abs()
    kappa = _finite(basis.sum(-2).amax(-1) * size.sum(-2).amax(-1))
    gap = (lam[:, :p, None] - lam[:, None]).abs()
    pairs = _finite(s[:, :p, None] * s[:, None])
    t_short = t_max / REACH
    loss = torch.where(
        gap > 0, 1 / (gap * t_short[:, None, None]).clamp(NEAR, 1), 1.0
    )  # equal eigenvalues are not subtracted at all
    is_delicate, delicate = pairs * loss > GRADIENT_SLACK * limit, None
    if bool(is_delicate.any()):
        delicate = torch.zeros(n_systems, *is_delicate.shape[1:], dtype=torch.bool, device="cpu")
        delicate[index] = is_delicate
    amplification = (pairs * torch.where(is_delicate, 1.0, loss)).amax((-1, -2))
    worst = torch.maximum(kappa, amplification / GRADIENT_SLACK)
    accepted = worst <= limit
    always = accepted & (pairs.amax((-1, -2)) <= NEAR * GRADIENT_SLACK * limit)
    t_needed = torch.where(always, torch.zeros_like(kappa), t_short)
    if bool(accepted.all()):
        return kappa, amplification, accepted, t_needed, delicate
    rate = (size * (A.abs() @ basis).mT).sum(-1)
    explained = limit / UNITS * rate.amin(-1).clamp(min=TINY)
    late = worst.clamp(max=1e100) / explained
    decay = (-lam.real.amax(-1)).clamp(min=TINY)  # of the slowest mode: later states are too small to matter
    by_condition = ~accepted & (worst <= MAX_EXPLAINED) & (late <= t_max) & (late * decay <= 1)
    t_needed = torch.where(accepted, t_needed, torch.maximum(late, t_short))
    return kappa, amplification, accepted | by_condition, t_needed, delicate


def _finite(x: Tensor) -> Tensor:
    """x with infinity where it is NaN."""
    return torch.where(torch.isfinite(x), x, torch.inf)


# ---- factors ---------------------------------------------------------------------------------------------------


def arranged(lam: Tensor, V: Tensor, V_inv: Tensor | None, is_real: bool) -> Modes:
    """Modes from eigenvalues lam (S, e), V (S, n, e) and V_inv (S, e, n), made from V where it is None, of real or of
    complex systems; of each pair of a real system that with Im lam < 0 is made anew from the other.
    """
    if not is_real:
        return Modes(lam, V, _inverse(V) if V_inv is None else V_inv, False)
    if not lam.is_complex() or not bool(lam.imag.any() or V.imag.any()):
        V = V.real.contiguous()
        return Modes(lam.real.contiguous(), V, _inverse(V) if V_inv is None else V_inv.real.contiguous(), True)
    order = torch.argsort(-torch.sign(lam.imag), dim=-1, stable=True)
    lam, V = lam.gather(-1, order), V.gather(-1, order[:, None].expand(V.shape))
    if V_inv is not None:
        V_inv = V_inv.gather(-2, order[..., None].expand(V_inv.shape))
    sign = torch.sign(lam.imag)
    lam, V, V_inv = _conjugated(sign, lam, V, V_inv)
    counts = (sign > 0).sum(-1)
    n_pairs = int(counts[0]) if bool((counts == counts[0]).all()) else 0
    return Modes(lam, V, V_inv, True, n_pairs)


def _conjugated(sign: Tensor, lam: Tensor, V: Tensor, V_inv: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Modes of real systems in order, with the last ones of every system made from its first, as their conjugates, and
    V^-1 by the LU factors of the real basis where it is None. sign (S, e): 1, 0 and -1 for Im lam.
    """
    place = torch.arange(lam.shape[-1], device="cpu")
    n_others = lam.shape[-1] - (sign > 0).sum(-1, keepdim=True)
    is_conjugate = place >= n_others
    first = torch.where(is_conjugate, place - n_others, place)  # the mode, or that of which it is the conjugate
    last = torch.where(sign > 0, place + n_others, place)
    lam = _mirrored(lam.gather(-1, first), is_conjugate)
    V = _mirrored(V.gather(-1, first[:, None].expand(V.shape)), is_conjugate[:, None])
    if V_inv is not None:
        rows = V_inv.gather(-2, first[..., None].expand(V_inv.shape))
        return lam, V, _mirrored(rows, is_conjugate[..., None])
    # a pair's v and conj(v) become Re v and Im v, whose inverse has rows y and y': that of v is (y - i y') / 2
    Y = _inverse(torch.where(is_conjugate[:, None], -V.imag, V.real))
    re, im = (Y.gather(-2, rows[..., None].expand(Y.shape)) for rows in (first, last))
    is_single = (sign == 0)[..., None]
    im = torch.where(is_single, 0.0, torch.where(is_conjugate[..., None], im, -im))
    return lam, V, torch.complex(re, im) * torch.where(is_single, 1.0, 0.5)


def _mirrored(x: Tensor, mask: Tensor) -> Tensor:
    """Conjugates where the mask says."""
    return torch.where(mask, x.conj_physical(), x)


def _inverse(X: Tensor) -> Tensor:
    """Infinite where there is none."""
    inverse = torch.linalg.inv_ex(X)[0]
    bad = ~torch.isfinite(inverse.sum((-1, -2)))
    inverse[bad] = torch.inf
    return inverse.contiguous()


def _refine(A: Tensor, modes: Modes, noise: Tensor, index: Tensor) -> None:
    """One Newton step on all eigenpairs of some systems: errors left are those of rounding A entry by entry.

    Eigenvalues closer than noise (S,), which rounding could have split, are left as they are: any basis of their space
    will do.
    """
    A, noise = A[index].to(modes.V.dtype), noise[index, None, None]
    lam, V, V_inv = modes.lam[index], modes.V[index], modes.V_inv[index]
    difference = lam[:, None] - lam[:, :, None]
    F = V_inv @ (A @ V - V * lam[:, None])
    apart = difference.abs() > noise
    turn = torch.where(apart, F / torch.where(apart, difference, 1), 0)
    moved, V = lam + F.diagonal(dim1=-2, dim2=-1), V + V @ turn
    # V^-1 anew by LU factors: Newton's iteration for it would lose kappa(V) more than they do
    if not modes.is_paired:
        modes.lam[index], modes.V[index], modes.V_inv[index] = moved, V, _inverse(V)
        return
    sign = torch.sign(lam.imag)
    single = sign == 0  # real modes of a real matrix stay real
    moved, V = torch.where(single, moved.real, moved), torch.where(single[:, None], V.real, V)
    modes.lam[index], modes.V[index], modes.V_inv[index] = _conjugated(sign, moved, V, None)
