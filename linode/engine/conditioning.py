"""The relative condition number of a trajectory: |J|_2 |Xi|_F / |z|_F, where J is the derivative of z by Xi.

|J|_2 comes from a power iteration: a lower bound, usually within a few per cent. Small systems without forcing have it
compiled: one set of powers serves all trajectories of a system, and the check of their errors too. Elsewhere the
iteration takes the solver's own jvp and vjp.
Source: Higham (2008), Functions of Matrices, section 3.1-3.4 and algorithm 3.20.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import wide
from .autograd import Map
from .careful import careful_plans, powers_of, shares
from .evaluation import Planner
from .problem import Layout

MOST_ENTRIES = 2**17  # of a trajectory, up to which its condition is compiled: it takes each of them one by one
N_ITERATIONS = 8
CONVERGED = 0.02  # relative change of the estimate


def compiled_condition(planner: Planner, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """|J|_2 |Xi|_F / |z|_F, (*batch,), by a planner of `Careful` where `careful.is_compiled`; float64 or complex128."""
    layout = Layout.of(Xi.shape, z0.shape, t.shape)
    if layout.n_entries == 0:
        return torch.zeros(layout.batch, dtype=torch.float64, device="cpu")
    ways = careful_plans(planner, Xi, layout, t)
    starts, times = layout.trajectories(z0, 1), layout.trajectories(t, 1)
    found = [wide.conditions(*powers_of(ways, own), starts[own], times[own]) for own in shares(*ways)]
    return layout.batched(torch.cat(found))


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


def _unit(x: Tensor, rank: int) -> Tensor:
    return x / _like(_positive(norms(x, rank)), x)


def _like(x: Tensor, y: Tensor) -> Tensor:
    """x (*batch,) with trailing dimensions, as many as y has."""
    return x.reshape(*x.shape, *(1,) * (y.ndim - x.ndim))


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def norms(x: Tensor, rank: int) -> Tensor:
    """2-norm over all but the first `rank` dimensions, scaled so that squares neither overflow nor underflow."""
    flat = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).flatten(
        rank
    )  # a complex quotient underflows
    scale = _positive(flat.abs().amax(-1))
    return scale * torch.linalg.vector_norm(flat / scale[..., None], dim=-1)
