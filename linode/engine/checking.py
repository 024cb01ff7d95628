"""The error of a trajectory: how far it is from answers to the same question by other arithmetic.

What differs is rounding error, since the data are the same to the last bit. Two computations with independent roundings
that agree are right, so the error is taken from the one that agrees best, and more careful ones are asked for only
where it is not small. With many times some of them are compared.
`Careful` has about 30 digits: compiled where there is a kernel, else `propagator` in double-double; beyond its sizes it
has those of double. `Again` is double arithmetic with other rounding: `propagator` for the states in reversed order and
with half the step, so that sums have another order and there is one squaring more. Both take Xi to the last bit.
Neither is registered: they give no gradients, and nobody asks for them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..kernels import wide
from ..kernels.balance import balance
from ..kernels.embedding import complex_vector, real_matrix, real_vector
from ..kernels.memory import Memory
from ..kernels.stepping import choose_step, power_norm
from ..kernels.tensors import is_finite, widened
from ..methods import Method, Plan, Propagator, Workload
from ..methods.base import Gradients
from ..methods.propagator import EXTENDED_MAX_N, PropagatorPlan
from .conditioning import norms

SHARE = 0.25  # of the step of `propagator`: the polynomials of the compiled arithmetic are for |A| H <= 1/4
# |Xi| t up to which the step comes from |Xi| alone: squaring then makes 2^-64 of the rounding error 2^-106. Beyond, it
# comes from |Xi^p|^(1/p) of the balanced Xi, which asks for fewer squarings.
SHORT = 2.0**40
MOST_NUMBERS = 2**23  # of powers that are kept: 64 MiB
MOST_STATES = 256  # up to which double-double is tried at all: 200 states take a second
N_TIMES, FEW_TIMES = 8, 2  # that are compared; the latter where they are so many, or so large, that it takes long:
MOST_WORK = 2**17  # squares of states of all trajectories at all of these times; some 10 ms of compiled arithmetic
SMALL = 1e-13  # relative difference up to which no other answer is asked for
ROUNDINGS = 4.0  # the least error, in units: that of the last operations and of the answer itself
SAFETY = 4.0  # times the difference: the other answer may have half of the error, and both together less than one


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
        A = real_matrix(balanced) if balanced.is_complex() else balanced
        return CarefulPlan(Xi, A, D, H, wide.n_levels(work.t_max, float(H.min())))

    def cost(self, work: Workload) -> float:
        return Propagator(precision="double").cost(work)


@dataclass
class CarefulPlan(Plan):
    """Powers of the step of every system, by the compiled arithmetic."""

    Xi: Tensor
    A: Tensor  # D^-1 Xi D, real
    D: Tensor | None  # (S, n); None: ones
    H: Tensor  # (S,)
    levels: int
    method: str = "careful"
    keeps_start = True
    _powers: Memory[Tensor] = field(default_factory=Memory, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.levels < wide.MOST_LEVELS and len(self.H):
            self.t_most = float(self.H.min()) * (2.0**self.levels - 1)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        D = self.D
        y0 = z0 if D is None else z0 / D[:, None]
        y0 = real_vector(y0) if z0.is_complex() else y0
        S, n = self.A.shape[:2]
        most = max(1, MOST_NUMBERS // (2 * (self.levels + 1) * n * (n + 3)))
        if most >= S:
            y = wide.states(self._powers.of(lambda: wide.make_plan(self.A, self.H, self.levels)), self.H, y0, t)
        else:
            parts = zip(*(x.split(most) for x in (self.A, self.H, y0, t)))
            y = torch.cat([wide.states(wide.make_plan(A, H, self.levels), H, *own) for A, H, *own in parts])
        y = complex_vector(y) if z0.is_complex() else y
        return y if D is None else y * D[:, None, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        raise TypeError("careful gives no gradients")

    def subset(self, index: Tensor) -> Plan:
        return CarefulPlan(
            self.Xi[index], self.A[index], None if self.D is None else self.D[index], self.H[index], self.levels
        )


def is_compiled(Xi: Tensor, n: int | None = None) -> bool:
    """Whether the compiled arithmetic takes Xi (..., n, n), or a system of n states beside it."""
    n = Xi.shape[-1] if n is None else n
    return wide.is_in_use() and Xi.is_cpu and n * (1 + Xi.is_complex()) <= wide.MOST_STATES


def references(Xi: Tensor) -> tuple[Method, ...]:
    """What to compare with, in this order, as long as the difference is not small."""
    n = Xi.shape[-1]
    if is_compiled(Xi) and n <= EXTENDED_MAX_N:
        return (Careful(),)
    return (Again(), Careful()) if n <= MOST_STATES else (Again(),)


def relative_error(z: Tensor, t: Tensor, answers: Iterable[Callable[[Tensor], Tensor]]) -> list[float]:
    """The error of z (*batch, T, n) in its norm over all times, relative to that norm, estimated; of every trajectory.

    answers: functions that give the states, float64 or complex128, at times (*batch, K), cheap ones first. The error is
    infinite where z is not finite, 0 where z is exactly 0, and elsewhere at least some units of rounding.
    """
    rank, (T, n), kind = z.ndim - 2, z.shape[-2:], torch.finfo(z.dtype)
    if z.numel() == 0:
        return [0.0] * math.prod(z.shape[:-2])
    own, times, sizes = widened(z), t, None
    n_times = max(FEW_TIMES, min(N_TIMES, MOST_WORK // (z.numel() // T * n)))
    if n_times < T:
        sizes = norms(own, rank).reshape(-1).tolist()
        places = _places(t, own, n_times)
        own, times = own[..., places, :], t[..., places]
    weight, floor = SAFETY * math.sqrt(T / own.shape[-2]), ROUNDINGS * kind.eps / 2
    nothing = kind.tiny * math.sqrt(own.shape[-2] * n)  # states below the least normal float count as 0
    lost = 16 * kind.eps * nothing  # by underflow
    errors = [math.inf] * math.prod(z.shape[:-2])
    for answer in answers:
        pairs = _distances(own, answer(times), rank)
        for i, (difference, size) in enumerate(pairs):
            size = size if sizes is None else sizes[i]
            difference = weight * max(difference - lost, 0.0)
            if size <= nothing:
                error = math.inf if difference > weight * nothing else 0.0
            else:
                error = max(difference / size, floor)
            errors[i] = min(errors[i], error) if error == error else errors[i]
        if max(errors) <= max(SMALL, 2 * floor):
            break
    if is_finite(z):
        return errors
    finite = torch.isfinite(z).flatten(rank).all(-1).reshape(-1).tolist()
    return [error if good else math.inf for error, good in zip(errors, finite)]


def _distances(x: Tensor, y: Tensor, rank: int) -> list[list[float]]:
    """|x - y| and |y| over all but the first `rank` dimensions, for every index of those."""
    if wide.is_in_use() and x.is_cpu and x.dtype == y.dtype:
        rows = (torch.view_as_real(a.resolve_conj()) if a.is_complex() else a for a in (x, y))
        return wide.distances(*(a.reshape(-1, a.shape[rank:].numel()) for a in rows)).tolist()
    return torch.stack([norms(y - x, rank), norms(y, rank)], -1).reshape(-1, 2).tolist()


def _places(t: Tensor, z: Tensor, count: int) -> Tensor:
    """Indices of up to `count` times to compare: evenly from the latest to the earliest, and where z is largest."""
    T = t.shape[-1]
    late = t.abs().reshape(-1, T).amax(0)
    size = z.abs().amax(-1).reshape(-1, T).amax(0)
    evenly = torch.linspace(0, T - 1, count - 1, device=t.device).round().to(torch.int64)
    return torch.cat([late.argsort(descending=True)[evenly], size.argmax()[None]]).unique()
