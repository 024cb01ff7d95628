"""The relative condition number of a trajectory, by power iteration with the solver's own jvp and vjp."""

from __future__ import annotations

import torch
from torch import Tensor

from .adjoint import tangent
from .evaluation import Planner, evaluate_vjp
from .methods import Propagator

N_ITERATIONS = 8
CONVERGED = 0.02  # relative change of the estimate


def relative_condition(Xi: Tensor, z0: Tensor, t: Tensor, z: Tensor, planner: Planner) -> Tensor:
    """|J|_2 |Xi|_F / |z|_F, shape (*batch,), J the derivative of the trajectory with respect to Xi; all detached and
    wide.

    Source: Higham (2008), Functions of Matrices, algorithm 3.20. Every trajectory has a J of its own, so Xi is
    expanded.
    """
    batch, n = z.shape[:-2], Xi.shape[-1]
    if z.numel() == 0:
        return torch.zeros(batch, dtype=torch.float64, device=z.device)
    size = _norm(z)
    Xi = Xi.expand(*batch, n, n)
    norm = _norm(Xi)
    finite = torch.isfinite(z).all(-1)
    t = torch.where(finite, t, 0)  # states past the largest float have no condition to speak of
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(Xi.shape, generator=generator, dtype=torch.float64).to(Xi) - 0.5
    direction = _unit(Xi / _positive(norm)[..., None, None] + noise)
    estimate = torch.zeros_like(norm)
    blocks = Planner(Propagator(precision="double"))  # a digit is enough
    for _ in range(N_ITERATIONS):
        step = direction * _positive(norm)[..., None, None]  # as large as Xi, which suits the block system
        dz, _ = tangent(Xi, z0, t, step, torch.zeros_like(z0), torch.zeros_like(t), blocks)
        last, estimate = estimate, _norm(dz) / _positive(norm)
        g = dz / _positive(_norm(dz))[..., None, None]
        direction = _unit(evaluate_vjp(planner, Xi, z0, t, g, want_t=False)[0])
        if bool(((estimate - last).abs() <= CONVERGED * estimate).all()):
            break
    relative = estimate * norm / size
    relative = torch.where(estimate * norm == 0, 0, relative)
    return torch.where(finite.all(-1) & ~relative.isnan(), relative, torch.inf)


def _unit(x: Tensor) -> Tensor:
    return x / _positive(_norm(x))[..., None, None]


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def _norm(x: Tensor) -> Tensor:
    """Frobenius norm that neither overflows nor underflows."""
    scale = _positive(x.abs().amax((-2, -1)))
    return scale * torch.linalg.vector_norm(x / scale[..., None, None], dim=(-2, -1))
