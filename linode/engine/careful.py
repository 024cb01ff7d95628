"""Other arithmetic for the same question, which `checking` and `conditioning` use.

`Careful` has about 30 digits: compiled where there is a kernel, else `propagator` in double-double; beyond its sizes it
has those of double. `Again` is double arithmetic with other rounding: `propagator` for the states in reversed order and
with half the step, so that sums have another order and there is one squaring more. Both take Xi to the last bit.
Neither is registered: they give no gradients, and nobody asks for them by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..kernels import wide
from ..kernels.balance import balance
from ..kernels.embedding import real_matrix
from ..kernels.memory import Memory
from ..kernels.stepping import choose_step, power_norm
from ..kernels.tensors import extremes
from ..methods import Method, Plan, Propagator, Workload
from ..methods.base import Gradients
from ..methods.propagator import PropagatorPlan
from .evaluation import BothWays, Planner
from .problem import Layout, check_finite

SHARE = 0.25  # of the step of `propagator`: the polynomials of the compiled arithmetic are for |A| H <= 1/4
# |Xi| t up to which the step comes from |Xi| alone: squaring then makes 2^-64 of the rounding error 2^-106. Beyond, it
# comes from |Xi^p|^(1/p) of the balanced Xi, which asks for fewer squarings.
SHORT = 2.0**40
MOST_NUMBERS = 2**23  # of powers that are kept: 64 MiB
EVERY = slice(None)
MOST_STATES = 256  # up to which double-double is tried at all: 200 states take a second


@dataclass(frozen=True)
class Again(Method):
    """Double precision with other rounding than any method has."""

    name: ClassVar[str] = "again"
    summary: ClassVar[str] = "powers of half a step, states in reversed order"

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        plan = Propagator(precision="double").plan(Xi.flip(-2, -1))
        return Reversed(Xi, replace(plan, H=plan.H / 2))

    def cost(self, work: Workload) -> float:
        return Propagator(precision="double").cost(work)


@dataclass
class Reversed(Plan):
    """A plan for the states in reversed order."""

    Xi: Tensor
    plan: PropagatorPlan
    method: str = "again"

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return self.plan.evaluate(z0.flip(-1), t).flip(-1)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        S, a = self.plan.vjp(z0.flip(-1), t, g.flip(-1))
        return S.flip(-2, -1), a.flip(-1)

    def subset(self, index: Tensor) -> Plan:
        return Reversed(self.Xi[index], self.plan.subset(index))


@dataclass(frozen=True)
class Careful(Method):
    """States to about 30 digits, where there are few enough."""

    name: ClassVar[str] = "careful"
    summary: ClassVar[str] = "powers of one step in double-double"
    needs_times: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        if not is_compiled(Xi):
            plan = Propagator(precision="double-double" if Xi.shape[-1] <= MOST_STATES else "double").plan(Xi)
            return replace(plan, H=plan.H * SHARE)
        work = work or Workload.of(Xi)
        longest = 2.0 ** min(math.frexp(work.t_max)[1] + 1, 1000) if work.t_max > 0 else 1.0  # t / H must not underflow
        balanced, D = Xi, None
        if work.span < SHORT:
            step = SHARE * 2.0 ** min(-math.frexp(work.norm)[1], 1000)
            H = torch.full((len(Xi),), min(step, longest), dtype=torch.float64, device="cpu")
        else:
            balanced, D = balance(Xi)
            H = (SHARE * choose_step(*power_norm(balanced))).clamp(max=longest)
            D = None if bool((D == 1).all()) else D
        is_complex = Xi.is_complex()
        A = real_matrix(balanced) if is_complex else balanced
        D = torch.cat([D, D], -1) if is_complex and D is not None else D
        return CarefulPlan(Xi, A, D, H, wide.n_levels(work.t_max, float(H.min())))

    def cost(self, work: Workload) -> float:
        return Propagator(precision="double").cost(work)


@dataclass
class CarefulPlan(Plan):
    """Powers of the step of every system, by the compiled arithmetic."""

    Xi: Tensor
    A: Tensor  # D^-1 Xi D, real: of twice the size where Xi is complex
    D: Tensor | None  # (S, n) as A has them; None: ones
    H: Tensor  # (S,)
    levels: int
    method: str = "careful"
    keeps_start: bool = True
    _powers: Memory[wide.Powers] = field(default_factory=Memory, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.levels < wide.MOST_LEVELS and len(self.H):
            self.t_most = float(self.H.min()) * (2.0**self.levels - 1)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        return torch.cat([wide.states(self.powers(own), z0[own], t[own]) for own in shares(self)])

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        raise TypeError("careful gives no gradients")

    def subset(self, index: Tensor) -> Plan:
        return CarefulPlan(
            self.Xi[index], self.A[index], None if self.D is None else self.D[index], self.H[index], self.levels
        )

    @property
    def n_numbers(self) -> int:
        """Of the powers of one system."""
        return 2 * (self.levels + 1) * self.A.shape[-1] * (self.A.shape[-1] + 3)

    def powers(self, own: slice) -> wide.Powers:
        """Of some systems; those of all are kept."""
        if own == EVERY:
            return self._powers.of(lambda: wide.make_powers(self.A, self.D, self.H, self.levels))
        return wide.make_powers(self.A[own], None if self.D is None else self.D[own], self.H[own], self.levels)


AGAIN, CAREFUL = Again(), Careful()


def shares(*plans: CarefulPlan) -> list[slice]:
    """Of the systems, of which all powers are made at a time."""
    S, most = len(plans[0].H), max(1, MOST_NUMBERS // sum(plan.n_numbers for plan in plans))
    return [EVERY] if most >= S else [slice(first, first + most) for first in range(0, S, most)]


def powers_of(plans: list[CarefulPlan], own: slice) -> tuple[wide.Powers, wide.Powers | None]:
    """Of some systems, for times from 0 on and, where there are two plans, for those before."""
    forth, *back = (plan.powers(own) for plan in plans)
    return forth, back[0] if back else None


def careful_plans(planner: Planner, Xi: Tensor, layout: Layout, t: Tensor) -> list[CarefulPlan]:
    """The plan of a planner of `Careful` for these times, and another, of -Xi, where some are negative."""
    least, most = extremes(t)
    if not most - least < torch.inf:
        check_finite(t, "t")
    plan = planner.plan_for(layout.systems(Xi) if layout.batch else Xi, layout.R, t.shape[-1], least, most)
    plans = [plan.forth, plan.back] if isinstance(plan, BothWays) else [plan]
    return [own for own in plans if isinstance(own, CarefulPlan)]


def is_compiled(Xi: Tensor) -> bool:
    """Whether the compiled arithmetic takes Xi (..., n, n)."""
    return wide.is_in_use() and Xi.is_cpu and Xi.shape[-1] * (1 + Xi.is_complex()) <= wide.MOST_STATES
