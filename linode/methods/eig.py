"""Eigendecomposition: the fastest evaluation, where the eigenvectors are well conditioned.

Use when kappa(V) is moderate: then every time costs one exponential per mode, however long or stiff. Cost: about 25
n^3 once, on the CPU, and three products of T x n x n for a gradient. Diagonal, Hermitian and skew-Hermitian Xi are
found exactly and have kappa = 1.
Check: kappa_1(V), which bounds what rounding does to z, and products of the conditions of close eigenvalues, which
bound what it does to dL/dXi, are at most max_condition, or explained by the condition of the problem.
Sources: see `kernels.eigenpairs`, `kernels.modal`; Golub & Van Loan (2013), 7.2.2 (condition of an eigenvalue).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from ..kernels.arrays import as_array, one_norm
from ..kernels.eigenpairs import GRADIENT_SLACK, Eigenpairs, eigenpairs, is_plain, structure, unitary_modes
from ..kernels.modal import Modes
from ..kernels.single import Single, fits, is_small
from .base import HostPlan, Method, Plan, Pullback, Workload, register
from .costs import GEEV, SECONDS_PER_CALL, SECONDS_PER_ENTRY, SECONDS_PER_EXP, SECONDS_PER_FLOP

MAX_CONDITION = 1000.0
MOST_SIZE = 1e90  # of |Xi| and of 1 / |Xi|: cubes of eigenvalues and of their distances must be floats
N_CALLS = {True: 280, False: 450}  # of a step, Python around them included, as its time shows: of one system, of more
Array = NDArray[Any]


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
    needs_host: ClassVar[bool] = True
    takes_arrays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (isinstance(self.max_condition, (int, float)) and self.max_condition > 0):
            raise OptionError(f"max_condition must be a positive number, got {self.max_condition!r}")
        super().__post_init__()

    def try_plan(self, Xi: Any, work: Workload, rtol: float | None = None) -> Plan:
        return self.plan(Xi, rtol, work.t_max)

    def plan(self, Xi: Any, rtol: float | None = None, t_max: float = 0.0) -> Plan:
        limit = self.max_condition
        if rtol is not None:  # kappa(V) eps is the error to expect
            limit = max(limit, rtol / (100 * torch.finfo(torch.float64).eps))
        A = as_array(Xi)
        kind = structure(A)
        if kind:
            return EigPlan(Xi, unitary_modes(A, kind), np.ones(len(A)), np.ones(len(A), dtype=bool), f"Xi is {kind}")
        return _general(Xi, A, limit, t_max)

    def cost(self, work: Workload) -> float:
        n = work.n
        passes = (200 + 60 * work.n_trajectories) * n**2  # over n x n matrices
        factors = GEEV[0] * n**2 + GEEV[1] * n**3 + passes * SECONDS_PER_ENTRY + 50 * n**3 * SECONDS_PER_FLOP
        per_row = n * (3 * SECONDS_PER_EXP + 30 * SECONDS_PER_ENTRY) + 6 * n**2 * SECONDS_PER_FLOP
        return N_CALLS[work.n_systems == 1] * SECONDS_PER_CALL + work.n_systems * (factors + work.n_rows * per_row)


class ModalPlan(HostPlan):
    """A plan of eigenpairs."""

    @abstractmethod
    def modes_for(self, z0: Any) -> Modes:
        """As arrays for arrays, and as tensors for tensors."""


@dataclass
class EigPlan(ModalPlan):
    """Modes of Xi, and the condition of their basis."""

    given: Any  # Xi (S, n, n), as a tensor or an array
    modes: Modes  # NumPy arrays
    kappa: Array  # (S,) 1-norm condition of V
    good: Array  # (S,) bool: accepted
    check: object  # why, as text
    method: str = "eig"
    _tensors: Modes | None = field(default=None, repr=False)

    @property
    def reason(self) -> str:  # type: ignore[override]
        return str(self.check)

    def evaluate(self, z0: Any, t: Any) -> Any:
        return self.modes_for(z0).evaluate(z0, t)

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        return self.modes_for(z0).vjp(z0, t, g, want_t)

    def record(self, z0: Any, t: Any) -> tuple[Any, Pullback]:
        return self.modes_for(z0).record(z0, t)

    def modes_for(self, z0: Any) -> Modes:
        if isinstance(z0, np.ndarray):
            return self.modes
        if self._tensors is None:
            self._tensors = self.modes.tensors(self.Xi.device)
        return self._tensors

    def subset(self, index: Tensor) -> Plan:
        host = index.cpu().numpy()
        return EigPlan(self.Xi[index], self.modes.subset(host), self.kappa[host], self.good[host], self.check)

    @property
    def details(self) -> dict[str, Any]:
        return {"kappa_V": self.kappa.tolist(), "eigenvalues": self.modes.lam.tolist()}


class SinglePlan(ModalPlan):
    """One real system with few states, and nothing the matter with it; an `EigPlan` for all but one trajectory of
    arrays.
    """

    method = "eig"
    good = np.ones(1, dtype=bool)

    def __init__(self, given: Any, single: Single, limit: float, general: EigPlan | None = None) -> None:
        self.given, self.single, self.limit = given, single, limit
        if general is not None:
            self.general, self.t_needed = general, general.t_needed

    @cached_property
    def general(self) -> EigPlan:
        """With the figures that were looked at."""
        size = one_norm(as_array(self.given))
        pairs = eigenpairs(as_array(self.given), size, self.limit, modes=self.single.modes)
        return _judged(self.given, pairs, self.limit)

    def evaluate(self, z0: Any, t: Any) -> Any:
        if fits(z0, t):
            return self.single.evaluate(z0[0, 0], t[0, 0])[None, None]
        return self.general.evaluate(z0, t)

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        return self.record(z0, t)[1](g, want_t) if fits(z0, t) else self.general.vjp(z0, t, g, want_t)

    def record(self, z0: Any, t: Any) -> tuple[Any, Pullback]:
        if not fits(z0, t):
            return self.general.record(z0, t)
        z, own = self.single.record(z0[0, 0], t[0, 0])

        def pullback(g: Any, want_t: bool) -> tuple[Any, Any, Any]:
            gradients = own(g[0, 0], want_t)
            if gradients is None:
                return self.general.vjp(z0, t, g, want_t)
            S, a, dt = gradients
            return S[None], a[None, None], None if dt is None else dt[None, None]

        return z[None, None], pullback

    def modes_for(self, z0: Any) -> Modes:
        return self.general.modes_for(z0)

    def subset(self, index: Tensor) -> Plan:
        return self.general.subset(index)

    @property
    def reason(self) -> str:  # type: ignore[override]
        return self.general.reason

    @property
    def details(self) -> dict[str, Any]:
        return self.general.details


def _general(Xi: Any, A: Array, limit: float, t_max: float) -> Plan:
    size = one_norm(A)
    sizes = size.tolist()
    least, most = min(sizes), max(sizes)
    if not (most <= MOST_SIZE and (least >= 1 / MOST_SIZE or (size[size < 1 / MOST_SIZE] == 0).all())):
        return _rejected(Xi, A, f"powers of |Xi| = {most:.3g} leave the range of floats")
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # of bases near singular, which are refused
            single = Single(A[0]) if is_small(A) else None
            if single is not None and is_plain(single, most, limit):
                return SinglePlan(Xi, single, limit)
        pairs = eigenpairs(A, size, limit, t_max, None if single is None else single.modes)
    except np.linalg.LinAlgError as error:
        return _rejected(Xi, A, f"LAPACK did not converge ({error})")
    plan = _judged(Xi, pairs, limit)
    if single is None or pairs.modes.exists is not None or pairs.modes.delicate is not None:
        return plan
    return SinglePlan(Xi, single, limit, plan)


def _judged(Xi: Any, pairs: Eigenpairs, limit: float) -> EigPlan:
    check = Check(pairs.kappa, pairs.amplification, limit, pairs.t_needed)
    plan = EigPlan(Xi, pairs.modes, pairs.kappa, pairs.accepted, check)
    if pairs.t_needed.any():
        plan.t_needed = float((pairs.t_needed * pairs.accepted).max())
    return plan


@dataclass(frozen=True)
class Check:
    """The figures that were looked at, in words when asked for."""

    kappa: Array
    amplification: Array
    limit: float
    t_needed: Array

    def __str__(self) -> str:
        figures = {"kappa(V)": (self.kappa, 1), "amplification in dL/dXi": (self.amplification, GRADIENT_SLACK)}
        shown = []
        for name, (x, slack) in figures.items():
            worst, limit = np.where(np.isfinite(x), x, np.inf).max(), slack * self.limit
            shown.append(f"{name} = {worst:.3g} {'<=' if worst <= limit else '>'} {limit:.3g}")
        late = self.t_needed[np.isfinite(self.t_needed)].max(initial=0.0)
        return ", ".join(shown) + (f", below what Xi explains from t = {late:.3g} on" if late else "")


def _rejected(Xi: Any, A: Array, reason: str) -> Plan:
    modes = unitary_modes(np.zeros_like(A), "diagonal")
    return EigPlan(Xi, modes, np.full(len(A), np.inf), np.zeros(len(A), dtype=bool), reason)
