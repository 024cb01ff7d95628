"""odeint: the interface of torchdiffeq, with time as the first dimension and z0 the state at t[0]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engine.problem import as_answer, as_tensor, check_finite_anywhere
from .errors import ShapeError
from .methods import Method
from .ode import LinearODE


def odeint(Xi: Any, z0: Any, t: Any, *, method: str | Method = "auto", rtol: float | None = None) -> Any:
    """Solve z'(t) = Xi z(t), z(t[0]) = z0, in the shapes of `torchdiffeq.odeint`.

    Args:
        Xi: (*batch, n, n). z0: (*batch, n). t: (T,) with T >= 1; unlike there, in any order, also repeated.
        method, rtol: as for `LinearODE`.

    Returns:
        (T, *batch, n), differentiable in Xi, z0 and t (t[0] included).

    Raises:
        ShapeError: t is not one-dimensional or empty; and what `LinearODE` raises.

    Source: torchdiffeq 0.2.5 (https://github.com/rtqichen/torchdiffeq), `odeint`.

    Example:
        >>> import linode
        >>> linode.odeint([[-1.0]], [1.0], [5.0, 5.0]).tolist()
        [[1.0], [1.0]]
    """
    ode = LinearODE(Xi, z0, method=method, rtol=rtol)
    times = as_tensor(t, "t", integers_become=torch.float64)
    if times.ndim != 1 or times.shape[0] == 0:
        raise ShapeError(f"t has shape {tuple(times.shape)}; odeint needs t (T,) with T >= 1: z0 holds at t[0]")
    check_finite_anywhere(times, "t")
    times = times if times.is_complex() else times.to(torch.float64)  # float32 times subtract exactly
    z = ode(times - times[0]).movedim(-2, 0)
    return as_answer(z, not any(isinstance(x, Tensor) for x in (Xi, z0, t)))
