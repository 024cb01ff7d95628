"""The autograd wiring: the only place that knows it.

`Trajectory` is z(Xi, z0, t); its backward is `TrajectoryVJP`, a function in its own right. Derivatives of both, in either mode and
of any order, are trajectories and vjps of the block system [[Xi, 0], [dXi, Xi]] (Van Loan 1978, IEEE Trans. Autom. Control 23),
so that the two are closed under differentiation and nothing is ever differentiated through a decomposition.
vmap folds the mapped dimension into the batch. `Planner` keeps the last plan and compares Xi by content: a plan is never stale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from .kernels.ranged import Ranged
from .kernels.stepping import Stepper, choose_step, power_norm, scattered
from .kernels.taylor import DOUBLE
from .methods import Method, Plan, Propagator
from .problem import Layout, check_finite


class Planner:
    """Plans for one solver. Plans depend on the values of Xi alone; the last is kept."""

    def __init__(self, method: Method, rtol: float | None = None) -> None:
        self.method, self.rtol = method, rtol
        self._last: tuple[Tensor, Plan] | None = None

    def plan(self, Xi: Tensor) -> Plan:
        """The plan for Xi (S, n, n), detached."""
        last = self._last  # one read: another thread may replace it
        if last is not None and last[0].device == Xi.device and torch.equal(last[0], Xi):
            return last[1]
        check_finite(Xi, "Xi")
        if Xi.shape[0] > 1 and Xi.stride(0) == 0:  # one system repeated by expand(): factor it once
            once = self.method.plan_or_raise(Xi[:1], self.rtol)
            plan = once.subset(torch.zeros(Xi.shape[0], dtype=torch.int64, device=Xi.device))
        else:
            plan = self.method.plan_or_raise(Xi, self.rtol)
        self._last = (Xi.clone(), plan)
        return plan

    @property
    def for_blocks(self) -> Planner:
        """For block systems, whose eigenvalues are all repeated."""
        return Planner(Propagator(), self.rtol)

    def __getstate__(self) -> dict[str, Any]:
        return {"method": self.method, "rtol": self.rtol, "_last": None}


def evaluate(planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """z (*batch, T, n) from detached tensors."""
    layout = Layout.of(Xi.shape, z0.shape, t.shape)
    check_finite(z0, "z0")
    check_finite(t, "t")
    systems = layout.systems(Xi)
    starts, times = layout.trajectories(z0, 1), layout.trajectories(t, 1)
    z = planner.plan(systems).evaluate(starts, times)
    if not bool(torch.isfinite(z).all()):
        z = _beyond_range(systems, starts, times, z)
    return layout.batched(z).contiguous()  # forward mode wants the layout of the tangent


def evaluate_vjp(
    planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the shapes of Xi, z0 and t, from detached tensors."""
    layout = Layout.of(Xi.shape, z0.shape, t.shape)
    plan = planner.plan(layout.systems(Xi))
    starts, times, cotangents = layout.trajectories(z0, 1), layout.trajectories(t, 1), layout.trajectories(g, 2)
    S, a, dt = plan.vjp(starts, times, cotangents, want_t)
    if not bool(torch.isfinite(S).all()):  # states that overflowed but do not matter to the loss
        used = (cotangents != 0).any(-1)
        S, a, dt = plan.vjp(starts, torch.where(used, times, 0), cotangents, want_t)
    grad_t = torch.zeros_like(t) if dt is None else layout.batched(dt).sum_to_size(t.shape)
    grads = S.reshape(Xi.shape), layout.batched(a).sum_to_size(z0.shape), grad_t
    return tuple(x.contiguous() for x in grads)  # type: ignore[return-value]


