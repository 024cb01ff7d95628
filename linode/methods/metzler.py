"""Powers of matrices without a negative entry off the diagonal (Metzler matrices): small components keep their digits.

Use for compartments, decay chains, queues and Markov generators whose rates differ widely. Where z0 >= 0, every
component of every state has a relative error of some roundings, however small it is beside the others; none is
negative, and what is conserved stays so. For any z0 the error is that part of exp(Xi t) |z0|, and that of gradients is
that part of the gradients for |z0| and |g|.
Columns of Xi are made to sum to 0 by one more state, which takes what leaves: the losses, summed exactly. Where rows
have no positive sum but columns have, powers of Xi^T serve. Where both have, Xi is shifted by a number c, and its
states are weighed by w with w^T Xi <= c w^T, from one system of equations; c is close to the growth of the states.
Cost: log2(|Xi| t_max) + 2 products of n x n, each with some ten passes, and of T x n x n.
Check: no negative entry off the diagonal, and c t_max exceeds the growth of the states by little.
Sources: see `kernels.closed`; Berman & Plemmons (1994), Nonnegative Matrices in the Mathematical Sciences, chapter 6
(w^T (alpha I - Xi) > 0 for alpha above the spectrum); Shewchuk (1997), Discrete Comput. Geom. 18 (exact sums).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..kernels.arithmetic.double_double import two_prod
from ..kernels.closed import ClosedStepper, Turned
from ..kernels.dense import dense, dense_vjp
from ..kernels.private import LinAlgError
from ..kernels.stepping import Stepper, scattered, scattered_vjp
from ..kernels.tensors import one_norm
from .base import ROUNDINGS, Gradients, Method, Plan, Workload, register
from .costs import OPERATORS, SECONDS_PER_ENTRY

LARGEST, LEAST = 1e280, 1e-280  # of entries: products and quotients of them must be floats
MOST_EXCESS = 16.0  # (c - growth) t: it costs so many roundings, and states are smaller by exp of it before c is undone
MOST_GROWTH = 300.0  # c t: components are computed without this growth and must not underflow
LATE = 1.0  # |sum| t from which on a column sum that is rounding is taken for 0: amounts would double or vanish
LITTLE = 1.0  # c t below which no weights are looked for
MOST_STATES = 256  # up to which `auto` takes it for its accuracy
SMALL = 1e-3  # of the largest component: other methods keep 13 digits of larger ones
LONG = 10  # steps between states: after a short time components are smaller by up to 1 / 10!
ENOUGH = 1e-12  # of rounding, relative to a state, by the methods that `auto` would take instead
PART_ENTRIES = 2**21  # coefficients of times that are computed at once: 16 MiB
DENSE_NODES = 0.25  # times are dense where there are at most this many steps a time
N_PASSES = 12  # over n x n matrices for a squaring and its reverse, beside the products
N_WAITS = 8  # of a step on a device, beside those of the engine: see tests/second_device.py


@register
@dataclass(frozen=True)
class Metzler(Method):
    """Powers without subtraction; Xi without a negative entry off its diagonal.

    No options.

    Example:
        >>> import linode
        >>> method = linode.methods.Metzler()
        >>> ode = linode.LinearODE([[-1e9, 1e-9], [1e9, -1e-9]], [1.0, 0.0], method=method)
        >>> [f"{x:.12g}" for x in ode([1e30])[0]]
        ['1e-18', '1']
    """

    name: ClassVar[str] = "metzler"
    summary: ClassVar[str] = "powers without subtraction; Xi without a negative entry off its diagonal"
    most_seconds: ClassVar[float] = 0.1

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> MetzlerPlan:
        work = work or Workload.of(Xi)
        t_max = work.t_maxes
        host = Xi.cpu()
        applies = host.abs().amax((1, 2)) <= LARGEST
        if host.is_complex() or host.shape[-1] > 1:
            applies &= False if host.is_complex() else off_diagonal(host).amin((1, 2)) >= 0
        systems = Closed.of(host.real if host.is_complex() else host, applies, t_max)
        return MetzlerPlan(Xi, systems.map(lambda x: x.to(Xi.device)), t_max, work.own_t_max is not None)

    def suits(self, Xi: Tensor, work: Workload) -> Tensor | bool:
        """Where components may be so small, or modes so slow beside others, that other methods lose their digits."""
        if not (work.has_metzler and 1 < work.n <= MOST_STATES):
            return False
        Xi = Xi.cpu()
        flows = off_diagonal(Xi)
        least = flows.amin((1, 2))
        may_be_stiff = work.span * ROUNDINGS > ENOUGH
        if not may_be_stiff and float(least.min()) >= SMALL * work.norm:
            return False
        matters = are_small_parts(Xi, flows)
        if may_be_stiff:
            matters |= one_norm(Xi) * work.t_maxes * ROUNDINGS > ENOUGH
        return matters & (least >= 0) & (flows.amax((1, 2)) > 0)

    def cost(self, work: Workload) -> float:
        levels, n = math.log2(work.span + 2.0) + 2, work.n + 1
        seconds = work.operators(OPERATORS["metzler"], N_WAITS)
        if not work.is_on_host:
            return seconds
        powers = work.product((3 * levels + 18) * n**2) + N_PASSES * levels * n**2 * SECONDS_PER_ENTRY
        per_row = work.polynomial(n + 13, n_passes=8) + levels * (3 * work.product(n) + 6 * n * SECONDS_PER_ENTRY)
        return seconds + work.n_systems * (powers + work.n_rows * per_row)


def off_diagonal(Xi: Tensor) -> Tensor:
    """A view of the entries off the diagonal, (S, n - 1, n): those between two diagonal ones follow each other."""
    Xi = Xi.contiguous()
    S, n, _ = Xi.shape
    return Xi.as_strided((S, n - 1, n), (n * n, n + 1, 1), Xi.storage_offset() + 1)


def are_small_parts(Xi: Tensor, flows: Tensor) -> Tensor:
    """(S,) bool: whether components may become smaller than SMALL of others, roughly: each step on the way from one
    state to the farthest makes them smaller by the ratio of rates, and after a short time by 1 / k at the k-th step.

    flows: the entries off the diagonal, >= 0.
    """
    n = Xi.shape[-1]
    losses = Xi.sum(-2).abs().amax(-1)
    ratio = torch.where(flows > 0, flows, torch.inf).amin((1, 2)) / torch.maximum(flows.amax((1, 2)), losses)
    ratio = torch.where(ratio < 1, ratio, 1.0)  # inf / 0 where there are none
    if n <= LONG and float(ratio.min()) ** (n - 1) >= SMALL:
        return torch.zeros_like(ratio, dtype=torch.bool)
    step = (Xi.abs() + torch.eye(n, dtype=Xi.dtype, device=Xi.device) > 0).to(Xi.dtype)
    reached, distance = step, torch.ones_like(ratio)
    while True:
        further = (reached @ step > 0).to(Xi.dtype)
        grows = (further != reached).flatten(1).any(1)
        distance, reached = distance + grows, further
        is_small = (distance >= LONG) | (ratio**distance < SMALL)
        if bool((is_small | ~grows).all()):
            return is_small


@dataclass
class Closed:
    """Systems as flows: Xi = D (G + c I) D^-1 or, where turned, of G^T, with one more state that takes what leaves."""

    flows: Tensor  # (S, n + 1, n + 1) >= 0, 0 on the diagonal: G off its diagonal
    is_turned: Tensor  # (S,) bool
    D: Tensor  # (S, n)
    c: Tensor  # (S,) 1/time
    t_least: Tensor  # (S,) this is for times up to t_max where t_least <= t_max <= t_most; t_most < 0: for none
    t_most: Tensor

    @classmethod
    def of(cls, Xi: Tensor, applies: Tensor, t_max: Tensor) -> Closed:
        """On the CPU, for times up to t_max (S,)."""
        A = torch.where(applies[:, None, None], Xi, 0)
        sums, t_least, t_most = losses_of(A, t_max)
        is_turned = torch.zeros_like(applies)
        if bool((sums > 0).any()):
            of_rows = losses_of(A.mT, t_max)
            is_turned = of_rows[0].amax(-1).clamp(min=0) < sums.amax(-1)
            sums = torch.where(is_turned[:, None], of_rows[0], sums)
            t_least, t_most = (torch.where(is_turned, *x) for x in ((of_rows[1], t_least), (of_rows[2], t_most)))
            A = torch.where(is_turned[:, None, None], A.mT, A)
        c = sums.amax(-1).clamp(min=0)
        D, excess, losses = torch.ones_like(sums), c.clone(), c[:, None] - sums
        for s in (c * t_max > LITTLE).nonzero()[:, 0].tolist():
            w, own_c, own_losses, growth = weighed(A[s], float(t_max[s]))
            if own_c < c[s]:
                D[s], c[s], losses[s] = 1 / w, own_c, own_losses
            excess[s] = (c[s] - growth).clamp(min=0)
        flows = torch.zeros(len(A), A.shape[1] + 1, A.shape[1] + 1, dtype=A.dtype, device=A.device)
        flows[:, :-1, :-1] = A * D[:, None] / D[:, :, None]
        flows[:, -1, :-1] = losses
        flows.diagonal(dim1=-2, dim2=-1).zero_()
        fits = applies & torch.isfinite(flows).flatten(1).all(1)
        flows = torch.where(fits[:, None, None], flows, 0)
        D = torch.where(is_turned[:, None], 1 / D, D)
        t_most = torch.minimum(t_most, torch.minimum(MOST_EXCESS / excess, MOST_GROWTH / c))
        t_most = torch.where(fits, t_most, -1.0)
        return cls(flows, is_turned, D, c, t_least, t_most)

    def map(self, f: Callable[[Tensor], Tensor]) -> Closed:
        return Closed(*(f(getattr(self, field.name)) for field in fields(self)))


def losses_of(A: Tensor, t_max: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column sums (S, n) of A, exact, and the times from which on and up to which they hold, (S,).

    A sum that is no larger than what rounding does to a diagonal entry is what rounding did to 0: it becomes 0 for
    times so late that it would matter, where amounts else would grow from nothing.
    """
    sums = exact_sums(A)
    unit = A.shape[-1] * torch.finfo(A.dtype).eps / 2
    is_rounding = sums.abs() <= unit * A.diagonal(dim1=-2, dim2=-1).abs()
    late = LATE / torch.where(is_rounding, sums.abs(), 0).amax(-1)
    is_late = late < t_max
    sums = torch.where(is_rounding & is_late[:, None], 0, sums)
    return sums, torch.where(is_late, late, 0), torch.where(is_late, torch.inf, late)


