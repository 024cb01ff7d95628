"""Evaluation of detached tensors: the plan, the trajectory and its gradients, in the shapes that were asked.

`Planner` keeps the last plan and compares Xi by content, so that a plan is never stale. Three things are here and in no
method: times before 0, which a second plan, of -Xi, evaluates; gradients with respect to times; and states past the
largest float. No autograd here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ..errors import MethodError
from ..kernels import small
from ..kernels.memory import Memory
from ..kernels.private import reshaped
from ..kernels.small import Size
from ..kernels.tensors import WIDE, extremes, is_finite, measured, widened
from ..methods import Auto, Method, Plan, Propagator, Pullback, Workload, registry
from ..methods.base import Gradients
from . import overflow
from .one_time import THETA, Short, makes_many
from .problem import Layout, check_finite
from .recurrence import is_steady, powers_of, recur

# Off the CPU a step is 100 to 800 launches of some 5 us each, and 4 to 30 waits. A question with no more states and
# entries of z than this takes less on the host, with the two copies of up to 4 MB there and back.
MOST_STATES, MOST_ENTRIES = 64, 2**19
# |Xi| |t| up to which exp(|Xi| |t|) |z0| is a number, in double and in single precision, for |z0| up to MODERATE_SIZE
SPAN, SPAN_OF_FLOATS, MODERATE_SIZE = 600.0, 50.0, 1e15
# |z0| below which a trajectory is computed for LIFT z0, so that products on the way have all their digits
TINY, LIFT = 2.0**-900, 2.0**128
MANY = 1024  # trajectories of one time each, up to which the compiled kernel is faster than products of them all


class Planner:
    """Plans for one solver. Plans depend on the values of Xi alone; the last is kept.

    adjoint_of: another planner, whose last plan has an adjoint that serves where this one is asked for Xi^H.
    """

    def __init__(self, method: Method, rtol: float | None = None, adjoint_of: Planner | None = None) -> None:
        self.method, self.rtol, self.adjoint_of = method, rtol, adjoint_of
        self._last: Memory[Plan] = Memory()

    @property
    def key(self) -> str:
        """Names an equal planner in a call that can only pass plain values."""
        return f"({self.method.key}, {self.rtol!r})"

    def known(
        self, Xi: Tensor, t_max: float | None = None, own_t_max: Callable[[], Tensor] | None = None
    ) -> Plan | None:
        """The last plan, if it is for Xi (S, n, n), or (n, n) of one system, and good for such times."""
        last = self._last.last
        if last is None or (last.compiled is not None and not small.serves(Xi)):
            return None
        plan = self._last.known(Xi if Xi.ndim == 3 else Xi.unsqueeze(0))
        return plan if plan is None or t_max is None or plan.holds(t_max, own_t_max) else None

    def plan(self, Xi: Tensor, work: Workload) -> Plan:
        """A new plan for Xi.

        Raises:
            MethodError: the method cannot be accurate.
        """
        if self.adjoint_of is not None:
            own_t_max = None if work.own_t_max is None else lambda: work.t_maxes
            other = self.adjoint_of.known(Xi.mT.conj_physical(), work.t_max, own_t_max)
            if other is not None:
                return self._last.keep(other.adjoint(), Xi)
        repeated = is_repeated(Xi)
        own = torch.stack((Xi,)) if Xi.ndim == 2 else (Xi[:1] if repeated else Xi).clone()
        plan = self.method.plan(own, self.rtol, work)
        if not plan.is_accepted:
            which = int((~plan.accepted).nonzero()[0])
            system = "" if len(own) == 1 else f" (system {which} of the batch)"
            raise MethodError(
                f"method {self.method.name!r} cannot be accurate for this Xi{system}: {plan.reason}; "
                f"use method={self.method.alternative!r} or 'auto'"
            )
        if repeated:
            plan = plan.subset(torch.zeros(Xi.shape[0], dtype=torch.int64, device=Xi.device))
        plan.one_norm = work.norm
        return self._last.keep(plan, own.expand(Xi.shape) if repeated else own, are_own=True)

    def plan_for(
        self,
        Xi: Tensor,
        n_trajectories: int,
        n_times: int,
        least: float,
        most: float,
        size: Size | None = None,
        times: Tensor | None = None,
    ) -> Plan:
        """A plan for Xi (S, n, n), or (n, n) of one system, and times from least to most: a series where the one time
        is short enough for it, the plan that is known, or a new one. size: of Xi, where it is known. times: (S, R, T),
        where each system is to be judged by its own.
        """
        t_max = most if most > -least else -least
        if n_times == 1 and isinstance(self.method, Auto) and not is_for_kernel(Xi, n_trajectories):
            size = size or measured(Xi)
            if size[0] * t_max <= THETA / 2:
                return Short(Xi if Xi.ndim == 3 else Xi[None])
        if times is not None and (times.stride(0) == 0 or len(times) == 1 or is_repeated(Xi)):
            times = None
        own_t_max = None if times is None else partial(latest_of, times)
        plan = self.known(Xi, t_max, own_t_max)
        if plan is None:
            norm, is_diagonal, has_metzler = size or measured(Xi)
            if not norm < torch.inf:
                check_finite(Xi[0] if len(Xi) == 1 and Xi.ndim == 3 else Xi, "Xi")
            n_systems, n = 1 if Xi.ndim == 2 or is_repeated(Xi) else len(Xi), Xi.shape[-1]
            own = own_t_max() if own_t_max else None
            work = Workload(
                n_systems, n_trajectories, n_times, n, norm, t_max, Xi.is_cpu, is_diagonal, has_metzler, own
            )
            plan = self.plan(Xi, work)
        if least >= 0 or plan.any_sign:
            return plan
        back = None if times is None else (-times).clamp(min=0)
        try:
            mirrored = self.mirrored.plan_for(-Xi, n_trajectories, n_times, 0.0, -least, times=back)
        except MethodError as error:
            raise MethodError(f"times before 0 take -Xi in the place of Xi, and with -Xi {error}") from None
        return BothWays(plan, mirrored)

    @cached_property
    def mirrored(self) -> Planner:
        """For -Xi: times before 0."""
        return self.fresh()

    @property
    def for_blocks(self) -> Planner:
        """For block systems, whose eigenvalues are all repeated."""
        return Planner(Propagator(), self.rtol)

    def fresh(self) -> Planner:
        """An equal one that has no plan."""
        return Planner(self.method, self.rtol)


@dataclass
class BothWays(Plan):
    """Two plans, of Xi for t >= 0 and of -Xi for t < 0."""

    forth: Plan
    back: Plan
    any_sign = True

    def __post_init__(self) -> None:
        self.method, self.Xi = self.forth.method, self.forth.Xi

    def subset(self, index: Tensor) -> Plan:
        return BothWays(self.forth.subset(index), self.back.subset(index))

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        before = t < 0
        z = self.back.evaluate(z0, (-t).clamp(min=0))
        if bool(before.all()):
            return z
        return torch.where(before[..., None], z, self.forth.evaluate(z0, t.clamp(min=0)))

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        before = (t < 0)[..., None]
        S, a = self.back.vjp(z0, (-t).clamp(min=0), torch.where(before, g, 0))
        if bool(before.all()):
            return -S, a
        S_forth, a_forth = self.forth.vjp(z0, t.clamp(min=0), torch.where(before, 0, g))
        return S_forth - S, a_forth + a


def is_for_kernel(Xi: Tensor, n_trajectories: int) -> bool:
    """Whether so many trajectories of one time each are better left to the compiled kernel."""
    return n_trajectories <= MANY and small.serves(Xi)


def latest_of(t: Tensor) -> Tensor:
    """The largest |t| of each system, (S,), on the CPU, of t (S, R, T)."""
    return t.abs().amax((1, 2)).cpu()


def is_repeated(Xi: Tensor) -> bool:
    """One system, repeated by expand()."""
    return Xi.ndim == 3 and Xi.shape[0] > 1 and Xi.stride(0) == 0


def columns(n: int, rank: int, like: Tensor) -> Tensor:
    """The columns of I as initial states, (n, *1, n): one batch dimension for them, then as many of size 1."""
    return torch.eye(n, dtype=like.dtype, device=like.device).reshape(n, *(1,) * rank, n)


def systems_of(Xi: Tensor, layout: Layout) -> Tensor:
    """Xi (S, n, n), wide."""
    return layout.systems(widened(Xi))


def lift_of(z0: Tensor) -> Tensor | None:
    """LIFT for trajectories from z0 (*, n) that are smaller than TINY and not 0, else 1, (*, 1); None: all are 1."""
    size = z0.abs().amax(-1, keepdim=True)
    is_small = (size > 0) & (size < TINY)
    return torch.where(is_small, LIFT, torch.ones_like(size)) if bool(is_small.any()) else None


def evaluate(planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """z (*batch, T, n) from detached tensors, Xi and z0 of one dtype."""
    return Evaluation(planner, Xi, z0, t).states()


def evaluate_vjp(
    planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the shapes of Xi, z0 and t, from detached tensors; that of t is zero where it is not wanted."""
    S, a, dt = Evaluation(planner, Xi, z0, t).gradients(g, want_t)
    return S, a, torch.zeros_like(t) if dt is None else dt


