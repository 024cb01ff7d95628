"""Real Schur form: Xi = Q T Q^H with orthogonal Q, and exp(T t) by powers of one step.

Use when Xi is defective or nearly so and so stiff that plain squaring loses digits: of every power of exp(T H) the
diagonal, the 2 x 2 diagonal blocks and the first superdiagonal are set to their closed forms, so that the rounding
errors of the squarings do not add up in them.
Cost: about 25 n^3 for the Schur form, on the CPU, one matrix at a time, and then that of `propagator`.
Check: that of `propagator`; the error of the Schur form counts as rounding. Systems that fail it go to `propagator`.
Sources: Al-Mohy & Higham (2009), SIAM J. Matrix Anal. 31, section 2; Higham (2008), Functions of Matrices, (10.42).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import LinAlgError, schur
from torch import Tensor

from ..kernels.arithmetic import Array, leading
from ..kernels.arithmetic.noisy import DATA_AMPLITUDE, N_COPIES, Noise, Noisy
from ..kernels.balance import balance
from ..kernels.stepping import Stepper, choose_step, power_norm, scattered
from ..kernels.taylor import DOUBLE, Degree
from .base import Method, Plan, SplitPlan, Workload, register
from .costs import GEES
from .propagator import CEILING, EXTENDED_MAX_N, N_PROBES, SLACK, Propagator, PropagatorPlan

N_LEVELS = 63  # powers 2^0 to 2^62 of a step: MAX_NODE of `stepping` has 62 binary digits


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
    needs_host: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None) -> Plan:
        balanced, D = balance(Xi)
        return SchurPlan(Xi, balanced, D, *schur_forms(balanced), Propagator().plan(Xi, rtol))

    def cost(self, work: Workload) -> float:
        lapack = GEES[0] * work.n**2 + GEES[1] * work.n**3
        return Propagator().cost(work) + N_COPIES * work.n_systems * lapack


class TriangularStepper(Stepper):
    """Powers of exp(T H) whose diagonal, 2 x 2 diagonal blocks and first superdiagonal are exact to rounding.

    T (S, n, n) is quasi-triangular in LAPACK's standard form: 2 x 2 blocks have equal diagonal entries.
    """

    def __init__(self, T: Array, H: Tensor, degree: Degree) -> None:
        super().__init__(T, H, degree)
        A = leading(T)
        above, below = A.diagonal(1, -2, -1), A.diagonal(-1, -2, -1)
        is_block = below != 0
        near = torch.nn.functional.pad(is_block, (1, 1))
        # between a 2 x 2 block and its neighbour the superdiagonal has no such closed form
        self._is_closed = is_block | ~(near[:, :-2] | near[:, 2:])
        h = (H * 2.0 ** torch.arange(N_LEVELS, dtype=H.dtype, device=H.device)[:, None])[..., None]  # (N_LEVELS, S, 1)
        x = quasi_triangular_eigenvalues(A) * h
        diagonal, factor = torch.exp(x), h * divided_difference(x[..., :-1], x[..., 1:])
        if not A.is_complex():
            diagonal, factor = diagonal.real, factor.real
        self._closed = {0: diagonal, 1: factor * above, -1: factor * below}
        self._set(0)

    def E(self, level: int) -> Any:
        for k in range(1, level + 1):
            if k not in self._E:  # by its number: two threads may compute it, and store the same
                self._E[k] = self._E[k - 1] @ self._E[k - 1]
                self.n_products += 1
                self._set(k)
        return self._E[level]

    def _set(self, level: int) -> None:
        E = leading(self._E[level])
        E.diagonal(0, -2, -1).copy_(self._closed[0][level])
        E.diagonal(-1, -2, -1).copy_(self._closed[-1][level])
        above = E.diagonal(1, -2, -1)
        above.copy_(torch.where(self._is_closed, self._closed[1][level], above))


def divided_difference(x: Tensor, y: Tensor) -> Tensor:
    """(exp(x) - exp(y)) / (x - y) for complex x and y, without cancellation and without needless overflow."""
    swap = x.real < y.real
    x, y = torch.where(swap, y, x), torch.where(swap, x, y)
    gap = y - x  # its real part is not positive
    return torch.exp(x) * torch.where(gap == 0, 1.0, torch.expm1(gap) / torch.where(gap == 0, 1.0, gap))


def quasi_triangular_eigenvalues(T: Tensor) -> Tensor:
    """Of T (S, n, n) in LAPACK's standard form, position by position, complex."""
    lam = T.diagonal(dim1=-2, dim2=-1).to(torch.complex128, copy=True)
    above, below = (T.diagonal(k, -2, -1).to(lam.dtype).sqrt() for k in (1, -1))  # the product may overflow
    lam[:, :-1] += above * below
    lam[:, 1:] -= above * below
    return lam


