"""Eigendecomposition: the fastest evaluation, where the eigenvectors are well conditioned.

Use when kappa(V) is moderate: then every time costs one exponential per mode, however long or stiff. Cost: about 25
n^3 once, on the CPU, and three products of T x n x n for a gradient. Diagonal, Hermitian and skew-Hermitian Xi are
found exactly and have kappa = 1.
Check: kappa_1(V), which bounds what rounding does to z, and the squares of the eigenvalues' condition numbers, which
bound what it does to dL/dXi where two eigenvalues are close, are at most max_condition.
Sources: see `kernels.eigenpairs`, `kernels.modal`; Golub & Van Loan (2013), 7.2.2 (condition of an eigenvalue).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.eigenpairs import eigenpairs, one_norm, structure, unitary_eigenpairs
from ..kernels.modal import Modes
from .base import SECONDS_PER_EXP, SECONDS_PER_FLOP, Method, Plan, Workload, register

MAX_CONDITION = 1000.0
Array = NDArray[Any]


@register
@dataclass(frozen=True)
class Eig(Method):
    """Options: max_condition, the largest kappa_1(V), and squared condition number of an eigenvalue, accepted."""

    max_condition: float = MAX_CONDITION
    name: ClassVar[str] = "eig"
    summary: ClassVar[str] = "eigendecomposition; Xi with well-conditioned eigenvectors"
    needs_host: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None) -> Plan:
        limit = self.max_condition
        if rtol is not None:  # kappa(V) eps is the error to expect
            limit = max(limit, rtol / (100 * torch.finfo(torch.float64).eps))
        A = Xi.cpu().numpy()
        kind = structure(A)
        if kind:
            lam, V = unitary_eigenpairs(A, kind)
            modes = keep_one_of_each_pair(lam, V, V.swapaxes(-1, -2).conj(), Xi)
            ones = torch.ones(len(A), dtype=torch.float64, device=Xi.device)
            return EigPlan(Xi, modes, ones, ones > 0, f"Xi is {kind}")
        return _general(Xi, A, limit)

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


def keep_one_of_each_pair(lam: Array, V: Array, V_inv: Array, like: Tensor) -> Modes:
    """Modes for a complex Xi; for a real one without the conjugates, and real where all eigenvalues are.

    lam (S, n), V (S, n, n), V_inv (S, n, n); `like` says by its dtype which Xi is, and where the modes go.
    """
    weight = np.ones(lam.shape)
    paired = not like.is_complex() and np.iscomplexobj(lam) and bool((lam.imag != 0).any() or (V.imag != 0).any())
    if not like.is_complex() and not paired:
        lam, V, V_inv = lam.real, V.real, V_inv.real
    if paired:
        weight = 1.0 + np.sign(lam.imag)  # 2 for the kept one of a pair, 1 for a real eigenvalue, 0 for the other
        p = int((weight > 0).sum(-1).max())
        order = np.argsort(-weight, axis=-1, kind="stable")[:, :p]  # pairs lead
        weight = np.take_along_axis(weight, order, -1)
        lam = np.where(weight > 0, np.take_along_axis(lam, order, -1), 0)  # padding
        V = np.take_along_axis(V, order[:, None], -1)
        V_inv = np.take_along_axis(V_inv, order[..., None], -2)
        if not weight.all():
            V_inv = np.where(weight[..., None] > 0, V_inv, 0)  # padding is never excited
    arrays = (torch.from_numpy(np.ascontiguousarray(x)).to(like.device) for x in (lam, V, V_inv, weight))
    return Modes(*arrays, paired=paired)


def _general(Xi: Tensor, A: Array, limit: float) -> Plan:
    try:
        lam, V, V_inv = eigenpairs(A)
    except np.linalg.LinAlgError as error:
        return _rejected(Xi, A, f"LAPACK did not converge ({error})")
    with np.errstate(all="ignore"):
        kappa = one_norm(V) * one_norm(V_inv)
        squares = (np.abs(V) ** 2).sum(-2) * (np.abs(V_inv) ** 2).sum(-1)  # of the eigenvalues' conditions
    kappa, worst_square = (np.where(np.isfinite(x), x, np.inf) for x in (kappa, squares.max(-1)))
    accepted = np.maximum(kappa, worst_square) <= limit
    if not accepted.all():  # a rejected basis may hold infinities, which must not reach the others
        V, V_inv = (np.where(accepted[:, None, None], x, 0) for x in (V, V_inv))
    shown = [("kappa(V)", kappa), ("squared condition of an eigenvalue", worst_square)]
    said = [f"{name} = {x.max():.3g} {'<=' if x.max() <= limit else '>'} {limit:.3g}" for name, x in shown]
    modes = keep_one_of_each_pair(lam, V, V_inv, Xi)
    kappa, accepted = (torch.from_numpy(x).to(Xi.device) for x in (kappa, accepted))
    return EigPlan(Xi, modes, kappa, accepted, ", ".join(said))


def _rejected(Xi: Tensor, A: Array, reason: str) -> Plan:
    infinite = torch.full((len(A),), torch.inf, dtype=torch.float64, device=Xi.device)
    eye = np.broadcast_to(np.eye(A.shape[-1], dtype=A.dtype), A.shape)
    modes = keep_one_of_each_pair(np.zeros(A.shape[:-1], A.dtype), eye, eye, Xi)
    return EigPlan(Xi, modes, infinite, infinite < 0, reason)