def recurrence(planner: Planner, Xi: Tensor, z0: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """x_(k+1) = exp(Xi h_k) x_k + d_k from x_0 = z0, (*batch, K + 1, n), for h (*batch, K) >= 0 and d (*batch, K, n);
    from detached tensors.
    """
    layout = Layout.of(Xi.shape, z0.shape, h.shape)
    if layout.n_entries == 0:
        return d.new_zeros(*d.shape[:-2], d.shape[-2] + 1, d.shape[-1])
    steps, t_max, n_times = layout.trajectories(h, 1), float(h.max()), h.shape[-1]
    if n_times > 1 and is_steady(steps):
        powers = powers_of(n_times, layout.n)
        t_max, n_times = t_max * max(map(max, powers)), sum(map(len, powers))
    plan = planner.plan_for(systems_of(Xi, layout), layout.R, n_times, 0.0, t_max)
    x = recur(plan, layout.trajectories(widened(z0), 1), steps, layout.trajectories(d, 2))
    return layout.batched(x).contiguous()


def moved(tensors: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """All of them on a device, by one copy."""
    own = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in tensors]
    wide = torch.cat([x.reshape(-1).to(torch.float64) for x in own]).to(device)
    parts = wide.split([x.numel() for x in own])
    back = [part.to(x.dtype).reshape(x.shape) for part, x in zip(parts, own)]
    return tuple(torch.view_as_complex(x) if y.is_complex() else x for x, y in zip(back, tensors))


class Evaluation:
    """One question with its plan: z0 and t laid out as trajectories of systems.

    device: where a small question came from that is answered on the host; None: it is answered where it is.
    """

    def __init__(self, planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> None:
        self.layout = layout = Layout.of(Xi.shape, z0.shape, t.shape)
        self.device: torch.device | None = None
        self.lift: Tensor | None = None  # what z0 was multiplied by, (*, 1) for z0 (*, n); None: ones
        self.asked = Xi, z0, t
        self.pullback: Pullback | None = None
        if layout.n_entries == 0:
            return
        if not Xi.is_cpu and layout.n <= MOST_STATES and layout.n_entries <= MOST_ENTRIES:
            self.device = Xi.device
            Xi, z0, t = moved((Xi, z0, t), torch.device("cpu"))
            self.asked = Xi, z0, t
        # what the kernel takes in its own shapes keeps them as long as it can: views take more time than the kernel
        systems, starts, times = widened(Xi), z0, t
        if not layout.is_plain:
            systems = layout.systems(systems)
            starts, times = layout.trajectories(z0, 1), layout.trajectories(t, 1)
        question = small.Question.of(starts, times, systems)
        size = question.size if question is not None else None
        if (question is None or not question.smallest >= TINY) and z0.dtype in WIDE and z0.is_cpu:
            self.lift = lift_of(z0)
        if self.lift is not None:
            z0 = z0 * self.lift
            self.asked = Xi, z0, t
            question = small.Question.of(z0 if layout.is_plain else layout.trajectories(z0, 1), times, systems)
        least, most = extremes(t) if size is None or question is None else (question.least, question.most)
        if not most - least < torch.inf:
            check_finite(t, "t")
        many = None
        if t.shape[-1] == 1 and 2 * layout.n < layout.R and not is_for_kernel(systems, layout.R):
            many = makes_many(t, layout.n)
        plan = planner.plan_for(
            *(systems, layout.n if many else layout.R, t.shape[-1], least, most, size),
            self.times if layout.S > 1 and t.ndim > 1 and many is None else None,
        )
        self.plan = many(plan) if many else plan
        self.compiled = self.plan.compiled if question is not None else None
        self.question: Any = question  # there is one where `compiled` is not None
        # the kernel writes and reads what is asked in its shapes
        self.is_direct = self.compiled is not None and layout.is_plain and self.device is None and self.lift is None
        # |z| <= exp(|Xi| |t|) |z0|: where this is moderate, z need not be looked at
        growth, span = plan.one_norm * (most - least), SPAN if z0.dtype in WIDE else SPAN_OF_FLOATS
        self.is_moderate = growth < span and question is not None and question.start < MODERATE_SIZE

    @cached_property
    def starts(self) -> Tensor:
        """z0 (S, R, n) for the plan."""
        return self.layout.trajectories(self._precise(self.asked[1]), 1)

    @cached_property
    def times(self) -> Tensor:
        """t (S, R, T) for the plan."""
        return self.layout.trajectories(self.asked[2], 1)

    def _precise(self, x: Tensor) -> Tensor:
        """z0 or g in the precision that the plan works in."""
        return x if self.layout.n_entries >= self.plan.single_from else widened(x)

    def _check_finite(self) -> None:
        """Raise where an argument is what makes a result infinite or NaN."""
        for x, name in zip(self.asked, ("Xi", "z0", "t")):
            check_finite(x, name)

    def states(self, for_gradients: bool = False) -> Tensor:
        """z (*batch, T, n); for gradients, what they need again is kept."""
        layout, z0 = self.layout, self.asked[1]
        if layout.n_entries == 0:
            return z0.new_zeros(layout.z_shape)
        if self.is_direct and self.is_moderate:
            return self.question.states(self.compiled)
        z = self._states(for_gradients)
        return z if self.device is None else z.to(self.device)

    def _states(self, for_gradients: bool) -> Tensor:
        layout, z0 = self.layout, self.asked[1]
        if self.compiled is not None:
            z = self.question.states(self.compiled).reshape(layout.S, layout.R, *layout.z_shape[-2:])
        elif for_gradients:
            z, self.pullback = self.plan.record(self.starts, self.times)
        else:
            z = self.plan.evaluate(self.starts, self.times)
        if not self.plan.keeps_start:  # z0 at time 0, to the last bit
            starts, times = self.starts, self.times
            if z.is_cpu:
                s, r, i = (times == 0).nonzero(as_tuple=True)
                z[s, r, i] = starts[s, r]
            else:  # one more pass over z, but no wait
                z = torch.where((times == 0)[..., None], starts[:, :, None], z)
        down = None if self.lift is None else 1 / layout.trajectories(self.lift, 1)  # (S, R, 1)
        if down is not None:
            z = z.reshape(layout.S, layout.R, *layout.z_shape[-2:]) * down[:, :, None]
        if not (self.is_moderate or is_finite(z)):
            self._check_finite()
            z = widened(z).reshape(layout.S, layout.R, *layout.z_shape[-2:])
            starts = widened(self.starts) if down is None else self.starts * down
            z = overflow.states(self.plan.Xi, starts, self.times, z)
        z = layout.batched(z) if layout.batch else z
        return self._handed_over(z, z0.dtype, layout.z_shape)

    def gradients(self, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """dL/dXi, dL/dz0 and, where wanted, dL/dt of L = sum Re<g, z>."""
        layout, (Xi, z0, t) = self.layout, self.asked
        if layout.n_entries == 0:
            return torch.zeros_like(Xi), torch.zeros_like(z0), torch.zeros_like(t)
        if self.is_direct and not want_t:
            S, a, is_fine = self.question.vjp(self.compiled, g)
            if is_fine:
                return S, a, None
        if self.device is None:
            return self._gradients(g, want_t)
        S, a, dt = self._gradients(g.cpu(), want_t)
        S, a, *rates = moved((S, a) if dt is None else (S, a, dt), self.device)
        return S, a, rates[0] if rates else None

    def _gradients(self, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        layout, (Xi, z0, t) = self.layout, self.asked
        g = g if self.lift is None else g / self.lift[..., None, :]
        if self.compiled is not None:
            S, a, is_fine = self.question.vjp(self.compiled, g if layout.is_plain else layout.trajectories(g, 2))
            S, a = layout.systems(S), a.reshape(layout.S, layout.R, layout.n)
        else:
            cotangents = layout.trajectories(self._precise(g), 2)
            S, a = self.pullback(cotangents) if self.pullback else self.plan.vjp(self.starts, self.times, cotangents)
            is_fine = is_finite(S, a)
        if not is_fine:
            self._check_finite()
            S, a = self._beyond_range(S, a, layout.trajectories(widened(g), 2))
        dt = None
        if want_t:
            dt = layout.batched(self._rates(layout.trajectories(widened(g), 2))).sum_to_size(t.shape)
        if layout.batch:
            a = layout.batched(a).sum_to_size(z0.shape)
        a = a if self.lift is None else a.reshape(z0.shape) * self.lift
        return self._handed_over(S, Xi.dtype, Xi.shape), self._handed_over(a, z0.dtype, z0.shape), dt

    def _handed_over(self, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """x, which nothing else uses, in the dtype and shape that the caller expects."""
        if self.compiled is not None and x.shape == shape and not x._is_view():  # as the kernel wrote it
            return x
        return reshaped(x if x.dtype == dtype else x.to(dtype), shape)

    def _beyond_range(self, S: Tensor, a: Tensor, g: Tensor) -> Gradients:
        """S and a, with the systems anew of which something overflowed."""
        layout, plan = self.layout, self.plan
        S, a = widened(S).reshape(plan.Xi.shape), widened(a).reshape(layout.S, layout.R, layout.n)
        bad = ~(torch.isfinite(S).all(-1).all(-1) & torch.isfinite(a).all(-1).all(-1))
        anew = overflow.gradients(*(x[bad] for x in (plan.Xi, widened(self.starts), self.times, g)))
        for x, own in zip((S, a), anew):
            x[bad] = own
        return S, a

    def _rates(self, g: Tensor) -> Tensor:
        """dL/dt = Re<g, Xi z>, (S, R, T)."""
        Xi, starts, times = self.plan.Xi, self.starts, self.times
        z = widened(self.plan.evaluate(starts, times))
        rates = (g.conj_physical() * (z @ Xi.mT[:, None])).sum(-1)
        rates = rates.real.clone() if rates.is_complex() else rates  # autograd takes no view
        return rates if is_finite(rates) else overflow.rates(Xi, widened(starts), times, g)


@lru_cache(maxsize=64)
def recall(key: str) -> Planner:
    """The planner of a `Planner.key`, the same one every time, so that its plan is kept between calls."""
    (name, options), rtol = ast.literal_eval(key)
    return Planner(registry()[name](**options), rtol)