def schur_forms(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T and Q (S, n, n), and whether LAPACK's iteration converged (S,): else Q is I and T is 0."""
    T, Q = torch.zeros_like(A), torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).repeat(len(A), 1, 1)
    factored = torch.ones(len(A), dtype=torch.bool, device=A.device)
    for s, matrix in enumerate(A.cpu().numpy()):
        try:
            form = schur(matrix, output="complex" if np.iscomplexobj(matrix) else "real")
        except LinAlgError:
            factored[s] = False
        else:
            T[s], Q[s] = (torch.from_numpy(np.ascontiguousarray(x)) for x in form)
    return T, Q, factored


@dataclass
class TriangularPlan(PropagatorPlan):
    """Powers of a quasi-triangular matrix, in double."""

    @classmethod
    def of(cls, T: Tensor) -> TriangularPlan:
        norm, one_norm = power_norm(T)
        ones = torch.ones(T.shape[:-1], dtype=torch.float64, device=T.device)
        return cls(T, T, ones, choose_step(norm, one_norm), norm, "double", 0.0)

    @property
    def backward(self) -> PropagatorPlan:
        self._backward = self._backward or TriangularPlan.of(-self.Xi)
        return self._backward

    def _stepper(self, t: Tensor) -> Stepper:
        H = self._step_for(t)
        if self._double is None or not torch.equal(self._double.H, H):
            self._double = TriangularStepper(self.balanced, H, DOUBLE)
        return self._double