def exact_sums(A: Tensor) -> Tensor:
    """Column sums (S, n) of A (S, n, n) on the CPU, correctly rounded."""
    sums = [math.fsum(column) for column in A.mT.flatten(0, 1).tolist()]
    return torch.tensor(sums, dtype=A.dtype, device="cpu").reshape(len(A), A.shape[-1])


def weighed(A: Tensor, t_max: float) -> tuple[Tensor, float, Tensor, float]:
    """Weights w (n,) > 0, c and losses (n,) = (c w - A^T w) / w >= 0 of A (n, n), and the growth of its states.

    c is infinite where there are no weights.
    """
    w, growth = torch.ones(len(A), dtype=A.dtype, device="cpu"), 0.0
    try:
        growth = float(torch.linalg.eigvals(A).real.max())
        alpha = (growth + 1 / t_max) * torch.eye(len(A), dtype=A.dtype, device="cpu")
        w = torch.linalg.solve(alpha - A.mT, torch.ones(len(A), dtype=A.dtype, device="cpu"))
    except LinAlgError:
        return w, math.inf, torch.zeros_like(w), max(0.0, growth)
    w = w / w.max()
    product, rest = two_prod(A, w[:, None])
    if not (bool((w > LEAST).all()) and bool(torch.isfinite(rest).all())):
        return w, math.inf, torch.zeros_like(w), max(0.0, growth)
    sums = exact_sums(torch.cat([product, rest])[None])[0]
    c = max(0.0, float((sums / w).max()))
    return w, c, (c - sums / w).clamp(min=0), max(0.0, growth)


