"""Powers of one step: matrix products only, for every matrix.

Use when Xi is defective or nearly so, or has no well-conditioned eigenvectors; the one method that always applies.
Cost: about log2(|Xi| t_max) products of n x n, and of T x n x n (scattered times) or one polynomial a time (dense
times).
Check: a copy of the computation with amplified rounding shows the effect of rounding, a copy with perturbed data the
condition of the problem. Where the first is much larger (stiff and slow modes together, overscaling, bad scaling), the
powers, and if need be the states too, are computed in about twice the precision.
Sources: see `kernels.stepping`, `kernels.noisy`, `kernels.double_double`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..kernels.arithmetic import Wrapped
from ..kernels.arithmetic.double_double import DoubleDouble
from ..kernels.arithmetic.noisy import N_COPIES, Noise, Noisy
from ..kernels.balance import balance
from ..kernels.dense import dense, dense_vjp
from ..kernels.embedding import complex_gradient, complex_vector, real_matrix, real_vector
from ..kernels.memory import Memory
from ..kernels.stepping import Stepper, choose_step, power_norm, scattered, scattered_vjp
from ..kernels.taylor import DOUBLE, EXTENDED
from .base import Gradients, Method, Plan, SplitPlan, Workload, register
from .costs import OPERATORS, OPERATORS_OF_CHECK, SECONDS_PER_ENTRY

# mixed: powers of the step in double-double, states in double
Precision = Literal["auto", "double", "mixed", "double-double"]
ARITHMETICS: tuple[Precision, ...] = ("double", "mixed", "double-double")
EXTENDED_MAX_N = 64  # states up to which double-double is used: one of its products takes ten of double
N_PROBES = 16  # times at which rounding is measured
FLOOR = 2e-14  # relative errors below it always pass
SLACK = 3.0  # larger ones pass up to this multiple of the effect of perturbed data,
CEILING = 1e-10  # and up to this
FEW_STATES = 16  # asked for, up to which digits count for more than time
MOST_LOSS = 64.0  # units of rounding that balancing may cost a gradient
CHUNK_ENTRIES = 2**13  # of a T x n array at a time in double-double
DENSE_NODES = 0.25  # times are dense where there are at most this many steps a time
N_WAITS = 18  # of a step on a device, beside those of the engine: see tests/second_device.py


@register
@dataclass(frozen=True)
class Propagator(Method):
    """Powers of one step by matrix products; every matrix.

    Options: precision, "auto" (by a check of its own rounding), "double", "mixed" or "double-double".

    Example:
        >>> import linode
        >>> method = linode.methods.Propagator(precision="double-double")
        >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'propagator'
    """

    precision: Precision = "auto"
    name: ClassVar[str] = "propagator"
    summary: ClassVar[str] = "powers of one step by matrix products; every matrix"

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *ARITHMETICS):
            raise OptionError(f"precision must be 'auto' or one of {ARITHMETICS}, got {self.precision!r}")
        super().__post_init__()

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> PropagatorPlan:
        balanced, D = balance(Xi)
        norm, one_norm = power_norm(balanced)
        floor = FLOOR if rtol is None else max(FLOOR, 0.1 * rtol)
        return PropagatorPlan(Xi, balanced, D, choose_step(norm, one_norm), norm, self.precision, floor, rtol)

    def cost(self, work: Workload) -> float:
        n, levels, is_checked = work.n, math.log2(work.span + 2.0), work.n <= EXTENDED_MAX_N
        seconds = work.operators(OPERATORS["propagator"] + OPERATORS_OF_CHECK * is_checked, N_WAITS)
        if not work.is_on_host:
            return seconds
        # of n x n: A^2, A^4 and A^5; the powers of the polynomial, its blocks and the squarings, with their reverse
        n_products = 3 + 3 * (DOUBLE.q - 1 + DOUBLE.n_blocks - 1 + levels)
        powers, per_row = work.product(n_products * n**2), work.polynomial(DOUBLE.n_terms, n_passes=8)
        if work.span < DENSE_NODES * work.n_times:  # terms of every node, and two products in reverse
            powers += work.product(3 * DOUBLE.n_terms * n * work.span * work.n_trajectories)
        else:  # a product for every digit, and two in reverse; six passes of them, copies and choices of rows
            per_row += levels * (3 * work.product(n) + 6 * n * SECONDS_PER_ENTRY)
        n_copies = 1 + N_COPIES * is_checked  # the check computes the powers for three copies of Xi
        return seconds + work.n_systems * (n_copies * powers + work.n_rows * per_row)


@dataclass
class PropagatorPlan(Plan):
    """Balanced Xi, its step, and the powers of exp(Xi H) computed so far, in each arithmetic."""

    Xi: Tensor
    balanced: Tensor  # D^-1 Xi D
    D: Tensor  # (S, n) powers of two
    H: Tensor  # (S,) powers of two
    norm: Tensor  # (S,) |balanced| as its powers see it
    precision: Precision
    floor: float
    rtol: float | None
    method: str = "propagator"
    _double: Memory[Stepper] = field(default_factory=Memory, init=False, repr=False)
    _extended: Memory[Stepper] = field(default_factory=Memory, init=False, repr=False)
    _choice: Memory[Plan] = field(default_factory=Memory, init=False, repr=False)

    @property
    def reason(self) -> str:
        size = float(self.norm.max()) if self.norm.numel() else 0.0
        return f"matrix products only, |Xi^p|^(1/p) = {size:.3g}, arithmetic {self.precision}"

    @property
    def details(self) -> dict[str, Any]:
        steppers = {"double": self._double.last, "double-double": self._extended.last}
        chosen = self._choice.last
        return {
            "step": self.H.tolist(),
            "n_products": {name: step.n_products for name, step in steppers.items() if step is not None},
            "arithmetic": self.precision if chosen is None else chosen.details,
        }

    def subset(self, index: Tensor) -> PropagatorPlan:
        tensors = {name: getattr(self, name)[index] for name in ("Xi", "balanced", "D", "H", "norm")}
        plan = replace(self, **tensors)
        for own, whole in ((plan._double, self._double), (plan._extended, self._extended)):
            step = whole.last
            if step is not None:
                some = step.subset(index)
                own.keep(some, some.H)
        return plan

    def adjoint(self) -> PropagatorPlan:
        return Propagator(self.precision).plan(self.Xi.mT.conj_physical(), self.rtol)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        if self.precision == "auto":
            return self._chosen(z0, t).evaluate(z0, t)
        y0 = z0 / self.D[:, None]
        if self.precision == "double":
            y = (dense if self._is_dense(t) else scattered)(self._stepper(t), y0, t)
        else:
            y = torch.cat([self._extended_evaluate(y0, part) for part in self._chunks(t)], 2)
        return y * self.D[:, None, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        if self.precision == "auto":
            S, a = self._chosen(z0, t).vjp(z0, t, g)
            return self.carefully.vjp(z0, t, g) if loses_digits(S, self.D, t) else (S, a)
        D = self.D[:, None]
        y0, h = z0 / D, g * D[..., None, :]
        if self.precision == "double":
            S, a = (dense_vjp if self._is_dense(t) else scattered_vjp)(self._stepper(t), y0, t, h)
        else:
            S, a = self._extended_vjp(y0, t, h)
        return S / self.D[:, :, None] * self.D[:, None, :], a / D

    def _stepper(self, t: Tensor) -> Stepper:
        """Powers for times up to the largest of t, in double."""
        H = self._step_for(t)
        return self._double.of(lambda: Stepper(self.balanced, H, DOUBLE), H)

    def _extended_stepper(self, t: Tensor) -> Stepper:
        """The same in double-double, real."""
        H = self._step_for(t)
        A = real_matrix(self.balanced) if self.balanced.is_complex() else self.balanced
        return self._extended.of(lambda: Stepper(DoubleDouble(A), H, EXTENDED), H)

    def _step_for(self, t: Tensor) -> Tensor:
        """H, but not far above the times: t / H must not underflow."""
        t_max = t.amax((1, 2))
        longest = torch.exp2(torch.frexp(t_max).exponent.to(t_max.dtype) + 1)
        return torch.minimum(self.H, torch.where(t_max > 0, longest, 1.0))

    def _is_dense(self, t: Tensor) -> bool:
        n_nodes = float((t.amax((1, 2)) / self.H).max()) if t.numel() else 0.0
        return n_nodes < DENSE_NODES * t.shape[2]

    def _chosen(self, z0: Tensor, t: Tensor) -> Plan:
        """The plan, or plans, with the arithmetic that each system needs for these trajectories."""
        return self._choice.of(lambda: self._choose(z0, t), z0, t)

    def _choose(self, z0: Tensor, t: Tensor) -> Plan:
        tier = self.arithmetic(z0, t)
        parts = [((tier == i).nonzero()[:, 0], ARITHMETICS[i]) for i in tier.unique().tolist()]
        if len(parts) > 1:
            return SplitPlan(self.Xi, [(index, self.subset(index)._in(precision)) for index, precision in parts])
        return self._in(parts[0][1])

    @property
    def carefully(self) -> PropagatorPlan:
        """The same plan in double-double."""
        return self._in("double-double")

    def _in(self, precision: Precision) -> PropagatorPlan:
        """The same plan in one arithmetic, with the powers that are known."""
        plan = replace(self, precision=precision)
        plan._double, plan._extended = self._double, self._extended
        return plan

    def arithmetic(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S,) indices into ARITHMETICS: the first in which rounding hurts no more than the condition explains."""
        S, n = self.Xi.shape[:2]
        tier = torch.zeros(S, dtype=torch.int64, device=self.Xi.device)
        if n > EXTENDED_MAX_N or t.numel() == 0:
            return tier
        pick = torch.linspace(0, t.shape[2] - 1, min(t.shape[2], N_PROBES), device=t.device).round().to(torch.int64)
        probes = t.sort(dim=2).values[:, :, pick]
        for i, is_quiet in enumerate((False, True)):
            failed = (tier == i).nonzero()[:, 0]
            if len(failed):
                tier[failed] += (~self._is_stable(failed, z0, probes, is_quiet)).to(torch.int64)
        return tier

    def _is_stable(self, index: Tensor, z0: Tensor, t: Tensor, is_quiet: bool) -> Tensor:
        """(S,) bool: rounding in the states, and unless quiet in the powers, changes z and Xi z little enough."""
        noise, D = Noise(), self.D[index]
        A = Noisy.data(self.balanced[index], noise, is_quiet)
        y0 = Noisy.exact(z0[index] / D[:, None], noise)
        y = scattered(
            Stepper(A, self._step_for(t)[index].repeat(N_COPIES), DOUBLE), y0, t[index].repeat(N_COPIES, 1, 1)
        )
        stable = torch.ones(len(index), dtype=torch.bool, device=t.device)
        for x, ceiling in ((y, CEILING), (y @ A[:, None].mT, 1.0)):
            data, rounding = (x * Noisy.exact(D[:, None, None], noise)).spreads()
            bound = (SLACK * data).clamp(max=ceiling).clamp(min=self.floor)
            stable &= (rounding <= bound).all(-1).all(-1)  # a NaN is not
        return stable

    def _chunks(self, t: Tensor) -> list[Tensor]:
        S, R, _ = t.shape
        return list(t.split(max(1, CHUNK_ENTRIES // max(1, S * R * self.Xi.shape[-1])), 2))

    def _states(self, v: Tensor) -> Any:
        """Real, and in the arithmetic that states have."""
        real = real_vector(v) if v.is_complex() else v
        return DoubleDouble(real) if self.precision == "double-double" else real

    def _extended_evaluate(self, y0: Tensor, t: Tensor) -> Tensor:
        y = _rounded(scattered(self._extended_stepper(t), self._states(y0), t))
        return complex_vector(y) if y0.is_complex() else y

    def _extended_vjp(self, y0: Tensor, t: Tensor, h: Tensor) -> Gradients:
        step = self._extended_stepper(t)
        S: Any = None
        a: Any = None
        sizes = [part.shape[2] for part in self._chunks(t)]
        for part, g in zip(t.split(sizes, 2), h.split(sizes, 2)):
            S_part, a_part = scattered_vjp(step, self._states(y0), part, self._states(g))
            S, a = (S_part, a_part) if S is None else (S + S_part, a + a_part)
        S, a = S.round(), a.round()
        return (complex_gradient(S), complex_vector(a)) if y0.is_complex() else (S, a)


def loses_digits(S: Tensor, D: Tensor, t: Tensor) -> bool:
    """Whether a gradient S by Xi, at few times t, is large where that by D^-1 Xi D, which it came from, is small
    beside others: it has the rounding errors of these.
    """
    spread = D.amax(-1) / D.amin(-1)
    if t.numel() > FEW_STATES or D.shape[-1] > EXTENDED_MAX_N or not bool((spread > MOST_LOSS).any()):
        return False
    balanced = (S * (D[:, :, None] / D[:, None, :])).abs().amax((1, 2))
    return bool((balanced / S.abs().amax((1, 2)) * spread > MOST_LOSS).any())


def _rounded(x: Any) -> Tensor:
    return x.round() if isinstance(x, Wrapped) else x
