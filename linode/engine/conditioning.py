"""The relative condition number of a trajectory, by power iteration with the solver's own jvp and vjp."""

from __future__ import annotations

import torch
from torch import Tensor

from .autograd import Map

N_ITERATIONS = 8
CONVERGED = 0.02  # relative change of the estimate


def relative_condition(Xi: Tensor, z: Tensor, jvp: Map, vjp: Map) -> Tensor:
    """|J|_2 |Xi|_F / |z|_F, (*batch,), where J is the derivative of z (*batch, T, n) by Xi (*batch, ..., n, n).

    jvp multiplies with J, vjp with its adjoint. Tensors are detached, float64 or complex128.

    Source: Higham (2008), Functions of Matrices, algorithm 3.20.
    """
    batch = z.shape[:-2]
    if z.numel() == 0:
        return torch.zeros(batch, dtype=torch.float64, device=z.device)
    rank = len(batch)
    size, norm = _norm(z, rank), _norm(Xi, rank)
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.rand(Xi.shape, generator=generator, dtype=torch.float64, device="cpu").to(Xi) - 0.5
    direction = _unit(Xi / _like(_positive(norm), Xi) + noise, rank)
    estimate = torch.zeros_like(norm)
    for _ in range(N_ITERATIONS):
        dz = jvp(direction * _like(_positive(norm), Xi))  # as large as Xi: the block system is then well scaled
        last, estimate = estimate, _norm(dz, rank) / _positive(norm)
        direction = _unit(vjp(dz / _like(_positive(_norm(dz, rank)), dz)), rank)
        if bool(((estimate - last).abs() <= CONVERGED * estimate).all()):
            break
    relative = estimate * norm / size
    relative = torch.where(estimate * norm == 0, 0, relative)
    finite = torch.isfinite(z).flatten(rank).all(-1)
    return torch.where(finite & ~relative.isnan(), relative, torch.inf)


def _unit(x: Tensor, rank: int) -> Tensor:
    return x / _like(_positive(_norm(x, rank)), x)


def _like(x: Tensor, y: Tensor) -> Tensor:
    """x (*batch,) with trailing dimensions, as many as y has."""
    return x.reshape(*x.shape, *(1,) * (y.ndim - x.ndim))


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def _norm(x: Tensor, rank: int) -> Tensor:
    """2-norm over all but the first `rank` dimensions, scaled so that squares neither overflow nor underflow."""
    flat = x.flatten(rank)
    scale = _positive(flat.abs().amax(-1))
    return scale * torch.linalg.vector_norm(flat / scale[..., None], dim=-1)