@dataclass
class SchurForm(Plan):
    """Trajectories by Xi = W T W^-1."""

    Xi: Tensor
    T: Tensor
    W: Tensor  # (S, n, n): D Q
    W_inv: Tensor
    powers: TriangularPlan
    method: str = "schur"

    def __post_init__(self) -> None:
        self.accepted, self.reason = self.powers.accepted, self.powers.reason

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self.powers.evaluate(z0 @ self.W_inv.mT, t) @ self.W.mT[:, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        W, W_inv = self.W.conj_physical(), self.W_inv.conj_physical()
        S, a, dt = self.powers.vjp(z0 @ self.W_inv.mT, t, g @ W[:, None], want_t)
        return W_inv.mT @ S @ W.mT, a @ W_inv, dt

    def subset(self, index: Tensor) -> SchurForm:
        T = self.T[index]
        return SchurForm(self.Xi[index], T, self.W[index], self.W_inv[index], TriangularPlan.of(T))


@dataclass
class SchurPlan(Plan):
    """Systems by their Schur form, or by `whole` where rounding in it hurts more than the condition explains."""

    Xi: Tensor
    balanced: Tensor  # D^-1 Xi D = Q T Q^H
    D: Tensor  # (S, n) powers of two
    T: Tensor
    Q: Tensor
    factored: Tensor  # (S,) bool
    whole: PropagatorPlan  # of every Xi
    method: str = "schur"
    _choice: tuple[Tensor, Tensor, Tensor, Plan] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        W, W_inv = self.D[:, :, None] * self.Q, self.Q.mT.conj_physical() / self.D[:, None]
        self.form = SchurForm(self.Xi, self.T, W, W_inv, TriangularPlan.of(self.T))
        self.accepted = torch.ones_like(self.factored)

    @property
    def residual(self) -> Tensor:
        """|Q T Q^H - D^-1 Xi D| in the Frobenius norm, (S,)."""
        return torch.linalg.matrix_norm(self.Q @ self.T @ self.Q.mT.conj_physical() - self.balanced)

    @property
    def n_pairs(self) -> list[int]:
        """2 x 2 blocks of each T."""
        return (self.T.diagonal(-1, -2, -1) != 0).sum(-1).tolist()

    @property
    def reason(self) -> str:  # type: ignore[override]
        size = torch.linalg.matrix_norm(self.balanced)
        error = float((self.residual / torch.where(size > 0, size, 1.0)).amax()) if len(size) else 0.0
        return f"orthogonal Schur form, error {error:.3g} of |Xi|, at most {max(self.n_pairs, default=0)} 2 x 2 blocks"

    @property
    def details(self) -> dict[str, Any]:
        chosen = self._choice
        passed = chosen[2].tolist() if chosen else "not checked yet"
        return {"n_pairs": self.n_pairs, "residual": self.residual.tolist(), "passed": passed}

    def subset(self, index: Tensor) -> Plan:
        own = (self.Xi, self.balanced, self.D, self.T, self.Q, self.factored)
        return SchurPlan(*(x[index] for x in own), self.whole.subset(index))

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self._chosen(z0, t).evaluate(z0, t)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        return self._chosen(z0, t).vjp(z0, t, g, want_t)

    def _chosen(self, z0: Tensor, t: Tensor) -> Plan:
        """The plan, or plans, that are accurate for these trajectories."""
        choice = self._choice  # one read: another thread may replace it
        if choice is not None and torch.equal(choice[0], z0) and torch.equal(choice[1], t):
            return choice[3]
        good = self.factored & self._is_accurate(z0, t)
        plan: Plan = self.form
        if not bool(good.any()):
            plan = self.whole
        elif not bool(good.all()):
            pairs = ((good.nonzero()[:, 0], self.form), ((~good).nonzero()[:, 0], self.whole))
            plan = SplitPlan(self.Xi, [(index, part.subset(index)) for index, part in pairs])
        self._choice = (z0.clone(), t.clone(), good, plan)
        return plan

    def _is_accurate(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S,) bool: rounding in the powers changes z and Xi z little, beside what must be and the Schur form's error.

        Three copies as in `noisy`; the matrix of the second is perturbed by as much as the Schur form is in error too.
        """
        if self.Xi.shape[-1] > EXTENDED_MAX_N or t.numel() == 0:  # `whole` would be no more accurate
            return torch.ones_like(self.factored)
        noise, A = Noise(), self.balanced
        direction = noise.factors(A) - 1
        size = self.residual * (2 * DATA_AMPLITUDE / torch.finfo(t.dtype).eps) / torch.linalg.matrix_norm(direction)
        perturbed = A * noise.factors(A, DATA_AMPLITUDE) + size[:, None, None] * direction
        T, Q, factored = schur_forms(perturbed)
        T, Q, A = (Noisy(torch.cat([x, y, x]), noise) for x, y in ((self.T, T), (self.Q, Q), (A, perturbed)))
        pick = torch.linspace(0, t.shape[2] - 1, min(t.shape[2], N_PROBES), device=t.device).round().to(torch.int64)
        probes = t.abs().sort(dim=2).values[:, :, pick]
        H = self.form.powers._step_for(probes).repeat(N_COPIES)
        y0 = Noisy.exact(z0 / self.D[:, None], noise) @ Q.conj_physical()
        y = scattered(TriangularStepper(T, H, DOUBLE), y0, probes.repeat(N_COPIES, 1, 1)) @ Q[:, None].mT
        for x, ceiling in ((y, CEILING), (y @ A[:, None].mT, 1.0)):
            data, rounding = (x * Noisy.exact(self.D[:, None, None], noise)).spreads()
            bound = (SLACK * data).clamp(max=ceiling).clamp(min=self.whole.floor)
            is_small = (self.residual == 0)[:, None, None] | (data <= ceiling)
            factored &= (is_small & (rounding <= bound)).all(-1).all(-1)  # a NaN is not
        return factored
