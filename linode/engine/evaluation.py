"""Evaluation of detached tensors: the plan, the trajectory and its gradients, in the shapes that were asked.

`Planner` keeps the last plan and compares Xi by content, so that a plan is never stale. No autograd here.
"""

from __future__ import annotations

import ast
import math
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.arithmetic.ranged import Ranged
from ..kernels.arrays import (
    MOST_STATES_OF_NUMPY,
    amax,
    as_host,
    as_tensor,
    as_tensor_of,
    copy,
    distinct,
    is_repeated,
    largest,
    namespace,
    nonzero,
    of_kind,
    one_norm,
    summed,
)
from ..kernels.private import without_alias
from ..kernels.stepping import Stepper, choose_step, power_norm, scattered
from ..kernels.taylor import DOUBLE
from ..kernels.tensors import is_equal, is_finite, widened
from ..methods import Auto, Method, Plan, Propagator, Pullback, Workload, registry
from .one_time import THETA, Short, makes_many
from .problem import Layout, check_finite
from .recurrences import recur

FEW, SMALL = 2**17, 2**14  # entries of z, and of Xi, up to which NumPy is the faster on the CPU
MANY = 2**16  # entries of z from which on their precision is worth a thought
MODERATE_SPAN, MODERATE_SIZE = 400.0, 1e100  # |Xi| t_max and |z0| to which nothing overflows: NumPy would warn
Systems = Tensor | NDArray[Any]  # Xi (S, n, n), detached and wide: an array where it is small and on the CPU


