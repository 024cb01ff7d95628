"""exp(A t) z0 at many times per step: states at the nodes k H by products, then one short polynomial a time.

Nodes double in number with every squaring of E = exp(A H), until a squaring would cost more than going on in blocks.

Times are grouped by their node (`groups`), so that all polynomials are few products of matrices: about N n_terms n^2
for N = |A| t_max nodes and T n_terms n for T times, which for T >> N is below one product of T x n x n.
The reverse is the same products transposed. Plain tensors only; shapes as in `stepping`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .groups import Padded, Runs, group
from .stepping import Stepper
from .taylor import action_terms, action_terms_vjp, monomials


def dense(step: Stepper, z0: Tensor, t: Tensor) -> Tensor:
    """z (S, R, T, n)."""
    nodes, groups, C = _layout(step, z0, t)
    W, _ = action_terms(step.P, step.degree, nodes.flatten(1, 2))
    return groups.states(C, W.reshape(*nodes.shape[:3], *W.shape[2:]))


def dense_vjp(step: Stepper, z0: Tensor, t: Tensor, g: Tensor, want_z: bool) -> tuple[Any, Any, Any]:
    """(S, a, z): gradients with respect to A and z0 of sum <g, z>, and z itself where wanted."""
    S, R, n = z0.shape
    nodes, groups, C = _layout(step, z0, t)
    N, degree = nodes.shape[2], step.degree
    W, blocks = action_terms(step.P, degree, nodes.flatten(1, 2))
    z = groups.states(C, W.reshape(S, R, N, *W.shape[2:])) if want_z else None

    gW = g.new_zeros(S, R, N, degree.n_terms, n)
    groups.gather(C, g, gW)
    gP = [step.zeros() for _ in range(degree.q + 1)]
    lam = action_terms_vjp(step.P, blocks, degree, gW.reshape(S, R * N, degree.n_terms, n), gP).reshape(S, R, N, n)
    ranges = _ranges(N, n)
    gE = [step.zeros() for _ in range(1 + max((level for level, _, _ in ranges), default=0))]
    lam = lam.contiguous()
    for level, start, stop in reversed(ranges):
        before = slice(start - 2**level, stop - 2**level)
        upper, lower = lam[:, :, start:stop].flatten(1, 2), nodes[:, :, before].flatten(1, 2)
        gE[level] += upper.mT @ lower.conj_physical()
        lam[:, :, before] += (upper @ step.E(level).conj_physical()).reshape(S, R, stop - start, n)
    return step.backward(gE, gP), lam[:, :, 0], z


def _layout(step: Stepper, z0: Tensor, t: Tensor) -> tuple[Tensor, Runs | Padded, Tensor]:
    """States at the nodes (S, R, N, n), times grouped by node, and the polynomials' coefficients in that order."""
    S, R, n = z0.shape
    k, s = step.split(t)
    k = k.to(torch.int64)
    N = int(k.max()) + 1
    nodes = z0.new_empty(S, R, N, n)
    nodes[:, :, 0] = z0
    for level, start, stop in _ranges(N, n):
        before = nodes[:, :, start - 2**level : stop - 2**level].flatten(1, 2)
        nodes[:, :, start:stop] = (before @ step.E(level).mT).reshape(S, R, stop - start, n)
    groups = group(k, N, n)
    return nodes, groups, groups.coefficients(monomials(s, step.degree, s).to(z0.dtype))


def _ranges(N: int, n: int) -> list[tuple[int, int, int]]:
    """`node_ranges` with as many squarings as pay."""
    # seconds: a squaring and its reverse, three products of n^3; a step and its reverse, three passes over n x n
    squaring, step = 1.5e-10 * n**3, 6e-5 + 3e-9 * n**2
    levels = range(max(1, (N - 1).bit_length()))
    return node_ranges(N, min(levels, key=lambda level: level * squaring + (level + N / 2**level) * step))


@lru_cache(maxsize=512)
def node_ranges(N: int, top: int) -> list[tuple[int, int, int]]:
    """(level, start, stop): nodes start to stop are E^(2^level) times those 2^level before; all N of them, in order."""
    ranges, start = [], 1
    while start < N:
        level = min(top, start.bit_length() - 1)
        ranges.append((level, start, min(start + 2**level, N)))
        start += 2**level
    return ranges
