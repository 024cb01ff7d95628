"""Derivatives of trajectories: the autograd functions of torch.

`Trajectory` is z(Xi, z0, t); its backward is `TrajectoryVJP`, a function in its own right. Derivatives of both, in
forward and reverse mode and of any order, are trajectories and vjps of the block system [[Xi, 0], [dXi, Xi]] (Van Loan
1978, IEEE Trans. Autom. Control 23), so no decomposition is ever differentiated. vmap makes the mapped dimension a
batch dimension. torch.compile cannot trace a Function with a jvp: there the same evaluation runs as custom operators
(`linode.engine.compiled`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.compiler import is_compiling

from ..errors import NotDifferentiableError
from ..kernels.private import OutsideTransforms, forward_mode_depth, is_batched, is_in_forward_mode, is_transforming
from . import compiled
from .batching import mapped_gradients, mapped_states
from .evaluation import Evaluation, Planner, evaluate, evaluate_vjp
from .tracing import untraced

Map = Callable[[Tensor], Tensor]


def trajectory(Xi: Tensor, z0: Tensor, t: Tensor, planner: Planner) -> Tensor:
    """z(t) = exp(Xi t) z0, (*batch, T, n), differentiable; Xi and z0 of one dtype, t float64."""
    if is_compiling():
        return compiled.trajectory(Xi, z0, t, planner.key)
    if is_transforming():
        if forward_mode_depth() > 1:
            raise NotDifferentiableError(
                "torch loses the outer tangents of a custom function in nested forward mode (pytorch issue 197867): "
                "use jacfwd(jacrev(f)), jacrev(jacfwd(f)) or hessian instead of jacfwd(jacfwd(f))"
            )
    elif not is_in_forward_mode():
        if torch.is_grad_enabled() and (Xi.requires_grad or z0.requires_grad or t.requires_grad):
            return EagerTrajectory.apply(Xi, z0, t, planner)  # type: ignore[attr-defined]
        return evaluate(planner, Xi, z0, t)  # no derivative is asked for
    return Trajectory.apply(Xi, z0, t, planner)


def linearised(f: Map, x: Tensor) -> tuple[Map, Map]:
    """The derivative of f at x and its adjoint, as functions of a tangent and of a cotangent."""
    with torch.enable_grad():
        pullback = torch.func.vjp(f, x)[1]

    def push(dx: Tensor) -> Tensor:
        with warnings.catch_warnings():  # torch warns about its own code when forward mode is first used
            warnings.filterwarnings("ignore", ".*torch.jit.script. is deprecated", DeprecationWarning)
            return torch.func.jvp(f, (x,), (dx,))[1]

    return push, lambda g: pullback(g)[0]


class Trajectory(Function):
    """z(Xi, z0, t), (*batch, T, n)."""

    @staticmethod
    @untraced
    def forward(Xi: Tensor, z0: Tensor, t: Tensor, planner: Planner) -> Tensor:
        return evaluate(planner, Xi.detach(), z0.detach(), t.detach())

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
        refuse_batched(dXi, dz0, dt)
        dXi, dz0, dt = zeros_for_none((Xi, z0, t), (dXi, dz0, dt))
        return tangent(Xi, z0, t, dXi, dz0, dt, ctx.planner)[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, Xi: Tensor, z0: Tensor, t: Tensor, planner: Planner) -> Any:
        own = planner.fresh()
        return mapped_states(lambda *x: Trajectory.apply(*x, own), in_dims, Xi, z0, t)


class EagerTrajectory(OutsideTransforms):
    """The same in reverse mode alone, outside of transforms: half the time of a small step; backward uses forward."""

    @staticmethod
    def forward(ctx: Any, Xi: Tensor, z0: Tensor, t: Tensor, planner: Planner) -> Tensor:
        ctx.planner, ctx.evaluation = planner, Evaluation(planner, Xi, z0, t)
        ctx.save_for_backward(Xi, z0, t)
        return ctx.evaluation.states(for_gradients=True)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if is_batched(g):
            refuse_batched(g)
        if torch.is_grad_enabled() or is_transforming():
            return Trajectory.backward(ctx, g)
        ctx.saved_tensors  # noqa: B018 - raises where one was changed in place
        need_Xi, need_z0, need_t, _ = ctx.needs_input_grad
        S, a, dt = ctx.evaluation.gradients(g, need_t)
        return S if need_Xi else None, a if need_z0 else None, dt, None


class TrajectoryVJP(Function):
    """Gradients (S, a, dt) of sum Re<g, z(Xi, z0, t)>, in the shapes of Xi, z0 and t."""

    @staticmethod
    @untraced
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
        dXi, dz0, dt, dg = zeros_for_none((Xi, z0, t, g), tangents[:4])
        *curvature, _ = second_order(Xi, z0, t, g, dXi, dz0, dt, ctx.planner)
        linear = TrajectoryVJP.apply(Xi, z0, t, dg, ctx.planner, True)
        return tuple(x + y for x, y in zip(curvature, linear))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, planner: Planner, want_t: bool
    ) -> Any:
        own = planner.fresh()
        apply = lambda *x: TrajectoryVJP.apply(*x, own, want_t)  # noqa: E731
        return mapped_gradients(apply, info.batch_size, in_dims, Xi, z0, t, g)


def tangent(
    Xi: Tensor, z0: Tensor, t: Tensor, dXi: Tensor, dz0: Tensor, dt: Tensor, planner: Planner
) -> tuple[Tensor, Tensor]:
    """dz = w + dt Xi z and the state [z, w] of the block system that gives it; differentiable."""
    n = Xi.shape[-1]
    y = Trajectory.apply(*_block(Xi, dXi, z0, dz0), t, planner.for_blocks)
    z, w = y[..., :n], y[..., n:]
    return (w + dt[..., None].to(w.real.dtype) * (z @ Xi.mT)).contiguous(), y


def second_order(
    Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, dXi: Tensor, dz0: Tensor, dt: Tensor, planner: Planner
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of sum Re<g, dz> with respect to Xi, z0, t and g, dz the tangent along (dXi, dz0, dt);
    differentiable.
    """
    n = Xi.shape[-1]
    M, y0 = _block(Xi, dXi, z0, dz0)
    dz, y = tangent(Xi, z0, t, dXi, dz0, dt, planner)
    moved = dt[..., None].to(g.real.dtype) * g  # cotangent of Xi z, from dz's term dt Xi z
    G = torch.cat([moved @ Xi.conj(), g], -1)
    S, a, grad_t = TrajectoryVJP.apply(M, y0, t, G, planner.for_blocks, True)
    direct = (moved.mT @ y[..., :n].conj()).sum_to_size(Xi.shape)
    return S[..., :n, :n] + S[..., n:, n:] + direct, a[..., :n], grad_t, dz


def _block(Xi: Tensor, dXi: Tensor, z0: Tensor, dz0: Tensor) -> tuple[Tensor, Tensor]:
    top = torch.cat([Xi, torch.zeros_like(Xi)], -1)
    return torch.cat([top, torch.cat([dXi, Xi], -1)], -2), torch.cat([z0, dz0], -1)


def refuse_batched(*xs: Tensor | None) -> None:
    """Raise where autograd has batched tangents or cotangents: they have no numbers of their own."""
    if any(x is not None and is_batched(x) for x in xs):
        raise NotDifferentiableError(
            "tangents and cotangents that autograd batches (is_grads_batched=True, vectorize=True) cannot enter a "
            "custom function: use torch.func.jacrev, torch.func.jacfwd or torch.func.vmap"
        )


def zeros_for_none(primals: Any, tangents: Any) -> Any:
    return [torch.zeros_like(p) if d is None else d for p, d in zip(primals, tangents)]
