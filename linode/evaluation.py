"""Evaluation of detached tensors: the plan, the trajectory and its gradients, in the shapes that were asked.

`Planner` keeps the last plan and compares Xi by content, so that a plan is never stale. No autograd here.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .kernels.ranged import Ranged
from .kernels.stepping import Stepper, choose_step, power_norm, scattered
from .kernels.taylor import DOUBLE
from .methods import Method, Plan, Propagator, Workload, registry
from .problem import Layout, check_finite, is_finite, widened


class Planner:
    """Plans for one solver. Plans depend on the values of Xi alone; the last is kept."""

    def __init__(self, method: Method, rtol: float | None = None) -> None:
        self.method, self.rtol = method, rtol
        self.key = f"({method.key}, {rtol!r})"  # names an equal planner in a call that can only pass plain values
        self._last: tuple[Tensor, Plan] | None = None

    def plan(self, Xi: Tensor, n_trajectories: int = 1, t: Tensor | None = None) -> Plan:
        """The plan for Xi (S, n, n), detached; where there is none yet, for n_trajectories at times t (S, R, T)."""
        last = self._last  # one read: another thread may replace it
        if last is not None and (last[0].device, last[0].dtype) == (Xi.device, Xi.dtype) and torch.equal(last[0], Xi):
            return last[1]
        check_finite(Xi, "Xi")
        repeated = Xi.shape[0] > 1 and Xi.stride(0) == 0  # by expand(): factor it once
        own = Xi[:1].clone() if repeated else Xi.clone()
        plan = self.method.plan_for(own, _workload(own, n_trajectories, t), self.rtol)
        if repeated:
            plan = plan.subset(torch.zeros(Xi.shape[0], dtype=torch.int64, device=Xi.device))
        self._last = (own.expand(Xi.shape), plan)
        return plan

    @property
    def for_blocks(self) -> Planner:
        """For block systems, whose eigenvalues are all repeated."""
        return Planner(Propagator(), self.rtol)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def _workload(Xi: Tensor, n_trajectories: int, t: Tensor | None) -> Workload:
    n_times, span = 1, 1.0
    if t is not None and t.numel() and Xi.numel():
        n_times, span = t.shape[-1], float(torch.linalg.matrix_norm(Xi, 1).amax() * t.abs().amax())
    return Workload(Xi.shape[0], n_trajectories, n_times, Xi.shape[-1], span)


def evaluate(planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """z (*batch, T, n) from detached tensors, Xi and z0 of one dtype."""
    layout = Layout.of(Xi.shape, z0.shape, t.shape)
    if layout.S * layout.R * t.shape[-1] == 0:
        return z0.new_zeros(*layout.batch, t.shape[-1], z0.shape[-1])
    check_finite(z0, "z0")
    check_finite(t, "t")
    systems, starts, times = layout.systems(widened(Xi)), layout.trajectories(widened(z0), 1), layout.trajectories(t, 1)
    z = planner.plan(systems, layout.R, times).evaluate(starts, times)
    if not bool(times.all()):
        z = torch.where((times == 0)[..., None], starts[:, :, None], z)  # to the last bit
    if not is_finite(z):
        z = _beyond_range(systems, starts, times, z)
    z = layout.batched(z).to(z0.dtype).contiguous()
    return torch.ops.aten._unsafe_view(z, layout.z_shape)  # no view to autograd: it may be changed in place


def evaluate_vjp(
    planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the shapes of Xi, z0 and t, from detached tensors."""
    layout = Layout.of(Xi.shape, z0.shape, t.shape)
    if g.numel() == 0:
        return torch.zeros_like(Xi), torch.zeros_like(z0), torch.zeros_like(t)
    systems, starts, times = layout.systems(widened(Xi)), layout.trajectories(widened(z0), 1), layout.trajectories(t, 1)
    cotangents = layout.trajectories(widened(g), 2)
    plan = planner.plan(systems, layout.R, times)
    S, a, dt = plan.vjp(starts, times, cotangents, want_t)
    if not is_finite(S):  # states that overflowed but do not matter to the loss
        used = (cotangents != 0).any(-1)
        S, a, dt = plan.vjp(starts, torch.where(used, times, 0), cotangents, want_t)
    grad_t = torch.zeros_like(t) if dt is None else layout.batched(dt).sum_to_size(t.shape)
    grads = S.reshape(Xi.shape).to(Xi.dtype), layout.batched(a).sum_to_size(z0.shape).to(z0.dtype), grad_t
    return tuple(x.contiguous() for x in grads)  # type: ignore[return-value]


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
