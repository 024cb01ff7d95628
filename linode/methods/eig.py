"""Eigendecomposition: the fastest evaluation, where the eigenvectors are well conditioned.

Use when kappa(V) is moderate: then every time costs one exponential per mode, however long or stiff. Cost: about 25
n^3 once, on the CPU, and three products of T x n x n for a gradient. Diagonal, Hermitian and skew-Hermitian Xi are
found exactly and have kappa = 1.
Check: kappa_1(V), which bounds what rounding does to z, and products of the conditions of close eigenvalues, which
bound what it does to dL/dXi, are at most max_condition, or explained by the condition of the problem.
Sources: see `kernels.eigenpairs`, `kernels.modes`; Golub & Van Loan (2013), 7.2.2 (condition of an eigenvalue).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..kernels import small
from ..kernels.eigenpairs import GRADIENT_SLACK, eigenpairs, structure, unitary_modes
from ..kernels.modes import Modes
from ..kernels.private import LinAlgError
from ..kernels.tensors import one_norm
from .base import ROUNDINGS, CompiledPlan, Gradients, Method, Plan, Pullback, Workload, register
from .costs import (
    COMPILED_CALL,
    COMPILED_EIG,
    COMPILED_EIG_TIME,
    COMPILED_SYSTEM,
    GEEV,
    OPERATORS,
    OPERATORS_OF_PAIRS,
    SECONDS_PER_ENTRY,
    SECONDS_PER_EXP,
)
from .propagator import CEILING

MAX_CONDITION = 1000.0
SMALLEST = 1e-150  # of |Xi|: MKL's geev, of torch 2.13, may write beyond its memory where entries lie below
MOST_SIZE = 1e90  # of |Xi| and of 1 / |Xi|: cubes of eigenvalues and of their distances must be floats
FEW_STATES = 20  # random matrices of more have modes to be refined, and some that are close: counted at 24 and more
N_LAUNCHES, N_WAITS = 90, 1  # of a step on a device, but for waits of the engine: see tests/second_device.py


@register
@dataclass(frozen=True)
class Eig(Method):
    """Eigendecomposition; Xi with well-conditioned eigenvectors, however stiff.

    Options: max_condition, the largest kappa_1(V), and the largest amplification of rounding in dL/dXi, accepted.

    Example:
        >>> import linode
        >>> method = linode.methods.Eig(max_condition=10.0)
        >>> linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'eig'
    """

    max_condition: float = MAX_CONDITION
    name: ClassVar[str] = "eig"
    summary: ClassVar[str] = "eigendecomposition; Xi with well-conditioned eigenvectors"

    def __post_init__(self) -> None:
        if not (isinstance(self.max_condition, (int, float)) and self.max_condition > 0):
            raise OptionError(f"max_condition must be a positive number, got {self.max_condition!r}")
        super().__post_init__()

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        limit = self.max_condition
        if rtol is not None:  # kappa(V) eps is the error to expect
            limit = max(limit, rtol / (100 * torch.finfo(torch.float64).eps))
        plan = _plan(Xi.cpu(), limit, work)
        if not Xi.is_cpu:
            plan = (plan.twin if isinstance(plan, CompiledEigPlan) else plan).to(Xi)
        plan.t_asked = (work or Workload.of(Xi)).t_maxes
        return plan

    def cost(self, work: Workload) -> float:
        if work.is_diagonal:  # exact, whatever others cost
            return 0.0
        n, S, is_compiled = work.n, work.n_systems, work.n <= small.MOST_STATES
        if is_compiled:
            factors = COMPILED_CALL + S * (COMPILED_SYSTEM + COMPILED_EIG[0] * n**2 + COMPILED_EIG[1] * n**3)
        else:  # 6 complex products, each 4 real ones: 3 of a Newton step, 3 of a gradient; and 2 inverses
            n_operators = OPERATORS["eig"] + OPERATORS_OF_PAIRS * (n > FEW_STATES) - N_LAUNCHES * (not work.is_on_host)
            factors = work._replace(is_on_host=True).operators(n_operators)
            factors += S * (GEEV[0] * n**2 + GEEV[1] * n**3 + (6 * 4 + 2) * work.product(n**2))
        if not work.is_on_host:  # Xi to the host; V twice, V^-1 and the inverse distances, complex, back
            return factors + work.operators(N_LAUNCHES, N_WAITS) + work.copies(9 * S * n**2)
        if is_compiled:
            of_times, of_states = COMPILED_EIG_TIME[0] * n, COMPILED_EIG_TIME[1] * n**2
        else:  # a product forward, two in reverse; 13 n entries are written beside, as counted
            of_times, of_states = n * SECONDS_PER_EXP, 3 * work.product(n) + 13 * n * SECONDS_PER_ENTRY
        # trajectories of one system most often have the same times, and so the same exponentials
        return factors + S * (work.n_times * of_times + work.n_rows * of_states)


def _plan(Xi: Tensor, limit: float, work: Workload | None) -> EigPlan | CompiledEigPlan:
    """On the CPU."""
    work = work or Workload.of(Xi)
    made = small.make_plans(small.EIG, Xi, limit, work.t_max, work.own_t_max)
    if made and made.n_refused == 0 and made.structure is None:
        plan: EigPlan | CompiledEigPlan = CompiledEigPlan(Xi, made.plans, limit, t_needed=made.t_needed)
    else:
        plan = _compiled(_plan_by_torch(Xi, made.structure if made else structure(Xi), limit, work))
    if plan.t_needed > 0 and work.own_t_max is not None:
        plan.t_ranges = _ranges(plan)
    return plan


def _ranges(plan: EigPlan | CompiledEigPlan) -> tuple[Tensor, Tensor]:
    """Of times up to which each system may be asked, (S,)."""
    check = (plan.twin if isinstance(plan, CompiledEigPlan) else plan).check
    least = torch.zeros(len(plan.Xi), dtype=torch.float64, device="cpu") if isinstance(check, str) else check.t_needed
    return least, torch.full_like(least, torch.inf)


def _compiled(plan: EigPlan) -> EigPlan | CompiledEigPlan:
    """The same for the compiled kernel, where it serves."""
    sizes = one_norm(plan.Xi)  # the squares of moduli must be floats there
    in_range = (sizes == 0) | ((sizes >= 1 / MOST_SIZE) & (sizes <= MOST_SIZE))
    if small.serves(plan.Xi) and plan.is_accepted and bool(in_range.all()):
        return CompiledEigPlan(plan.Xi, _compiled_modes(plan.modes), twin=plan)
    return plan


def _plan_by_torch(Xi: Tensor, kind: str | None, limit: float, work: Workload) -> EigPlan:
    """kind: the structure of Xi that makes its eigenvectors unitary."""
    if kind:
        return EigPlan(Xi, unitary_modes(Xi, kind), torch.ones(len(Xi), device="cpu").double(), f"Xi is {kind}")
    sizes = one_norm(Xi)
    most = float(sizes.max())
    if not (most <= MOST_SIZE and bool(((sizes >= 1 / MOST_SIZE) | (sizes == 0)).all())):
        return _rejected(Xi, f"powers of |Xi| = {most:.3g} leave the range of floats")
    if bool(((Xi != 0) & (Xi.abs() < SMALLEST * sizes[:, None, None])).any()):
        return _rejected(Xi, f"entries of Xi lie below {SMALLEST:g} of |Xi|")
    try:
        pairs = eigenpairs(Xi, sizes, limit, work.t_maxes)
    except LinAlgError as error:
        return _rejected(Xi, f"LAPACK did not converge ({error})")
    t_needed = torch.where(pairs.accepted, pairs.t_needed, 0.0)
    check = Check(pairs.kappa, pairs.amplification, limit, t_needed)
    plan = EigPlan(Xi, pairs.modes, pairs.kappa, check, pairs.accepted)
    plan.t_needed = float(t_needed.max())
    return plan


@dataclass
class EigPlan(Plan):
    """Modes of Xi, and the condition of their basis."""

    Xi: Tensor
    modes: Modes  # on the device of Xi
    kappa: Tensor  # (S,) 1-norm condition of V, on the CPU
    check: Check | str  # why, as text
    passed: Tensor | None = None  # (S,) bool: accepted; None: all
    method = "eig"
    any_sign = True
    t_asked: Tensor | None = None  # (S,) the largest time of each system asked for when it was made

    @property
    def accepted(self) -> Tensor:
        return super().accepted if self.passed is None else self.passed.to(self.Xi.device)

    @property
    def is_accepted(self) -> bool:  # without a wait for the device
        return self.passed is None or bool(self.passed.all())

    @property
    def reason(self) -> str:
        """The check, and what was traded for speed."""
        rounding = None if self.t_asked is None else self.rounding(self.t_asked)
        worst = 0.0 if rounding is None or len(rounding) == 0 else float(rounding.max())
        traded = f"; rounding may leave {worst:.1g}, 'propagator' leaves less" if worst > CEILING else ""
        return f"{self.check}{traded}"

    @property
    def details(self) -> dict[str, Any]:
        return {"kappa_V": self.kappa.tolist(), "eigenvalues": self.modes.lam.tolist()}

    def rounding(self, t_max: Tensor) -> Tensor | None:
        """Of eigenvalues, at the time up to which their modes last."""
        if self.check == "Xi is diagonal":
            return None
        lam = self.modes.lam if self.modes.on_host is None else self.modes.on_host
        lasts = (1 / (-lam.real).clamp(min=SMALLEST)).amax(-1).minimum(t_max)
        return ROUNDINGS * one_norm(self.Xi).cpu() * lasts

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self.modes.evaluate(z0, t)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        return self.modes.vjp(z0, t, g)

    def record(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Pullback]:
        return self.modes.record(z0, t)

    def to(self, Xi: Tensor) -> EigPlan:
        """The same for Xi where it is on another device."""
        plan = EigPlan(Xi, self.modes.to(Xi.device), self.kappa, self.check, self.passed)
        plan.t_needed, plan.t_ranges = self.t_needed, self.t_ranges
        return plan

    def subset(self, index: Tensor) -> Plan:
        host = index.cpu()
        check = self.check if isinstance(self.check, str) else self.check.subset(host)
        passed = None if self.passed is None else self.passed[host]
        plan = EigPlan(self.Xi[index], self.modes.subset(index), self.kappa[host], check, passed)
        plan.t_needed, plan.t_asked = self.t_needed, None if self.t_asked is None else self.t_asked[host]
        found = _compiled(plan)
        found.t_ranges = None if self.t_ranges is None else (self.t_ranges[0][host], self.t_ranges[1][host])
        return found

    def adjoint(self) -> EigPlan:
        plan = EigPlan(self.Xi.mT.conj_physical(), self.modes.adjoint(), self.kappa, self.check, self.passed)
        plan.t_needed, plan.t_ranges = self.t_needed, self.t_ranges
        return plan


class CompiledEigPlan(CompiledPlan):
    """Eigenpairs that the compiled kernel evaluates; `twin` has them as `Modes`, made when first asked for."""

    method = "eig"
    any_sign = True
    t_asked: Tensor | None = None

    def __init__(
        self,
        Xi: Tensor,
        compiled: bytearray,
        limit: float = torch.inf,
        t_needed: float = 0.0,
        twin: EigPlan | None = None,
    ) -> None:
        self.Xi, self.compiled, self.limit, self.t_needed = Xi, compiled, limit, t_needed
        if twin is not None:
            self.twin, self.t_needed = twin, twin.t_needed

    @cached_property
    def twin(self) -> EigPlan:
        rows = small.as_rows(self.compiled, len(self.Xi))
        _, _, kappa, amplification, t_needed, _ = rows[:, : small.HEADER].unbind(1)
        plan = EigPlan(self.Xi, _modes(rows, self.Xi), kappa, Check(kappa, amplification, self.limit, t_needed))
        plan.t_needed = self.t_needed
        return plan

    @property
    def modes(self) -> Modes:
        return self.twin.modes

    @property
    def reason(self) -> str:
        self.twin.t_asked = self.t_asked
        return self.twin.reason

    @property
    def details(self) -> dict[str, Any]:
        return self.twin.details

    def rounding(self, t_max: Tensor) -> Tensor | None:
        return self.twin.rounding(t_max)

    def subset(self, index: Tensor) -> Plan:
        self.twin.t_asked, self.twin.t_ranges = self.t_asked, self.t_ranges
        return self.twin.subset(index)

    def adjoint(self) -> Plan:
        twin = self.twin.adjoint()
        plan = CompiledEigPlan(twin.Xi, _compiled_modes(twin.modes), twin=twin)
        plan.t_ranges = self.t_ranges
        return plan


def _compiled_modes(modes: Modes) -> bytearray:
    """As the compiled kernel has them: see `small.Made`."""
    S, n = modes.lam.shape
    header = torch.zeros(S, small.HEADER, dtype=torch.float64, device="cpu")
    mask = torch.zeros(S, -(-n * n // 8) * 8, dtype=torch.uint8, device="cpu")
    if modes.is_paired:
        header[:, 0] = (modes.lam.imag > 0).sum(-1)
    header[:, 1] = 1 if modes.delicate is None else 2
    if modes.delicate is not None:
        mask[:, : modes.n_kept * n] = modes.delicate.flatten(1)
    header[:, 5] = small.EIG if modes.is_real else small.EIG + small.COMPLEX
    wide = (x.to(torch.complex128).contiguous() for x in (modes.lam, modes.V, modes.V_inv))
    numbers = (torch.view_as_real(x).flatten(1) for x in wide)
    return small.as_plans(torch.cat([header, *numbers, mask.view(torch.float64)], 1))


def _modes(rows: Tensor, Xi: Tensor) -> Modes:
    """From the numbers of the compiled kernel."""
    S, n = Xi.shape[:2]
    stop = small.HEADER + 2 * n + 4 * n * n
    numbers = torch.view_as_complex(rows[:, small.HEADER : stop].contiguous().view(S, -1, 2))  # rows may be odd
    lam, V, V_inv = numbers[:, :n], numbers[:, n : n + n * n].reshape(S, n, n), numbers[:, n + n * n :].reshape(S, n, n)
    counts, verdicts = rows[:, 0], rows[:, 1]
    is_paired = not Xi.is_complex() and bool(counts.any())
    n_pairs = int(counts[0]) if is_paired and bool((counts == counts[0]).all()) else 0
    delicate = None
    if bool((verdicts == 2).any()):
        mask = rows[:, stop:].contiguous().view(torch.uint8)[:, : n * n].reshape(S, n, n) == 1
        delicate = (mask & (verdicts == 2)[:, None, None])[:, : n - n_pairs]
    if is_paired or Xi.is_complex():
        return Modes(lam, V, V_inv, not Xi.is_complex(), n_pairs, delicate=delicate)
    lam, V, V_inv = (x.real.contiguous() for x in (lam, V, V_inv))
    return Modes(lam, V, V_inv, True, delicate=delicate)


@dataclass(frozen=True)
class Check:
    """The figures that were looked at, in words when asked for."""

    kappa: Tensor
    amplification: Tensor
    limit: float
    t_needed: Tensor

    def subset(self, index: Tensor) -> Check:
        return replace(self, **{name: getattr(self, name)[index] for name in ("kappa", "amplification", "t_needed")})

    def __str__(self) -> str:
        figures = {"kappa(V)": (self.kappa, 1.0), "amplification in dL/dXi": (self.amplification, GRADIENT_SLACK)}
        shown = []
        for name, (x, slack) in figures.items():
            worst, limit = float(torch.where(torch.isfinite(x), x, torch.inf).max()), slack * self.limit
            shown.append(f"{name} = {worst:.3g} {'<=' if worst <= limit else '>'} {limit:.3g}")
        late = float(torch.where(torch.isfinite(self.t_needed), self.t_needed, 0.0).max())
        return ", ".join(shown) + (f", below what Xi explains from t = {late:.3g} on" if late else "")


def _rejected(Xi: Tensor, reason: str) -> EigPlan:
    none = torch.zeros(len(Xi), dtype=torch.bool, device="cpu")
    modes = unitary_modes(torch.zeros_like(Xi), "diagonal")
    return EigPlan(Xi, modes, torch.full((len(Xi),), torch.inf, device="cpu").double(), reason, none)
