"""Eigendecomposition: the fastest evaluation, where the eigenvectors are well conditioned.

Use when kappa(V) is small: then every time costs one exponential per mode, however long or stiff. Cost: 25 n^3 once,
three products of T x n x n for a gradient. Diagonal, Hermitian and skew-Hermitian Xi are found exactly and have kappa
= 1.
Check: kappa_1(V) <= max_condition, and the eigenpairs' residual is no larger than rounding Xi entry by entry would
make it (one Newton step on the eigenpairs first, which stiff and graded Xi need).
Sources: LAPACK geev, heevd; Golub & Van Loan (2013), 7.2; Newton step: Dongarra, Moler & Wilkinson (1983), SIAM J.
Numer. Anal. 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..kernels.modal import Modes
from .base import SECONDS_PER_EXP, SECONDS_PER_FLOP, Method, Plan, Workload, register

MAX_CONDITION = 50.0
MIN_GAP = 1e4  # in units of the eigenvalues' rounding error: leaves (1 / MIN_GAP)^2 of the eigenvectors' error


@register
@dataclass(frozen=True)
class Eig(Method):
    """Options: max_condition, the largest kappa_1(V) that is accepted."""

    max_condition: float = MAX_CONDITION
    name: ClassVar[str] = "eig"
    summary: ClassVar[str] = "eigendecomposition; Xi with well-conditioned eigenvectors"
    needs_host: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None) -> Plan:
        limit = self.max_condition
        if rtol is not None:  # kappa(V) eps is the error to expect
            limit = max(limit, rtol / (100 * torch.finfo(torch.float64).eps))
        for kind, is_kind, decompose in STRUCTURES:
            if is_kind(Xi):
                lam, V = decompose(Xi)
                ones = torch.ones(lam.shape, dtype=torch.float64, device=lam.device)
                modes = keep_one_of_each_pair(lam, V, V.mT.conj_physical(), not Xi.is_complex())
                return EigPlan(Xi, modes, ones[:, 0], torch.ones_like(ones[:, 0], dtype=torch.bool), f"Xi is {kind}")
        return _general(Xi, limit)

    def cost(self, work: Workload) -> float:
        lapack = 4e-5 + 100 * work.n**3 * SECONDS_PER_FLOP  # geev runs far below the speed of products
        per_row = work.n * SECONDS_PER_EXP + 6 * work.n**2 * SECONDS_PER_FLOP
        return 2e-3 + work.n_systems * (lapack + work.n_rows * per_row)


@dataclass
class EigPlan(Plan):
    """Modes of Xi, and the condition of their basis."""

    Xi: Tensor
    modes: Modes
    kappa: Tensor  # (S,) 1-norm condition of V
    accepted: Tensor
    reason: str
    method: str = "eig"

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self.modes.evaluate(z0, t)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.modes.vjp(z0, t, g, want_t)

    def subset(self, index: Tensor) -> Plan:
        return EigPlan(self.Xi[index], self.modes.subset(index), self.kappa[index], self.accepted[index], self.reason)

    @property
    def details(self) -> dict[str, Any]:
        return {"kappa_V": self.kappa.tolist(), "eigenvalues": self.modes.lam.tolist()}


def is_diagonal(Xi: Tensor) -> bool:
    return torch.equal(Xi, torch.diag_embed(Xi.diagonal(dim1=-2, dim2=-1)))


def is_hermitian(Xi: Tensor) -> bool:
    return torch.equal(Xi, Xi.mT.conj_physical())


def is_skew_hermitian(Xi: Tensor) -> bool:
    return torch.equal(Xi, -Xi.mT.conj_physical())


def _diagonal(Xi: Tensor) -> tuple[Tensor, Tensor]:
    eye = torch.eye(Xi.shape[-1], dtype=Xi.dtype, device=Xi.device)
    return Xi.diagonal(dim1=-2, dim2=-1), eye.expand_as(Xi)


def _hermitian(Xi: Tensor) -> tuple[Tensor, Tensor]:
    lam, V = torch.linalg.eigh(Xi)
    return lam.to(V.dtype), V


def _skew_hermitian(Xi: Tensor) -> tuple[Tensor, Tensor]:
    omega, V = torch.linalg.eigh(1j * Xi)
    # rounding must not split a null space into pairs: its eigenvectors are no conjugates of each other
    noise = Xi.shape[-1] * torch.finfo(omega.dtype).eps * omega.abs().amax(-1, keepdim=True)
    return -1j * torch.where(omega.abs() <= noise, 0.0, omega).to(V.dtype), V


STRUCTURES = (
    ("diagonal", is_diagonal, _diagonal),
    ("Hermitian", is_hermitian, _hermitian),
    ("skew-Hermitian", is_skew_hermitian, _skew_hermitian),
)


def keep_one_of_each_pair(lam: Tensor, V: Tensor, V_inv: Tensor, is_real: bool) -> Modes:
    """Modes for a complex Xi; for a real one without the conjugates, and real where all eigenvalues are."""
    ones = torch.ones(lam.shape, dtype=torch.float64, device=lam.device)
    if not is_real:
        return Modes(lam, V, V_inv, ones, paired=False)
    if not lam.is_complex():
        return Modes(lam, V, V_inv, ones, paired=False)
    if not bool((lam.imag != 0).any()) and not bool((V.imag != 0).any()):
        return Modes(lam.real, V.real, V_inv.real, ones, paired=False)
    weight = 1.0 + torch.sign(lam.imag)  # 2 for the kept one of a pair, 1 for a real eigenvalue, 0 for the other
    p = int((weight > 0).sum(-1).max())
    order = torch.argsort((weight == 0).to(torch.int8), dim=-1, stable=True)[:, :p]
    weight = weight.gather(-1, order)
    lam = torch.where(weight > 0, lam.gather(-1, order), 0)  # padding
    n = V.shape[-2]
    V = V.gather(-1, order[:, None].expand(-1, n, -1))
    V_inv = V_inv.gather(-2, order[..., None].expand(-1, -1, n))
    V_inv = torch.where(weight[..., None] > 0, V_inv, 0)  # padding is never excited
    return Modes(lam, V, V_inv, weight, paired=True)


def _general(Xi: Tensor, limit: float) -> Plan:
    try:
        lam, V = torch.linalg.eig(Xi)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        return _rejected(Xi, f"LAPACK did not converge ({error})")
    V_inv, _ = torch.linalg.inv_ex(V)
    lam, V, V_inv = _refined(Xi, lam, V, V_inv)
    kappa = one_norm(V) * one_norm(V_inv)
    kappa = torch.where(torch.isfinite(kappa), kappa, torch.inf)
    accepted = kappa <= limit
    sane = accepted[:, None, None]  # a rejected basis may hold infinities, which must not reach the others
    modes = keep_one_of_each_pair(lam, torch.where(sane, V, 0), torch.where(sane, V_inv, 0), not Xi.is_complex())
    worst = float(kappa.max()) if kappa.numel() else 1.0
    sign = "<=" if worst <= limit else ">"
    return EigPlan(Xi, modes, kappa, accepted, f"kappa(V) = {worst:.3g} {sign} {limit:.3g}")


def _refined(Xi: Tensor, lam: Tensor, V: Tensor, V_inv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One Newton step on all eigenpairs: errors left are those of rounding Xi entry by entry."""
    F = V_inv @ (Xi.to(V.dtype) @ V - V * lam[:, None])
    shift = F.diagonal(dim1=-2, dim2=-1)
    gap = lam[:, None] - lam[:, :, None]
    # eigenvalues that rounding could have split are left as they are: any basis of their space will do
    noise = torch.finfo(torch.float64).eps * one_norm(Xi) * one_norm(V) * one_norm(V_inv)
    turn = torch.where(gap.abs() > MIN_GAP * noise[:, None, None], F / gap, 0)
    fine = torch.isfinite(F).all(-1).all(-1)[:, None]
    new_lam = torch.where(fine, lam + shift, lam)
    turn = torch.where(fine[..., None], turn, 0)
    V, V_inv = V + V @ turn, V_inv - turn @ V_inv
    V_inv = V_inv + (torch.eye(V.shape[-1], dtype=V.dtype, device=V.device) - V_inv @ V) @ V_inv  # Newton-Schulz
    if Xi.is_complex():
        return new_lam, V, V_inv
    real = lam.imag == 0  # real modes of a real Xi stay real
    new_lam = torch.where(real, new_lam.real.to(lam.dtype), new_lam)
    V = torch.where(real[:, None], V.real.to(V.dtype), V)
    return new_lam, V, torch.where(real[..., None], V_inv.real.to(V.dtype), V_inv)


def one_norm(A: Tensor) -> Tensor:
    return A.abs().sum(-2).amax(-1)


def _rejected(Xi: Tensor, reason: str) -> Plan:
    S, n = Xi.shape[:2]
    zero = torch.zeros(S, dtype=torch.float64, device=Xi.device)
    eye = torch.eye(n, dtype=Xi.dtype, device=Xi.device).expand(S, n, n)
    modes = keep_one_of_each_pair(torch.zeros_like(Xi[..., 0]), eye, eye, not Xi.is_complex())
    return EigPlan(Xi, modes, zero + torch.inf, zero.bool(), reason)
