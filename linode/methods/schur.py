"""Real Schur form: Xi = Q T Q^H with orthogonal Q, and exp(T t) by powers of one step.

Use when Xi is triangular in some order of its states (chains, cascades) and stiff, graded or overscaled: T is exact
then. For other stiff Xi without good eigenvectors it is faster than `propagator`, but the error is that of the Schur
form: 1 to 20 eps |Xi|, measured up to n = 80.
Of every power of exp(T H) the diagonal, the 2 x 2 diagonal blocks and the first superdiagonal have closed forms
(`kernels.triangular`), so that rounding errors do not grow in the squarings.
Cost: two Schur forms of about 25 n^3, on the CPU, one matrix at a time, and that of `propagator` in double.
Check: rounding in the powers is small beside the effect of the Schur form's error, and both below a ceiling. Systems
that fail it go to `propagator`.
Sources: Al-Mohy & Higham (2009), SIAM J. Matrix Anal. 31, section 2; Higham (2008), Functions of Matrices, (10.42).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import LinAlgError, schur
from torch import Tensor

from ..kernels.arithmetic import leading
from ..kernels.arithmetic.noisy import DATA_AMPLITUDE, N_COPIES, Noise, Noisy
from ..kernels.balance import balance
from ..kernels.memory import Memory
from ..kernels.stepping import Stepper, choose_step, power_norm, scattered
from ..kernels.taylor import DOUBLE
from ..kernels.triangular import ClosedForms
from .base import Gradients, Method, Plan, SplitPlan, Workload, register
from .costs import GEES
from .propagator import CEILING, EXTENDED_MAX_N, N_PROBES, SLACK, Propagator, PropagatorPlan, loses_digits

# of |Xi|: balancing that leaves more may hide a defective Xi in D (Watkins 2006, A case where balancing is harmful)
WORTH_BALANCING = 0.1


@register
@dataclass(frozen=True)
class Schur(Method):
    """Powers of the real Schur form; every matrix, repeated eigenvalues included.

    No options.

    Example:
        >>> import linode
        >>> method = linode.methods.Schur()
        >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'schur'
    """

    name: ClassVar[str] = "schur"
    summary: ClassVar[str] = "powers of the real Schur form; every matrix, repeated eigenvalues included"
    by_name_only: ClassVar[bool] = True  # where it wins depends on the entries of Xi, which costs do not know

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        balanced, D = balance(Xi)
        norm, left = (torch.linalg.matrix_norm(A, 1) for A in (Xi, balanced))
        D = torch.where((left <= WORTH_BALANCING * norm)[:, None], D, 1.0)
        balanced = Xi / D[:, :, None] * D[:, None]
        return SchurPlan(balanced, SchurForm(Xi, D, *schur_forms(balanced)), Propagator().plan(Xi, rtol))

    def cost(self, work: Workload) -> float:
        return Propagator().cost(work) + 2 * work.n_systems * (GEES[0] * work.n**2 + GEES[1] * work.n**3)


class QuasiTriangularStepper(Stepper):
    """Powers of exp(T H) for T in LAPACK's standard form: 2 x 2 blocks have equal diagonal entries."""

    def _closed_forms(self) -> ClosedForms:
        return ClosedForms(leading(self.A), self.H, self.shift, is_lower=False)


