"""The trajectory as a custom operator for torch.compile, with first derivatives in reverse mode.

Inside a compiled function forward mode and second derivatives raise; outside, `linode.engine.autograd` computes them.
The autograd kernels are registered here by hand, as `torch.library.custom_op` gives zeros in forward mode, silently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from ..errors import NotDifferentiableError
from ..kernels.private import below_autograd
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


class _Once(Function):
    """The first operator; its reverse mode is the second operator."""

    @staticmethod
    def forward(Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
        with below_autograd():
            return torch.ops.linode.trajectory(Xi, z0, t, key)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.key = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        Xi, z0, t = ctx.saved_tensors
        S, a, dt = torch.ops.linode.trajectory_vjp(Xi, z0, t, g.resolve_conj(), ctx.key, ctx.needs_input_grad[2])
        return S, a, dt, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotDifferentiableError(f"forward mode: {ADVICE}")


class _Never(Function):
    """The second operator, which has no derivative."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        with below_autograd():
            return torch.ops.linode.trajectory_vjp(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotDifferentiableError(f"second derivative: {ADVICE}")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotDifferentiableError(f"forward mode: {ADVICE}")


for name, kernel, fake, differentiable in (
    ("trajectory", _evaluate, _fake, _Once),
    ("trajectory_vjp", _evaluate_vjp, _fake_vjp, _Never),
):
    library.impl(name, kernel, "CompositeExplicitAutograd")
    library.impl(name, differentiable.apply, "Autograd")
    torch.library.register_fake(f"linode::{name}", fake, lib=library)
