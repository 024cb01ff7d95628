"""The torchdiffeq-shaped leaf: time first, and z0 holds at t[0]. Uses the public surface only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import ShapeError
from .methods import Method
from .ode import LinearODE


def odeint(Xi: Any, z0: Any, t: Any, *, method: str | Method = "auto", rtol: float | None = None) -> Any:
    """Solve z'(t) = Xi z(t), z(t[0]) = z0, in the shapes of `torchdiffeq.odeint`.

    Args:
        Xi: (*batch, n, n). z0: (*batch, n). t: (T,) with T >= 1; unlike there, in any order and repeated at will.
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
    times = t if isinstance(t, Tensor) else np.asarray(t)
    if times.ndim != 1 or times.shape[0] == 0:
        raise ShapeError(f"t has shape {tuple(times.shape)}; odeint needs t (T,) with T >= 1: z0 holds at t[0]")
    if isinstance(times, Tensor):
        times = times if times.is_complex() else times.to(torch.float64)  # float32 times subtract exactly
    elif times.dtype.kind in "fiu":
        times = times.astype(np.float64)
    else:
        return ode(times)  # which says what is wrong with t
    z = ode(times - times[0])
    return z.movedim(-2, 0) if isinstance(z, Tensor) else np.moveaxis(z, -2, 0)