def _beyond_range(Xi: Tensor, z0: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Repeat the times at which something overflowed in arithmetic that cannot."""
    bad = ~torch.isfinite(z).all(-1)
    times = torch.where(bad, t, 0)
    again = []
    for sign in (1.0, -1.0):
        A = sign * Xi
        step = Stepper(Ranged(A), choose_step(*power_norm(A)), DOUBLE)
        again.append(scattered(step, Ranged(z0), (sign * times).clamp(min=0)).round())
    return torch.where(bad[..., None], torch.where((times > 0)[..., None], *again), z)


class Trajectory(Function):
    """z(Xi, z0, t), (*batch, T, n)."""

    @staticmethod
    def forward(Xi: Tensor, z0: Tensor, t: Tensor, planner: Planner) -> Tensor:
        return evaluate(planner, Xi, z0, t)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.planner = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        Xi, z0, t = ctx.saved_tensors
        need_Xi, need_z0, need_t, _ = ctx.needs_input_grad
        S, a, dt = TrajectoryVJP.apply(Xi, z0, t, g, ctx.planner, need_t)
        return S if need_Xi else None, a if need_z0 else None, dt if need_t else None, None

    @staticmethod
    def jvp(ctx: Any, dXi: Tensor | None, dz0: Tensor | None, dt: Tensor | None, _: None) -> Tensor:
        Xi, z0, t = ctx.saved_tensors
        return tangent(Xi, z0, t, *_zeros_for_none((Xi, z0, t), (dXi, dz0, dt)), ctx.planner)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, Xi: Tensor, z0: Tensor, t: Tensor, planner: Planner) -> Any:
        folded = _fold((Xi, z0, t), in_dims[:3], (2, 1, 1))
        return Trajectory.apply(*folded, Planner(planner.method, planner.rtol)), 0


class TrajectoryVJP(Function):
    """Gradients (S, a, dt) of sum Re<g, z(Xi, z0, t)>, in the shapes of Xi, z0 and t."""

    @staticmethod
    def forward(
        Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, planner: Planner, want_t: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return evaluate_vjp(planner, Xi, z0, t, g, want_t)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.planner, ctx.want_t = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, dXi: Tensor, dz0: Tensor, dt: Tensor) -> Any:
        Xi, z0, t, g = ctx.saved_tensors
        *grads, dz = second_order(Xi, z0, t, g, dXi, dz0, dt, ctx.planner)
        return *grads, dz, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        Xi, z0, t, g = ctx.saved_tensors
        dXi, dz0, dt, dg = _zeros_for_none((Xi, z0, t, g), tangents[:4])
        *curvature, _ = second_order(Xi, z0, t, g, dXi, dz0, dt, ctx.planner)
        linear = TrajectoryVJP.apply(Xi, z0, t, dg, ctx.planner, True)
        return tuple(x + y for x, y in zip(curvature, linear))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, planner: Planner, want_t: bool
    ) -> Any:
        folded = _fold((Xi, z0, t, g), in_dims[:4], (2, 1, 1, 2))
        # every element of the map has gradients of its own, so every argument must carry the dimension
        rank = max(x.ndim - own for x, own in zip(folded, (2, 1, 1, 2)))
        size, whole = info.batch_size, []
        for x, own, dim in zip(folded, (2, 1, 1, 2), in_dims):
            if dim is None:
                x = x.reshape(*(1,) * (rank - x.ndim + own), *x.shape).expand(size, *(-1,) * (rank - 1 + own))
            whole.append(x)
        grads = TrajectoryVJP.apply(*whole, Planner(planner.method, planner.rtol), want_t)
        shapes = (x.shape if d is None else x.movedim(d, 0).shape[1:] for x, d in zip((Xi, z0, t), in_dims))
        return tuple(x.reshape(size, *shape) for x, shape in zip(grads, shapes)), (0, 0, 0)


def tangent(
    Xi: Tensor, z0: Tensor, t: Tensor, dXi: Tensor, dz0: Tensor, dt: Tensor, planner: Planner
) -> tuple[Tensor, Tensor]:
    """dz = w + dt Xi z and the state [z, w] of the block system that gives it; differentiable."""
    n = Xi.shape[-1]
    y = Trajectory.apply(*_block(Xi, dXi, z0, dz0), t, planner.for_blocks)
    z, w = y[..., :n], y[..., n:]
    return (w + dt[..., None] * (z @ Xi.mT)).contiguous(), y


def second_order(
    Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, dXi: Tensor, dz0: Tensor, dt: Tensor, planner: Planner
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of sum Re<g, dz> with respect to Xi, z0, t and g, dz the tangent along (dXi, dz0, dt); differentiable."""
    n = Xi.shape[-1]
    M, y0 = _block(Xi, dXi, z0, dz0)
    dz, y = tangent(Xi, z0, t, dXi, dz0, dt, planner)
    moved = dt[..., None] * g  # cotangent of Xi z, from dz's term dt Xi z
    G = torch.cat([moved @ Xi.conj(), g], -1)
    S, a, grad_t = TrajectoryVJP.apply(M, y0, t, G, planner.for_blocks, True)
    direct = (moved.mT @ y[..., :n].conj()).sum_to_size(Xi.shape)
    return S[..., :n, :n] + S[..., n:, n:] + direct, a[..., :n], grad_t, dz


def _block(Xi: Tensor, dXi: Tensor, z0: Tensor, dz0: Tensor) -> tuple[Tensor, Tensor]:
    top = torch.cat([Xi, torch.zeros_like(Xi)], -1)
    return torch.cat([top, torch.cat([dXi, Xi], -1)], -2), torch.cat([z0, dz0], -1)


def _zeros_for_none(primals: Any, tangents: Any) -> list[Tensor]:
    return [torch.zeros_like(p) if d is None else d for p, d in zip(primals, tangents)]


def _fold(tensors: Any, in_dims: Any, n_own: Any) -> list[Tensor]:
    """Mapped dimensions moved to the front of batch shapes of one rank."""
    ranks = [x.ndim - own - (dim is not None) for x, own, dim in zip(tensors, n_own, in_dims)]
    rank = max(ranks)
    folded = []
    for x, own, dim, r in zip(tensors, n_own, in_dims, ranks):
        if dim is not None:
            x = x.movedim(dim, 0)
            x = x.reshape(x.shape[0], *(1,) * (rank - r), *x.shape[1:])
        folded.append(x)
    return folded
