"""LinearODE: the data path, top to bottom (call, validate, plan, evaluate, result)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .adjoint import Planner, Trajectory
from .methods import Method, Plan, make_method
from .problem import Layout, make_system, make_times


class LinearODE:
    """Solver of z'(t) = Xi z(t), z(0) = z0, for dense Xi."""

    def __init__(self, Xi: Any, z0: Any, *, method: str | Method = "auto", rtol: float | None = None) -> None:
        self.Xi, self.z0, self._is_numpy = make_system(Xi, z0)
        self.planner = Planner(make_method(method), rtol)

    def __call__(self, t: Any) -> Any:
        t, is_scalar = make_times(t, self.Xi, self.z0.shape[:-1])
        dtype = self.Xi.dtype
        wide = torch.complex128 if dtype.is_complex else torch.float64
        z = Trajectory.apply(self.Xi.to(wide), self.z0.to(wide), t, self.planner).to(dtype)
        z = z[..., 0, :] if is_scalar else z
        return z.numpy() if self._is_numpy and not isinstance(t, Tensor) else z
