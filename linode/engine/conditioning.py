"""The relative condition number of a trajectory: |J|_2 |Xi|_F / |z|_F, where J is the derivative of z by Xi.

Where a compiled plan gives all rows of J in one call and they are few, J is formed. Else its norm comes from a power
iteration with the solver's own jvp and vjp: a lower bound, usually within a few per cent.
Source: Higham (2008), Functions of Matrices, section 3.1-3.4 and algorithm 3.20.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import small
from ..kernels.tensors import is_finite
from ..methods import Plan
from ..methods.base import CompiledPlan
from .autograd import Map

MOST_ROWS = 64  # of J, up to which it is formed
N_ITERATIONS = 8
CONVERGED = 0.02  # relative change of the estimate


def relative_condition(z: Tensor, Xi: Tensor, jvp: Map, vjp: Map) -> Tensor:
    """|J|_2 |Xi|_F / |z|_F, (*batch,), where J is the derivative of z (*batch, T, n) by Xi (*batch, ..., n, n).

    jvp multiplies with J, vjp with its adjoint. Tensors are detached, float64 or complex128.
    """
    batch = z.shape[:-2]
    if z.numel() == 0:
        return torch.zeros(batch, dtype=torch.float64, device=z.device)
    rank = len(batch)
    size, norm = norms(z, rank), norms(Xi, rank)
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.rand(Xi.shape, generator=generator, dtype=torch.float64, device="cpu").to(Xi) - 0.5
    direction = _unit(Xi / _like(_positive(norm), Xi) + noise, rank)
    estimate = torch.zeros_like(norm)
    is_finite = torch.isfinite(z).flatten(rank).all(-1)  # of z and its derivative, which may overflow where z does not
    for _ in range(N_ITERATIONS):
        dz = jvp(direction * _like(_positive(norm), Xi))  # as large as Xi: the block system is then well scaled
        last, estimate = estimate, norms(dz, rank) / _positive(norm)
        direction = _unit(vjp(dz / _like(_positive(norms(dz, rank)), dz)), rank)
        is_finite = is_finite & estimate.isfinite() & torch.isfinite(direction).flatten(rank).all(-1)
        if bool((~is_finite | ((estimate - last).abs() <= CONVERGED * estimate)).all()):
            break
        direction = torch.where(_like(is_finite, direction), direction, 0)
    relative = torch.where(estimate * norm == 0, 0, estimate * norm / size)
    return torch.where(is_finite & ~relative.isnan(), relative, torch.inf)


def derivative(plan: Plan, z0: Tensor, t: Tensor) -> Tensor | None:
    """J (T n, n^2) for one trajectory, z0 (n,) and t (T,), by a compiled plan; None where there is none, or J is large.

    Its rows are the gradients of the entries of z: as many copies of the system, each with another cotangent.
    """
    n, T = z0.shape[-1], t.shape[-1]
    count = n * T
    if not isinstance(plan, CompiledPlan) or z0.ndim != 1 or t.ndim != 1 or len(plan.Xi) != 1 or count > MOST_ROWS:
        return None
    unit = torch.eye(count, dtype=z0.dtype, device=z0.device).reshape(count, 1, T, n)
    copies = small.asked(z0.expand(count, 1, n), t.expand(count, 1, T))
    return copies.vjp(plan.compiled * count, unit)[0].reshape(count, n * n)


def condition_of(J: Tensor, Xi: Tensor, z: Tensor) -> Tensor:
    """|J|_2 |Xi|_F / |z|_F of one trajectory z (T, n)."""
    scale = _positive(J.abs().amax())
    rows = J / scale
    squared = rows @ rows.mH
    if not is_finite(squared):
        return torch.full_like(scale, torch.inf)
    change = torch.linalg.eigvalsh(squared)[-1].clamp(min=0).sqrt() * scale * norms(Xi, 0)
    relative = torch.where(change == 0, 0, change / norms(z, 0))
    return torch.where(relative.isnan(), torch.inf, relative)


def _unit(x: Tensor, rank: int) -> Tensor:
    return x / _like(_positive(norms(x, rank)), x)


def _like(x: Tensor, y: Tensor) -> Tensor:
    """x (*batch,) with trailing dimensions, as many as y has."""
    return x.reshape(*x.shape, *(1,) * (y.ndim - x.ndim))


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def norms(x: Tensor, rank: int) -> Tensor:
    """2-norm over all but the first `rank` dimensions, scaled so that squares neither overflow nor underflow."""
    flat = x.flatten(rank)
    scale = _positive(flat.abs().amax(-1))
    return scale * torch.linalg.vector_norm(flat / scale[..., None], dim=-1)
