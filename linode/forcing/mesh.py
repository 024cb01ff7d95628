"""Panels on which a function of time is close to a polynomial: halved where it is not.

The polynomial of a panel interpolates at Chebyshev nodes. It is compared with the function at the nodes of both halves
of the panel, which serve again where the panel is halved, and at probes: places of which no two neighbours are far
apart, whatever the panels are. All panels of a round are one call of the function.
Sources: Trefethen (2013), Approximation Theory and Approximation Practice, chapters 2 to 4 (Chebyshev interpolation);
Gander & Gautschi (2000), BIT 40, 84 (halving where a finer rule differs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

FIRST_PANELS = 4
MOST_PROBES, FEWEST_PROBES, PROBE_VALUES = 4096, 128, 2**14  # so many values of all channels, of functions of many
GOLDEN = 0.6180339887498949  # places of equal distance would not see a function of their period
DEEP = 1e-10  # where u is smaller by this factor than its largest value, it is resolved relative to that
ZERO, NOT_ZERO = 2.0**-40, 2.0**-20  # channels smaller by ZERO than the largest one are rounding of zeros
NARROW = 1e-3  # a panel with an error is left where error times width is this part of what is asked for of the whole
LEAST_RTOL = 2.0**-46  # rounding of a polynomial
NOISE = 2.0**-50
SHORTEST = 2.0**-48  # width of a panel, relative to its times: beyond, its nodes are no longer distinct


@dataclass(frozen=True)
class Misfit:
    """What polynomials leave of a function. area (m,): the sum over panels of the largest |u - polynomial| that was seen
    times the width. n_evaluations: of the function. is_unresolved: panels were to be halved further, but were not.
    """

    area: Tensor
    n_evaluations: int
    is_unresolved: bool


@dataclass(frozen=True)
class Demands:
    """What is asked of panels.

    order: number of nodes. rtol: error relative to the largest |u| of a channel in the panel. most: evaluations.
    breaks: times at which a panel ends. max_width: of a panel.
    """

    order: int
    rtol: float
    most: int
    breaks: tuple[float, ...] = ()
    max_width: float = torch.inf


def make_panels(
    values: Callable[[Tensor], Tensor], start: float, stop: float, asked: Tensor | None, m: int, demands: Demands
) -> tuple[Tensor, Misfit]:
    """Edges (K + 1,) of panels from start to stop, halved as far as they need and may be.

    values: from times (T,) to u (T, m), or (*batch, T, m). asked: times between each two of which there is a probe.
    """
    edges = first_edges(start, stop, demands)
    probes = probes_between(start, stop, asked, m)
    return _judged(values, edges, probes, demands, may_halve=True)


def judged(values: Callable[[Tensor], Tensor], edges: Tensor, asked: Tensor | None, m: int, demands: Demands) -> Misfit:
    """The misfit of given panels."""
    probes = probes_between(float(edges[0]), float(edges[-1]), asked, m)
    return _judged(values, edges, probes, demands, may_halve=False)[1]


def _judged(
    values: Callable[[Tensor], Tensor], edges: Tensor, probes: Tensor, demands: Demands, may_halve: bool
) -> tuple[Tensor, Misfit]:
    order, rtol = demands.order, max(demands.rtol, LEAST_RTOL)
    left, width = edges[:-1], edges[1:] - edges[:-1]
    whole, reach = float(edges[-1] - edges[0]), float(edges.abs().max())
    nodes, to_halves = (nodes_of(order) + 1) / 2, _to_halves(order)
    halves = torch.cat([nodes / 2, (nodes + 1) / 2])
    u, at_probes = _on(values, left, width, nodes), values(probes)
    size = torch.maximum(_largest(u, 2), _largest(at_probes, 1))
    n_evaluations = len(left) * order + len(probes)
    done, area, is_unresolved = [], torch.zeros_like(size), False
    while True:
        finer = _on(values, left, width, halves)  # (*batch, K, 2 order, m)
        n_evaluations += finer.shape[-3] * finer.shape[-2]
        size = torch.maximum(size, _largest(finer, 2))
        error = _over_batch((to_halves.to(u.dtype) @ u - finer).abs(), 3).amax(-2)  # (K, m)
        own = _panel_of(probes, left)
        error = torch.maximum(error, _at_probes(u, left, width, own, probes, at_probes))
        floor = torch.where(size < ZERO * size.max(), NOT_ZERO * size.max(), DEEP * size)
        own_size = torch.maximum(_over_batch(finer.abs(), 3).amax(-2), floor)
        # times are rounded: a function of high frequency is noisy at late times
        rise = _over_batch((u - u[..., :1, :]).abs(), 3).amax(-2)
        enough = torch.maximum(rtol * own_size, NOISE * reach * rise / width[:, None])
        bad = (error > enough).any(-1)
        waste = error * width[:, None]
        if may_halve:
            bad &= (waste > NARROW * whole * enough).any(-1) & (width > SHORTEST * reach)
        rank = torch.argsort((waste / enough.clamp(min=torch.finfo(torch.float64).tiny)).amax(-1), descending=True)
        most = (demands.most - n_evaluations) // (4 * order) if may_halve else 0
        chosen = rank[bad[rank]]
        is_unresolved |= len(chosen) > max(most, 0)
        chosen = chosen[: max(most, 0)]
        stays = torch.ones_like(bad)
        stays[chosen] = False
        area = area + waste[stays].sum(0)
        done.append(torch.stack([left[stays], width[stays]]))
        if not len(chosen):
            break
        used = ~stays[own]
        probes, at_probes = probes[used], at_probes[..., used, :]
        u = finer[..., chosen, :, :]
        u = torch.cat([u[..., :order, :], u[..., order:, :]], -3)
        left, width = left[chosen], width[chosen] / 2
        left, width = torch.cat([left, left + width]), torch.cat([width, width])
    starts = torch.cat(done, -1)[0].sort().values
    return torch.cat([starts, edges[-1:]]), Misfit(area, n_evaluations, is_unresolved)


def first_edges(start: float, stop: float, demands: Demands) -> Tensor:
    """Panels between start, stop and the breaks: no wider than is allowed, and not fewer than FIRST_PANELS."""
    inner = [x for x in demands.breaks if start < x < stop]
    ends = torch.tensor([start, *inner, stop], dtype=torch.float64, device="cpu")
    widest = min(demands.max_width, (stop - start) / FIRST_PANELS)
    parts = [torch.linspace(a, b, 1 + max(1, int(np.ceil((b - a) / widest * (1 - 1e-12)))), dtype=torch.float64, device="cpu")
             for a, b in zip(ends[:-1].tolist(), ends[1:].tolist())]  # fmt: skip
    return torch.cat([*(part[:-1] for part in parts), ends[-1:]])


def probes_between(start: float, stop: float, asked: Tensor | None, m: int) -> Tensor:
    """Places from start to stop, of which no two neighbours are further apart than 1.5 / n of the whole, and one
    between each two of the times that are asked for.
    """
    n = min(MOST_PROBES, max(FEWEST_PROBES, PROBE_VALUES // max(m, 1)))
    place = torch.arange(n, dtype=torch.float64, device="cpu")
    probes = start + (stop - start) / n * (place + 0.25 + 0.5 * torch.remainder(place * GOLDEN, 1))
    if asked is not None and asked.numel() > 1:
        times = asked.flatten().sort().values
        probes = torch.cat([probes, (times[1:] + times[:-1]) / 2])
    return probes


def nodes_of(order: int) -> Tensor:
    """Chebyshev nodes in [-1, 1]."""
    return _nodes(order)


def chebyshev_of(values: Tensor) -> Tensor:
    """Coefficients of T_j (*batch, m, order) from values at the nodes (*batch, order, m)."""
    return values.mT @ _coefficients(values.shape[-2]).to(values.dtype)


def monomials_of(values: Tensor) -> Tensor:
    """Coefficients of x^j, x from 0 to 1 in the panel, (*batch, order, m), from values at the nodes."""
    return (chebyshev_of(values) @ _monomials(values.shape[-2]).to(values.dtype)).mT


def _on(values: Callable[[Tensor], Tensor], left: Tensor, width: Tensor, places: Tensor) -> Tensor:
    """u at places in [0, 1] of every panel, (*batch, K, len(places), m)."""
    return values((left[:, None] + width[:, None] * places).flatten()).unflatten(-2, (len(left), len(places)))


def _largest(u: Tensor, n_own: int) -> Tensor:
    """max |u| of each channel, (m,)."""
    return _over_batch(u.abs(), n_own + 1).flatten(0, -2).amax(0)


def _over_batch(x: Tensor, n_own: int) -> Tensor:
    """The largest over batch dimensions: all but the last n_own."""
    return x.flatten(0, x.ndim - n_own - 1).amax(0) if x.ndim > n_own else x


def _panel_of(probes: Tensor, left: Tensor) -> Tensor:
    """The panel in which each probe lies."""
    by_place, order_of = left.sort()
    return order_of[(torch.searchsorted(by_place, probes, right=True) - 1).clamp(min=0)]


def _at_probes(u: Tensor, left: Tensor, width: Tensor, k: Tensor, probes: Tensor, at_probes: Tensor) -> Tensor:
    """The largest |polynomial - u| at the probes of each panel, (K, m); k: the panels of the probes."""
    order, m = u.shape[-2:]
    c = chebyshev_of(u)[..., k, :, :]  # (*batch, P, m, order)
    x = (2 * (probes - left[k]) / width[k] - 1)[:, None]
    z = later = torch.zeros_like(c[..., 0])
    for j in range(order - 1, 0, -1):  # Clenshaw (1955)
        z, later = c[..., j] + 2 * x * z - later, z
    off = _over_batch((c[..., 0] + x * z - later - at_probes).abs(), 2)
    return off.new_zeros(len(left), m).scatter_reduce_(0, k[:, None].expand(-1, m), off, "amax")


@lru_cache(maxsize=32)
def _nodes(order: int) -> Tensor:
    return torch.from_numpy(np.cos(np.pi * (np.arange(order) + 0.5) / order))


@lru_cache(maxsize=32)
def _to_halves(order: int) -> Tensor:
    """From values at the nodes of a panel to those of its polynomial at the nodes of its halves, (2 order, order)."""
    x = _nodes(order)
    basis = chebyshev.chebvander(torch.cat([(x - 1) / 2, (x + 1) / 2]).numpy(), order - 1)
    return torch.from_numpy(basis) @ _coefficients(order).mT


@lru_cache(maxsize=32)
def _coefficients(order: int) -> Tensor:
    """From values at the nodes to coefficients of T_0 to T_(order - 1), (order, order): a row times this matrix."""
    values = chebyshev.chebvander(_nodes(order).numpy(), order - 1)  # orthogonal columns
    return torch.from_numpy(values * np.array([1 / order] + [2 / order] * (order - 1)))


@lru_cache(maxsize=32)
def _monomials(order: int) -> Tensor:
    """From coefficients of T_j(2 x - 1) to those of x^j, (order, order): a row times this matrix of integers."""
    T = np.zeros((order, order))
    T[0, 0] = 1
    if order > 1:
        T[1, :2] = -1, 2
    for j in range(2, order):
        T[j] = -2 * T[j - 1] - T[j - 2]
        T[j, 1:] += 4 * T[j - 1, :-1]
    return torch.from_numpy(T)
