"""The trajectory as a custom operator for torch.compile, with first derivatives in reverse mode.

Inside a compiled function forward mode and second derivatives raise; outside, `linode.engine.autograd` computes them.
The autograd kernels are registered here by hand, as `torch.library.custom_op` gives zeros in forward mode, silently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import NotDifferentiableError
from ..kernels.private import OutsideTransforms, below_autograd, within_transforms
from .batching import mapped_gradients, mapped_states
from .evaluation import evaluate, evaluate_vjp, recall

ADVICE = (
    "inside torch.compile linode has first derivatives in reverse mode only: call it outside of the compiled function"
)

library = torch.library.Library("linode", "DEF")
library.define("trajectory(Tensor Xi, Tensor z0, Tensor t, str key) -> Tensor")
library.define(
    "trajectory_vjp(Tensor Xi, Tensor z0, Tensor t, Tensor g, str key, bool want_t) -> (Tensor, Tensor, Tensor)"
)


def trajectory(Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
    """z (*batch, T, n) by the planner of `key`; Xi and z0 have one dtype."""
    return torch.ops.linode.trajectory(Xi.resolve_conj(), z0.resolve_conj(), t, key)


def _evaluate(Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
    return evaluate(recall(key), Xi, z0, t).clone()  # an operator's output must not alias its arguments


def _evaluate_vjp(
    Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, key: str, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    S, a, dt = evaluate_vjp(recall(key), Xi, z0, t, g, want_t)
    return S.clone(), a.clone(), dt.clone()


def _fake(Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
    batch = torch.broadcast_shapes(Xi.shape[:-2], z0.shape[:-1], t.shape[:-1])
    return z0.new_empty(*batch, t.shape[-1], z0.shape[-1])


def _fake_vjp(Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, key: str, want_t: bool) -> tuple[Tensor, Tensor, Tensor]:
    return Xi.new_empty(Xi.shape), z0.new_empty(z0.shape), t.new_empty(t.shape)


class NotInGraph(NotDifferentiableError, NotImplementedError):
    """For torch.compile, which leaves its graph at a NotImplementedError and differentiates eagerly, if it may."""


class _Once(OutsideTransforms):
    """The first operator; its reverse mode is the second operator. torch.func has unwrapped what comes here."""

    @staticmethod
    def forward(ctx: Any, Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
        ctx.key = key
        ctx.save_for_backward(Xi, z0, t)
        with below_autograd():
            return torch.ops.linode.trajectory(Xi, z0, t, key)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        Xi, z0, t = ctx.saved_tensors
        S, a, dt = torch.ops.linode.trajectory_vjp(Xi, z0, t, g.resolve_conj(), ctx.key, ctx.needs_input_grad[2])
        return S, a, dt, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotInGraph(f"forward mode: {ADVICE}")


class _Never(OutsideTransforms):
    """The second operator, which has no derivative."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        with below_autograd():
            return torch.ops.linode.trajectory_vjp(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotInGraph(f"second derivative: {ADVICE}")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotInGraph(f"forward mode: {ADVICE}")


def _mapped(info: Any, in_dims: Any, Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Any:
    return mapped_states(lambda *x: torch.ops.linode.trajectory(*x, key), in_dims, Xi, z0, t)


def _mapped_vjp(info: Any, in_dims: Any, Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, key: str, want_t: bool) -> Any:
    gradients = lambda *x: torch.ops.linode.trajectory_vjp(*x, key, want_t)  # noqa: E731
    return mapped_gradients(gradients, info.batch_size, in_dims, Xi, z0, t, g)


def _applied(function: Any) -> Any:
    """The autograd kernel of an operator: torch.func has taken its own level off the arguments before."""

    def apply(*inputs: Any) -> Any:
        with within_transforms():
            return function.apply(*inputs)

    return apply


for name, kernel, fake, differentiable, mapped in (
    ("trajectory", _evaluate, _fake, _Once, _mapped),
    ("trajectory_vjp", _evaluate_vjp, _fake_vjp, _Never, _mapped_vjp),
):
    library.impl(name, kernel, "CompositeExplicitAutograd")
    library.impl(name, _applied(differentiable), "Autograd")
    torch.library.register_fake(f"linode::{name}", fake, lib=library)
    torch.library.register_vmap(f"linode::{name}", mapped, lib=library)