class Planner:
    """Plans for one solver. Plans depend on the values of Xi alone; the last is kept."""

    def __init__(self, method: Method, rtol: float | None = None) -> None:
        self.method, self.rtol = method, rtol
        self._last: tuple[Tensor | tuple[str, tuple[int, ...], bytes], Plan] | None = None

    @property
    def key(self) -> str:
        """Names an equal planner in a call that can only pass plain values."""
        return f"({self.method.key}, {self.rtol!r})"

    def known(self, Xi: Systems, t_max: float | None = None) -> Plan | None:
        """The last plan, if it is for Xi and good for such times."""
        last = self._last  # one read: another thread may replace it
        if last is None or not (t_max is None or last[1].t_needed <= t_max <= last[1].t_most):
            return None
        values, plan = last
        if isinstance(values, Tensor):
            same = isinstance(Xi, Tensor) and is_equal(values, Xi)
        else:
            same = isinstance(Xi, np.ndarray) and values == _values(Xi)
        return plan if same else None

    def plan(self, Xi: Systems, work: Workload) -> Plan:
        """A new plan for Xi."""
        repeated = Xi.shape[0] > 1 and is_repeated(Xi)
        own = copy(Xi[:1] if repeated else Xi)
        plan = self.method.plan_for(own, work, self.rtol)
        if repeated:
            plan = plan.subset(torch.zeros(Xi.shape[0], dtype=torch.int64, device=plan.Xi.device))
        plan.one_norm = work.norm
        self._last = (own.expand(Xi.shape) if isinstance(own, Tensor) else _values(np.asarray(Xi)), plan)
        return plan

    @property
    def for_blocks(self) -> Planner:
        """For block systems, whose eigenvalues are all repeated."""
        return Planner(Propagator(), self.rtol)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def _values(x: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """All that there is to compare."""
    return x.dtype.char, x.shape, x.tobytes()


def columns(n: int, rank: int, like: Tensor) -> Tensor:
    """The columns of I as initial states, (n, *1, n): one batch dimension for them, then as many of size 1."""
    return torch.eye(n, dtype=like.dtype, device=like.device).reshape(n, *(1,) * rank, n)


def systems_of(Xi: Tensor, layout: Layout) -> Systems:
    if Xi.is_cpu and layout.n <= MOST_STATES_OF_NUMPY and layout.S * layout.n**2 <= SMALL:
        return layout.systems(as_host(Xi))
    return layout.systems(widened(Xi))


def evaluate(planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """z (*batch, T, n) from detached tensors, Xi and z0 of one dtype."""
    return Evaluation(planner, Xi, z0, t).states()


def evaluate_vjp(
    planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the shapes of Xi, z0 and t, from detached tensors; that of t is zero where it is not wanted."""
    S, a, dt = Evaluation(planner, Xi, z0, t).gradients(g, want_t)
    return S, a, torch.zeros_like(t) if dt is None else dt


class Evaluation:
    """One question with its plan: z0 and t laid out as trajectories of systems, in the kind of arrays that the plan
    evaluates fastest. NumPy arrays where they are small and nothing can overflow, of which NumPy would warn.
    """

    def __init__(self, planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> None:
        self.asked, self.layout = (Xi, z0, t), Layout.of(Xi.shape, z0.shape, t.shape)
        layout = self.layout
        self.pullback: Pullback | None = None
        self.is_single = False  # states and cotangents keep the precision that they have
        if layout.n_entries == 0:
            return
        self.systems = systems_of(Xi, layout)
        small = isinstance(self.systems, np.ndarray)
        few = small and layout.n_entries <= FEW
        starts, times = as_host(z0) if small else widened(z0), as_host(t) if few else t
        size, t_max = largest(starts), largest(times)
        for x, size_of_x, name in ((z0, size, "z0"), (t, t_max, "t")):
            if not math.isfinite(size_of_x):
                check_finite(x, name)
        many = makes_many(t, layout.n) if layout.t_shape[-1] == 1 and 2 * layout.n < layout.R else None
        plan = self._plan(planner, t_max, layout.n if many else layout.R)
        self.plan = many(plan) if many else plan
        moderate = self.plan.one_norm * t_max < MODERATE_SPAN and size < MODERATE_SIZE
        mixes = few or not (many or isinstance(plan, Short))  # arrays of states beside tensors of times
        if small and moderate and self.plan.prefers_arrays:
            few, times = True, as_host(t)
        elif not (small and moderate and self.plan.takes_arrays and mixes):
            self.is_single = self.plan.takes_single and layout.n_entries > MANY
            few, starts, times = False, z0 if self.is_single else widened(z0), t
        self.is_host = few  # times and states are NumPy arrays, as starts may be
        self.starts, self.times = layout.trajectories(starts, 1), layout.trajectories(times, 1)

    def _plan(self, planner: Planner, t_max: float, n_trajectories: int) -> Plan:
        """A series where the one time is short enough for it, the plan that is known, or a new one."""
        layout, Xi, n_times = self.layout, self.systems, self.layout.t_shape[-1]
        if n_times == 1 and isinstance(planner.method, Auto):
            norm = self._norm()
            if norm * t_max <= THETA / 2:
                return Short(Xi, norm)
        known = planner.known(Xi, t_max)
        if known is not None:
            return known
        n_systems = 1 if is_repeated(Xi) else layout.S
        return planner.plan(Xi, Workload(n_systems, n_trajectories, n_times, layout.n, self._norm(), t_max))

    def _norm(self) -> float:
        """Largest |Xi|_1."""
        norm = float(amax(one_norm(self.systems)))
        if not math.isfinite(norm):
            check_finite(self.asked[0], "Xi")
        return norm

    def states(self, for_gradients: bool = False) -> Tensor:
        """z (*batch, T, n); for gradients, what they need again is kept."""
        layout, z0 = self.layout, self.asked[1]
        if layout.n_entries == 0:
            return z0.new_zeros(layout.z_shape)
        starts, times = self.starts, self.times
        if for_gradients:
            z, self.pullback = self.plan.record(starts, times)
        else:
            z = self.plan.evaluate(starts, times)
        self._start(z)
        if self.is_host:
            return as_tensor_of(layout.batched(z), z0)
        if not is_finite(z):
            z = _beyond_range(*map(as_tensor, (self.systems, starts, times, z)))
        # no view to autograd: it may be changed in place
        return without_alias(layout.batched(z).to(z0.dtype).contiguous(), layout.z_shape)

    def _start(self, z: Any) -> None:
        """z0 at time 0, to the last bit."""
        starts, times = self.starts, self.times
        if self.layout.S * self.layout.R > 1:
            times = distinct(times)
        if times.shape[0] * times.shape[1] == 1:  # all have the same
            (i,) = nonzero(times[0, 0] == 0)
            if len(i):
                z[:, :, i] = of_kind(starts, z)[:, :, None]
            return
        s, r, i = nonzero(self.times == 0)
        if len(s):
            z[s, r, i] = of_kind(starts[of_kind(s, starts), of_kind(r, starts)], z)

    def recurrence(self, d: Tensor) -> Tensor:
        """x_(k+1) = exp(Xi t_k) x_k + d_k from x_0 = z0, (*batch, T + 1, n), for d (*batch, T, n)."""
        if self.layout.n_entries == 0:
            return d.new_zeros(*d.shape[:-2], d.shape[-2] + 1, d.shape[-1])
        x = recur(self.plan, as_tensor(self.starts), as_tensor(self.times), self.layout.trajectories(d, 2))
        return self.layout.batched(x).contiguous()

    def gradients(self, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """dL/dXi, dL/dz0 and, where wanted, dL/dt of L = sum Re<g, z>."""
        layout, (Xi, z0, t) = self.layout, self.asked
        if layout.n_entries == 0:
            return torch.zeros_like(Xi), torch.zeros_like(z0), torch.zeros_like(t)
        plan, starts, times = self.plan, self.starts, self.times
        cotangents = layout.trajectories(as_host(g) if self.is_host else g if self.is_single else widened(g), 2)
        with np.errstate(over="ignore", invalid="ignore"):
            S, a, dt = (self.pullback or partial(plan.vjp, starts, times))(cotangents, want_t)
            if not is_finite(S):  # states that overflowed but do not matter to the loss
                used = (cotangents != 0).any(-1)
                S, a, dt = plan.vjp(starts, namespace(S).where(used, times, 0), cotangents, want_t)
        grad_t = as_tensor_of(summed(layout.batched(dt), t.shape), t) if want_t else None
        return as_tensor_of(S.reshape(Xi.shape), Xi), as_tensor_of(summed(layout.batched(a), z0.shape), z0), grad_t


def _beyond_range(Xi: Tensor, z0: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Repeat the times at which something overflowed in arithmetic that cannot."""
    bad = ~torch.isfinite(z).all(-1)
    times = torch.where(bad, t, 0)
    forth, back = (_ranged(sign * Xi, z0, (sign * times).clamp(min=0)) for sign in (1.0, -1.0))
    return torch.where(bad[..., None], torch.where((times > 0)[..., None], forth, back), z)


def _ranged(A: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    step = Stepper(Ranged(A), choose_step(*power_norm(A)), DOUBLE)
    return scattered(step, Ranged(z0), t).round()


@lru_cache(maxsize=64)
def recall(key: str) -> Planner:
    """The planner of a `Planner.key`, the same one every time, so that its plan is kept between calls."""
    (name, options), rtol = ast.literal_eval(key)
    return Planner(registry()[name](**options), rtol)
