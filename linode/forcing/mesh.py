"""Panels on which a function of time is close to a polynomial: halved where it is not.

The polynomial of a panel interpolates at Chebyshev nodes. It is compared with the function at the nodes of both halves
of the panel, and at probes: places of which no two neighbours are far apart, whatever the panels are. A panel is cut
into as many parts, up to 8, as its error asks for. All panels of a round are one call of the function.
Sources: Trefethen (2013), Approximation Theory and Approximation Practice, chapters 2 to 4 (Chebyshev interpolation);
Gander & Gautschi (2000), BIT 40, 84 (halving where a finer rule differs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
MOST_PARTS = 8  # of a panel at once
SAFETY = 2.0  # the number of parts is that which leaves so much less than is allowed
ALIKE = 1.5
TINY = 1e-300
LEAST_RTOL = 2.0**-46  # rounding of a polynomial
NOISE = 2.0**-50
SHORTEST = 2.0**-48  # width of a panel, relative to its times: beyond, its nodes are no longer distinct


@dataclass(frozen=True)
class Misfit:
    """What polynomials leave of a function. area (m,): the sum over panels of the largest |u - polynomial| that was
    seen, times the width. n_evaluations: of the function. is_unresolved: panels were to be cut further, but were not.
    """

    area: Tensor
    n_evaluations: int
    is_unresolved: bool


@dataclass(frozen=True)
class Panels:
    """Where K panels begin, their widths (K,), and u at their nodes (*batch, K, order, m)."""

    left: Tensor
    width: Tensor
    u: Tensor
    misfit: Misfit

    def times(self) -> Tensor:
        """The nodes of all panels."""
        return (self.left[:, None] + self.width[:, None] * (nodes_of(self.u.shape[-2]) + 1) / 2).flatten()

    def halved(self) -> Panels:
        """With each panel halved; u has the shape of that at their nodes, but no values."""
        half = self.width / 2
        left = torch.stack([self.left, self.left + half], -1).flatten()
        return replace(self, left=left, width=half.repeat_interleave(2), u=self.u.repeat_interleave(2, -3))


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
) -> Panels:
    """Panels from start to stop, cut as far as they need and may be.

    values: from times (T,) to u (T, m), or (*batch, T, m). asked: times between each two of which there is a probe.
    """
    edges = first_edges(start, stop, demands)
    probes = probes_between(start, stop, asked, m)
    if demands.breaks:  # beside them, as nodes lie far from the edges of a panel
        ends = edges[1:-1]
        probes = torch.cat([probes, torch.nextafter(ends, edges[0]), torch.nextafter(ends, edges[-1])])
    return _judged(values, edges, probes, demands, may_halve=True)


def judged(values: Callable[[Tensor], Tensor], edges: Tensor, asked: Tensor | None, m: int, demands: Demands) -> Panels:
    """Given panels, with their misfit."""
    probes = probes_between(float(edges[0]), float(edges[-1]), asked, m)
    return _judged(values, edges, probes, demands, may_halve=False)


def _judged(
    values: Callable[[Tensor], Tensor], edges: Tensor, probes: Tensor, demands: Demands, may_halve: bool
) -> Panels:
    order, rtol = demands.order, max(demands.rtol, LEAST_RTOL)
    left, width = edges[:-1], edges[1:] - edges[:-1]
    whole, reach = float(edges[-1] - edges[0]), float(edges.abs().max())
    places, to_halves = _places(order), _to_halves(order)
    at_probes = values(probes)
    size, n_evaluations = _largest(at_probes), len(probes)
    done, area, is_unresolved = [], torch.zeros_like(size), False
    while True:
        u = values((left[:, None] + width[:, None] * places).flatten()).unflatten(-2, (len(left), len(places)))
        n_evaluations += len(left) * len(places)
        u, finer = u[..., :order, :], u[..., order:, :]  # (*batch, K, order and 2 order, m)
        error = _over_batch((to_halves.to(u.dtype) @ u - finer).abs(), 3).amax(-2)  # (K, m)
        if len(probes):
            own = _panel_of(probes, left)
            error = torch.maximum(error, _at_probes(u, left, width, own, probes, at_probes))
        own_size = _over_batch(finer.abs(), 3).amax(-2)
        size = torch.maximum(size, own_size.amax(0))
        floor = torch.where(size < ZERO * size.max(), NOT_ZERO * size.max(), DEEP * size)
        # times are rounded: a function of high frequency is noisy at late times
        rise = _over_batch((u - u[..., :1, :]).abs(), 3).amax(-2)
        enough = torch.maximum(rtol * torch.maximum(own_size, floor), NOISE * reach * rise / width[:, None])
        waste = error * width[:, None]
        ratio = torch.where(error > enough, error / enough.clamp(min=TINY), 0.0).amax(-1)
        bad = ratio > 1
        if may_halve:
            bad &= (waste > NARROW * whole * enough).any(-1) & (width > SHORTEST * reach)
        chosen = bad.nonzero()[:, 0]
        pieces = torch.ceil((SAFETY * ratio[chosen]) ** (1 / order)).clamp(2, MOST_PARTS)
        if len(chosen) == len(left) and float(pieces.max() * len(pieces)) <= ALIKE * float(pieces.sum()):
            pieces[:] = pieces.max()  # panels of one width: their steps have one propagator
        if len(chosen):
            chosen = chosen[torch.argsort(ratio[chosen] * width[chosen], descending=True)] if may_halve else chosen
            cost = len(places) * torch.cumsum(pieces, 0)
            n_affordable = int((cost <= demands.most - n_evaluations).sum()) if may_halve else 0
            is_unresolved |= n_affordable < len(chosen)
            chosen, pieces = chosen[:n_affordable], pieces[:n_affordable].to(torch.int64)
        stays = torch.ones_like(bad)
        stays[chosen] = False
        area = area + waste[stays].sum(0)
        done.append((left[stays], width[stays], u[..., stays, :, :]))
        if not len(chosen):
            break
        if len(probes):
            used = ~stays[own]
            probes, at_probes = probes[used], at_probes[..., used, :]
        left, width = left[chosen], width[chosen] / pieces
        number = torch.arange(int(pieces.sum()), device="cpu") - (pieces.cumsum(0) - pieces).repeat_interleave(pieces)
        width = width.repeat_interleave(pieces)
        left = left.repeat_interleave(pieces) + number * width
    left, width = (torch.cat([part[i] for part in done]) for i in range(2))
    u = torch.cat([part[2] for part in done], -3)
    if len(done) > 1:
        left, order_of = left.sort()
        width, u = width[order_of], u[..., order_of, :, :]
    return Panels(left, width, u, Misfit(area, n_evaluations, is_unresolved))


def first_edges(start: float, stop: float, demands: Demands) -> Tensor:
    """Panels between start, stop and the breaks: no wider than is allowed, and not fewer than FIRST_PANELS."""
    inner = [x for x in demands.breaks if start < x < stop]
    ends = torch.tensor([start, *inner, stop], dtype=torch.float64, device="cpu")
    widest = min(demands.max_width, (stop - start) / FIRST_PANELS)
    parts = []
    for a, b in zip(ends[:-1].tolist(), ends[1:].tolist()):
        n_panels = max(1, math.ceil((b - a) / widest * (1 - 1e-12)))
        parts.append(torch.linspace(a, b, n_panels + 1, dtype=torch.float64, device="cpu"))
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


def monomials_of(values: Tensor) -> Tensor:
    """Coefficients of x^j, x from 0 to 1 in the panel, (*batch, order, m), from values at the nodes."""
    order = values.shape[-2]
    # in two steps: coefficients of T_j that are small stay so, and whole numbers do the rest
    return _monomials(order).mT.to(values.dtype) @ (_coefficients(order).mT.to(values.dtype) @ values)


def _largest(u: Tensor) -> Tensor:
    """max |u| of each channel, (m,)."""
    return u.abs().flatten(0, -2).amax(0)


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
    c = _coefficients(order).mT.to(u.dtype) @ u  # (*batch, K, order, m)
    x = (2 * (probes - left[k]) / width[k] - 1)[:, None]
    z, later = c[..., order - 1, :][..., k, :], torch.zeros((), dtype=u.dtype, device="cpu")
    for j in range(order - 2, 0, -1):  # Clenshaw (1955)
        z, later = torch.addcmul(c[..., j, :][..., k, :], 2 * x, z) - later, z
    off = _over_batch((torch.addcmul(c[..., 0, :][..., k, :] - at_probes, x, z) - later).abs(), 2)
    return off.new_zeros(len(left), m).scatter_reduce_(0, k[:, None].expand(-1, m), off, "amax")


@lru_cache(maxsize=32)
def _nodes(order: int) -> Tensor:
    return torch.from_numpy(np.cos(np.pi * (np.arange(order) + 0.5) / order))


@lru_cache(maxsize=32)
def _places(order: int) -> Tensor:
    """In [0, 1]: the nodes of a panel, then those of its halves, (3 order,)."""
    x = (_nodes(order) + 1) / 2
    return torch.cat([x, x / 2, (x + 1) / 2])


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