def schur_forms(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T, Q (S, n, n) and |Q T Q^H - A| (S,), the Frobenius norm, inf where LAPACK's iteration does not converge."""
    host = A.cpu()
    T, Q = torch.zeros_like(host), torch.zeros_like(host)
    residual = torch.zeros(len(A), dtype=torch.float64, device="cpu")
    for s, matrix in enumerate(host.numpy()):
        try:
            form = schur(matrix, output="complex" if np.iscomplexobj(matrix) else "real")
            T[s], Q[s] = (torch.from_numpy(x) for x in form)
        except LinAlgError:
            residual[s] = torch.inf
    residual += torch.linalg.matrix_norm(Q @ T @ Q.mT.conj_physical() - host)
    return T.to(A.device), Q.to(A.device), residual.to(A.device)


@dataclass
class TriangularPlan(PropagatorPlan):
    """Powers of a quasi-triangular matrix, in double."""

    @classmethod
    def of(cls, T: Tensor) -> TriangularPlan:
        norm, one_norm = power_norm(T)
        return cls(T, T, torch.ones_like(T[..., 0].real), choose_step(norm, one_norm), norm, "double", 0.0, None)

    def _stepper(self, t: Tensor) -> Stepper:
        H = self._step_for(t)
        return self._double.of(lambda: QuasiTriangularStepper(self.balanced, H, DOUBLE), H)


@dataclass
class SchurForm(Plan):
    """Trajectories by Xi = D Q T Q^H D^-1."""

    Xi: Tensor
    D: Tensor  # (S, n) powers of two
    T: Tensor
    Q: Tensor
    residual: Tensor  # (S,), see `schur_forms`
    method = "schur"

    def __post_init__(self) -> None:
        self.W, self.W_inv = self.D[:, :, None] * self.Q, self.Q.mT.conj_physical() / self.D[:, None]
        self.powers = TriangularPlan.of(self.T)

    @property
    def accepted(self) -> Tensor:
        return torch.isfinite(self.residual)

    @property
    def reason(self) -> str:
        return "a Schur form that passed its check"

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self.powers.evaluate(z0 @ self.W_inv.mT, t) @ self.W.mT[:, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        W, W_inv = self.W.conj_physical(), self.W_inv.conj_physical()
        S, a = self.powers.vjp(z0 @ self.W_inv.mT, t, g @ W[:, None])
        return W_inv.mT @ S @ W.mT, a @ W_inv

    def subset(self, index: Tensor) -> SchurForm:
        return SchurForm(*(x[index] for x in (self.Xi, self.D, self.T, self.Q, self.residual)))


class SchurPlan(Plan):
    """Systems by their Schur form, or by `whole` where they fail the check."""

    method = "schur"

    def __init__(self, balanced: Tensor, form: SchurForm, whole: PropagatorPlan) -> None:
        self.Xi, self.balanced, self.form, self.whole = form.Xi, balanced, form, whole
        self._choice: Memory[tuple[Tensor, Plan]] = Memory()  # which systems passed, and what serves all of them

    @property
    def reason(self) -> str:
        return f"Xi = Q T Q^H with orthogonal Q, residual {max(self.form.residual.tolist(), default=0.0):.3g}"

    @property
    def details(self) -> dict[str, Any]:
        n_pairs = (self.form.T.diagonal(-1, -2, -1) != 0).sum(-1).tolist()
        last = self._choice.last
        passed = last and last[0].tolist()  # None before the first trajectory
        return {"residual": self.form.residual.tolist(), "n_pairs": n_pairs, "passed": passed}

    def subset(self, index: Tensor) -> Plan:
        return SchurPlan(self.balanced[index], self.form.subset(index), self.whole.subset(index))

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self._chosen(z0, t).evaluate(z0, t)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        S, a = self._chosen(z0, t).vjp(z0, t, g)
        return self.whole.carefully.vjp(z0, t, g) if loses_digits(S, self.form.D, t) else (S, a)

    def _chosen(self, z0: Tensor, t: Tensor) -> Plan:
        """The plan, or plans, that are accurate for these trajectories."""
        return self._choice.of(lambda: self._choose(z0, t), z0, t)[1]

    def _choose(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Plan]:
        good = self._is_accurate(z0, t)
        choices: tuple[tuple[Tensor, Plan], ...] = ((good, self.form), (~good, self.whole))
        used = [(mask.nonzero()[:, 0], plan) for mask, plan in choices if bool(mask.any())]
        plan = used[0][1] if len(used) == 1 else SplitPlan(self.Xi, [(i, plan.subset(i)) for i, plan in used])
        return good, plan

    def _is_accurate(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S,) bool: rounding in the powers changes z by little more than must be.

        Three copies as in `noisy`; the matrix of the second is perturbed by the Schur form's error too.
        """
        form, good, A = self.form, self.form.accepted, self.balanced
        if self.Xi.shape[-1] > EXTENDED_MAX_N or t.numel() == 0:  # `whole` would be no more accurate
            return good
        noise = Noise()
        direction = noise.factors(A) - 1
        size = form.residual * (2 * DATA_AMPLITUDE / torch.finfo(t.dtype).eps) / torch.linalg.matrix_norm(direction)
        perturbed = A * noise.factors(A, DATA_AMPLITUDE) + torch.where(good, size, 0)[:, None, None] * direction
        T, Q, residual = schur_forms(perturbed)
        noisy_T, noisy_Q = (Noisy(torch.cat([x, y, x]), noise) for x, y in ((form.T, T), (form.Q, Q)))
        pick = torch.linspace(0, t.shape[2] - 1, min(t.shape[2], N_PROBES), device=t.device).round().to(torch.int64)
        probes = t.abs().sort(dim=2).values[:, :, pick]
        H = form.powers._step_for(probes).repeat(N_COPIES)
        y0 = Noisy.exact(z0 / form.D[:, None], noise) @ noisy_Q.conj_physical()
        y = (
            scattered(QuasiTriangularStepper(noisy_T, H, DOUBLE), y0, probes.repeat(N_COPIES, 1, 1))
            @ noisy_Q[:, None].mT
        )
        data, rounding = (y * Noisy.exact(form.D[:, None, None], noise)).spreads()
        bound = (SLACK * data).clamp(max=CEILING).clamp(min=self.whole.floor)
        passed = (rounding <= bound) & ((data <= CEILING) | (form.residual == 0)[:, None, None])  # a NaN is not
        return good & passed.all(-1).all(-1) & torch.isfinite(residual)
