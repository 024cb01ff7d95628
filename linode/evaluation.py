"""Evaluation of detached tensors: the plan, the trajectory and its gradients, in the shapes that were asked.

`Planner` keeps the last plan and compares Xi by content, so that a plan is never stale. No autograd here.
"""

from __future__ import annotations

import ast
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernels.arrays import as_host, as_tensor, as_tensor_of, largest, namespace, of_kind, summed
from .kernels.ranged import Ranged
from .kernels.stepping import Stepper, choose_step, power_norm, scattered
from .kernels.taylor import DOUBLE
from .methods import Method, Plan, Propagator, Workload, registry
from .problem import Layout, check_finite, is_equal, is_finite, widened

FEW, SMALL = 2**14, 2**14  # entries of z, and of Xi, up to which NumPy is the faster on the CPU
MODERATE_SPAN, MODERATE_SIZE = 500.0, 1e100  # |Xi| t_max and |z0| to which nothing overflows: NumPy would warn


class Planner:
    """Plans for one solver. Plans depend on the values of Xi alone; the last is kept."""

    def __init__(self, method: Method, rtol: float | None = None) -> None:
        self.method, self.rtol = method, rtol
        self._last: tuple[Tensor, Plan] | None = None

    @property
    def key(self) -> str:
        """Names an equal planner in a call that can only pass plain values."""
        return f"({self.method.key}, {self.rtol!r})"

    def known(self, Xi: Tensor, t_max: float) -> Plan | None:
        """The last plan, if it is for Xi (S, n, n) and good for such times."""
        last = self._last  # one read: another thread may replace it
        return last[1] if last is not None and last[1].t_needed <= t_max and is_equal(last[0], Xi) else None

    def plan(self, Xi: Tensor, work: Workload) -> Plan:
        """A new plan for Xi, detached."""
        repeated = Xi.shape[0] > 1 and Xi.stride(0) == 0  # by expand(): factor it once
        own = Xi[:1].clone() if repeated else Xi.clone()
        plan = self.method.plan_for(own, work, self.rtol)
        if repeated:
            plan = plan.subset(torch.zeros(Xi.shape[0], dtype=torch.int64, device=Xi.device))
        plan.one_norm = work.norm
        self._last = (own.expand(Xi.shape), plan)
        return plan

    @property
    def for_blocks(self) -> Planner:
        """For block systems, whose eigenvalues are all repeated."""
        return Planner(Propagator(), self.rtol)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def evaluate(planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """z (*batch, T, n) from detached tensors, Xi and z0 of one dtype."""
    return Evaluation(planner, Xi, z0, t).states()


def evaluate_vjp(
    planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the shapes of Xi, z0 and t, from detached tensors."""
    return Evaluation(planner, Xi, z0, t).gradients(g, want_t)


class Evaluation:
    """One question with its plan: z0 and t laid out as trajectories of systems, in the kind of arrays that the plan
    evaluates fastest. NumPy arrays where they are small and nothing can overflow, of which NumPy would warn.
    """

    def __init__(self, planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> None:
        self.asked, self.layout = (Xi, z0, t), Layout.of(Xi.shape, z0.shape, t.shape)
        layout = self.layout
        if layout.n_entries == 0:
            return
        on_cpu = Xi.device.type == "cpu"
        few, small = on_cpu and layout.n_entries <= FEW, on_cpu and layout.S * Xi.shape[-1] ** 2 <= SMALL
        times = as_host(t) if few else t
        starts = as_host(z0) if small else widened(z0)
        size, t_max = largest(starts), largest(times)
        for x, size_of_x, name in ((z0, size, "z0"), (t, t_max, "t")):
            if not math.isfinite(size_of_x):
                check_finite(x, name)
        self.systems = layout.systems(widened(Xi))
        self.plan = planner.known(self.systems, t_max) or self._new_plan(planner, t_max, small)
        moderate = self.plan.one_norm * t_max < MODERATE_SPAN and size < MODERATE_SIZE
        if not (small and moderate and self.plan.takes_arrays):
            few, starts, times = False, widened(z0), t
        self.is_host = few  # times and states are NumPy arrays, as starts may be
        self.starts, self.times = layout.trajectories(starts, 1), layout.trajectories(times, 1)

    def _new_plan(self, planner: Planner, t_max: float, small: bool) -> Plan:
        Xi, _, t = self.asked
        norm = largest(abs(as_host(Xi) if small else self.systems).sum(-2))
        if not math.isfinite(norm):
            check_finite(Xi, "Xi")
        n_systems = 1 if self.systems.stride(0) == 0 else self.layout.S
        return planner.plan(self.systems, Workload(n_systems, self.layout.R, t.shape[-1], Xi.shape[-1], norm, t_max))

    def states(self) -> Tensor:
        """z (*batch, T, n)."""
        layout, z0 = self.layout, self.asked[1]
        if layout.n_entries == 0:
            return z0.new_zeros(layout.z_shape)
        starts, times = self.starts, self.times
        z = self.plan.evaluate(starts, times)
        if not times.all():
            z = namespace(z).where((times == 0)[..., None], of_kind(starts, z)[:, :, None], z)  # to the last bit
        if not is_finite(z):
            z = _beyond_range(self.systems, *map(as_tensor, (starts, times, z)))
        z = layout.batched(z)
        if isinstance(z, np.ndarray):
            return torch.from_numpy(z).to(z0.dtype)
        # no view to autograd: it may be changed in place
        return torch.ops.aten._unsafe_view(z.to(z0.dtype).contiguous(), layout.z_shape)

    def gradients(self, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor]:
        """dL/dXi, dL/dz0 and dL/dt of L = sum Re<g, z>; the last is zero where it is not wanted."""
        layout, (Xi, z0, t) = self.layout, self.asked
        if layout.n_entries == 0:
            return torch.zeros_like(Xi), torch.zeros_like(z0), torch.zeros_like(t)
        plan, starts, times = self.plan, self.starts, self.times
        cotangents = layout.trajectories(as_host(g) if self.is_host else widened(g), 2)
        if self.is_host and not largest(cotangents) < MODERATE_SIZE:
            starts, times, cotangents = map(as_tensor, (starts, times, cotangents))
        S, a, dt = plan.vjp(starts, times, cotangents, want_t)
        if not is_finite(S):  # states that overflowed but do not matter to the loss
            used = (cotangents != 0).any(-1)
            S, a, dt = plan.vjp(starts, namespace(S).where(used, times, 0), cotangents, want_t)
        grad_t = as_tensor_of(summed(layout.batched(dt), t.shape), t) if want_t else torch.zeros_like(t)
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
