"""The trajectory as a custom operator, which torch.compile takes as a whole: first derivatives in reverse mode.

Forward mode and second derivatives inside a compiled function raise; outside of it they are `linode.adjoint`'s.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .evaluation import evaluate, evaluate_vjp, recall


@torch.library.custom_op("linode::trajectory", mutates_args=())
def trajectory(Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
    """z (*batch, T, n) by the planner that `evaluation.remember` filed under key."""
    return evaluate(recall(key), Xi, z0, t).clone()  # an operator's output must not alias its arguments


@torch.library.custom_op("linode::trajectory_vjp", mutates_args=())
def trajectory_vjp(
    Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, key: str, want_t: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the shapes of Xi, z0 and t."""
    S, a, dt = evaluate_vjp(recall(key), Xi, z0, t, g, want_t)
    return S.clone(), a.clone(), dt.clone()


@trajectory.register_fake
def _(Xi: Tensor, z0: Tensor, t: Tensor, key: str) -> Tensor:
    batch = torch.broadcast_shapes(Xi.shape[:-2], z0.shape[:-1], t.shape[:-1])
    return z0.new_empty(*batch, t.shape[-1], z0.shape[-1])


@trajectory_vjp.register_fake
def _(Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, key: str, want_t: bool) -> tuple[Tensor, Tensor, Tensor]:
    return Xi.new_empty(Xi.shape), z0.new_empty(z0.shape), t.new_empty(t.shape)


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    *tensors, ctx.key = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, g: Tensor) -> Any:
    Xi, z0, t = ctx.saved_tensors
    return *trajectory_vjp(Xi, z0, t, g, ctx.key, ctx.needs_input_grad[2]), None


trajectory.register_autograd(_backward, setup_context=_setup)