class MetzlerPlan(Plan):
    """Closed systems, with the powers computed so far."""

    method = "metzler"

    def __init__(self, Xi: Tensor, systems: Closed, t_asked: Tensor, has_own_times: bool) -> None:
        """t_asked (S,): the largest times of the systems, on the CPU."""
        self.Xi, self.systems, self.t_asked, self.has_own_times = Xi, systems, t_asked, has_own_times
        if len(Xi):
            self.t_needed, self.t_most = float(systems.t_least.max()), float(systems.t_most.min())
        if has_own_times:
            self.t_ranges = systems.t_least.cpu(), systems.t_most.cpu()

    @cached_property
    def step(self) -> Stepper:
        step, is_turned = ClosedStepper(self.systems.flows), self.systems.is_turned
        return Turned(step, is_turned) if bool(is_turned.any()) else step

    @property
    def accepted(self) -> Tensor:
        return self.systems.t_most >= self.t_asked.to(self.Xi.device)  # a NaN is not

    @property
    def reason(self) -> str:
        if bool((self.systems.t_most < 0).any()):
            return "Xi is complex, has a negative entry off its diagonal, or leaves the range of floats"
        if not self.is_accepted:
            return f"states grow by up to exp({float(self.systems.c.max()):.3g} t), or columns of Xi faster than states"
        return "Xi has no negative entry off its diagonal"

    @property
    def details(self) -> dict[str, Any]:
        return {"step": self.step.H.tolist(), "shift": self.systems.c.tolist()}

    def subset(self, index: Tensor) -> Plan:
        return MetzlerPlan(
            self.Xi[index], self.systems.map(lambda x: x[index]), self.t_asked[index.cpu()], self.has_own_times
        )

    def adjoint(self) -> Plan:
        own = self.systems
        turned = replace(own, is_turned=~own.is_turned, D=1 / own.D)
        return MetzlerPlan(self.Xi.mT, turned, self.t_asked, self.has_own_times)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        D, c = self.systems.D[:, None], self.systems.c[:, None, None]
        y0, parts = with_sink(z0 / D), []
        for some in self._chunks(t):
            y = (dense if self._is_dense(some) else scattered)(self.step, y0, some)
            parts.append(y[..., :-1] * D[:, None] * torch.exp(c * some)[..., None])
        return torch.cat(parts, 2)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        D, c = self.systems.D[:, None], self.systems.c[:, None, None]
        y0, S, a = with_sink(z0 / D), torch.zeros_like(self.Xi), torch.zeros_like(z0)
        chunks = self._chunks(t)
        for some, h in zip(chunks, g.split([part.shape[2] for part in chunks], 2)):
            reverse = dense_vjp if self._is_dense(some) else scattered_vjp
            own_S, own_a = reverse(self.step, y0, some, with_sink(h * D[:, None] * torch.exp(c * some)[..., None]))
            S, a = S + own_S[:, :-1, :-1], a + own_a[..., :-1]
        return S / D.mT * D, a / D

    def _is_dense(self, t: Tensor) -> bool:
        return float((t.amax((1, 2)) / self.step.H).max()) < DENSE_NODES * t.shape[2]

    def _chunks(self, t: Tensor) -> tuple[Tensor, ...]:
        S, R, _ = t.shape
        return t.split(max(1, PART_ENTRIES // max(1, S * R * self.step.degree.n_terms)), 2)


def with_sink(x: Tensor) -> Tensor:
    """x (..., n) with a 0 for the state that takes what leaves."""
    return torch.nn.functional.pad(x, (0, 1))
