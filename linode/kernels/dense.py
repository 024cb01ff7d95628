"""exp(A t) z0 at many times per step: states at the nodes k H by products, then one short polynomial a time.

Every squaring of E = exp(A H) doubles the number of known nodes, until it would cost more than multiplying blocks of
nodes by the last power. Times are grouped by their nearest node, so that few products of matrices evaluate all
polynomials: about N n_terms n^2 multiplications for N = |A| t_max nodes and T n_terms n for T times, less than one
product of T x n x n where T >> N. Near a node, z = sum_j C_j W_j with the coefficients C of a time and the terms W of
the node. Times are grouped in one of two ways: `Runs` sorts them, and each node has one product, which reads and writes
its rows of the trajectory; `Padded`, for many nodes with few times, makes groups of one size, filled up with zeros, for
one batched product. The reverse uses the transposed products. Plain tensors only.
Shapes: as in `stepping`; k (S, R, T) the node of every time, below N; C (S, R, T, m); W (S, R, N, m, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .stepping import Stepper
from .taylor import action_terms, action_terms_vjp, block_vectors

MAX_GROUP, MIN_GROUP = 64, 4  # times of a group; else a quarter of the mean of a node, so that padding is below 1/4
ENTRIES_PER_RUN = 2500  # entries of z that are padded and copied in the time of one product's call on a CPU


def dense(step: Stepper, z0: Tensor, t: Tensor) -> Tensor:
    """z (S, R, T, n)."""
    return Dense.of(step, z0, t).states()


def dense_vjp(step: Stepper, z0: Tensor, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients S and a with respect to A and z0 of sum <g, z>."""
    return Dense.of(step, z0, t).gradients(g)


@dataclass(frozen=True)
class Dense:
    """States at the nodes, with their block vectors, and the times around them."""

    step: Stepper
    nodes: Tensor  # (S, R, N, n)
    blocks: list[Tensor]  # (S, R N, n)
    groups: Runs | Padded  # of the times, by node
    C: Tensor  # coefficients of the polynomials, in the order of the groups
    beyond: Tensor | None  # (S, 1, N, 1) bool: nodes that no time of the system needs; None where there are none

    @classmethod
    def of(cls, step: Stepper, z0: Tensor, t: Tensor) -> Dense:
        S, R, n = z0.shape
        k, s = step.split(t)
        k = k.to(torch.int64)
        last = k.amax((1, 2))  # of every system
        N = int(last.max()) + 1
        nodes = z0.new_empty(S, R, N, n)
        nodes[:, :, 0] = z0
        # nodes that a system does not need are 0 there: its states and powers might overflow
        alike = S == 1 or bool((last == N - 1).all())
        beyond = None if alike else torch.arange(N, device=k.device)[:, None] > last[:, None, None, None]
        for level, start, stop in _ranges(N, n):
            before = nodes[:, :, start - 2**level : stop - 2**level].flatten(1, 2)
            states = (before @ step.E(level).mT).reshape(S, R, stop - start, n)
            nodes[:, :, start:stop] = states if beyond is None else states.masked_fill(beyond[:, :, start:stop], 0)
        groups = group(k, N, n)
        C = groups.coefficients(step.coefficients(s, s).to(z0.dtype))
        return cls(step, nodes, block_vectors(step.P, step.degree, nodes.flatten(1, 2)), groups, C, beyond)

    def states(self) -> Tensor:
        """z (S, R, T, n)."""
        W = action_terms(self.step.P, self.step.degree, self.blocks)
        return self.groups.states(self.C, W.reshape(*self.nodes.shape[:3], *W.shape[2:]))

    def gradients(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """S and a with respect to A and z0."""
        step, nodes, degree = self.step, self.nodes, self.step.degree
        S, R, N, n = nodes.shape
        gW = g.new_zeros(S, R, N, degree.n_terms, n)
        self.groups.gather(self.C, g, gW)
        gP = [step.zeros() for _ in range(degree.q + 1)]
        gW = gW.reshape(S, R * N, degree.n_terms, n)
        lam = action_terms_vjp(step.P, self.blocks, degree, gW, gP).reshape(S, R, N, n).contiguous()
        ranges = _ranges(N, n)
        gE = [step.zeros() for _ in range(1 + max((level for level, _, _ in ranges), default=0))]
        for level, start, stop in reversed(ranges):
            before = slice(start - 2**level, stop - 2**level)
            upper, lower = lam[:, :, start:stop].flatten(1, 2), nodes[:, :, before].flatten(1, 2)
            gE[level] += upper.mT @ lower.conj_physical()
            moved = (upper @ step.E(level).conj_physical()).reshape(S, R, stop - start, n)
            lam[:, :, before] += moved if self.beyond is None else moved.masked_fill(self.beyond[:, :, start:stop], 0)
        return step.backward(gE, gP), lam[:, :, 0]


def _ranges(N: int, n: int) -> list[tuple[int, int, int]]:
    """`node_ranges` with the number of squarings that costs least."""
    # seconds, on an AMD EPYC: a squaring and its reverse are three products of 2 n^3 flops; a product of a block of
    # nodes and its reverse are a dozen calls, and passes over n x n matrices
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


# ---- times by node ---------------------------------------------------------------------------------------------------


def group(k: Tensor, N: int, n: int) -> Runs | Padded:
    """The cheaper grouping."""
    S, R, _ = k.shape
    first = torch.arange(S * R, device=k.device).reshape(S, R, 1) * N
    node = (k + first).flatten()
    if k.device.type == "cpu" and ENTRIES_PER_RUN * min(S * R * N, len(node)) <= len(node) * n:
        return Runs.of(node, (S, R, N))
    return Padded.of(node, (S, R, N))


@dataclass
class Runs:
    """Rows by node, one stretch each."""

    shape: tuple[int, int, int]  # S, R, N
    order: Tensor | None  # (S R T,) rows by node; None where they are so already
    runs: list[tuple[tuple[int, int, int], slice]]  # indices of a node, its rows

    @classmethod
    def of(cls, node: Tensor, shape: tuple[int, int, int]) -> Runs:
        _, R, N = shape
        order = None
        if not bool((node[1:] >= node[:-1]).all()):
            order = node.argsort()
        counts = torch.bincount(node).tolist()
        runs, start = [], 0
        for i, count in enumerate(counts):
            if count:
                runs.append(((i // (R * N), i // N % R, i % N), slice(start, start + count)))
                start += count
        return cls(shape, order, runs)

    def coefficients(self, C: Tensor) -> Tensor:
        """C as the other functions take it."""
        return self._by_node(C.flatten(0, 2))

    def states(self, C: Tensor, W: Tensor) -> Tensor:
        """z (S, R, T, n)."""
        z = W.new_empty(len(C), W.shape[-1])
        for node, rows in self.runs:
            torch.mm(C[rows], W[node], out=z[rows])
        if self.order is not None:
            z = torch.empty_like(z).index_copy_(0, self.order, z)
        return z.reshape(*self.shape[:2], -1, W.shape[-1])

    def gather(self, C: Tensor, g: Tensor, gW: Tensor) -> None:
        """Reverse of `states`: the gradient with respect to W, added to gW, zero before."""
        CH, rows_of_g = C.conj_physical().mT, self._by_node(g.reshape(-1, g.shape[-1]))
        for node, rows in self.runs:
            torch.mm(CH[:, rows], rows_of_g[rows], out=gW[node])

    def _by_node(self, rows: Tensor) -> Tensor:
        return rows if self.order is None else rows[self.order]


@dataclass
class Padded:
    """Every time has a row `slot` of the padded groups; group b belongs to node `node[b]`."""

    shape: tuple[int, int, int]  # S, R, N
    slot: Tensor  # (S R T,)
    node: Tensor  # (n_groups,), indices into the S R N nodes
    size: int

    @classmethod
    def of(cls, node: Tensor, shape: tuple[int, int, int]) -> Padded:
        S, R, N = shape
        n_nodes = S * R * N
        size = max(MIN_GROUP, min(MAX_GROUP, len(node) // (4 * n_nodes)))
        order = node.argsort()
        counts = torch.bincount(node, minlength=n_nodes)
        n_groups = (counts + size - 1) // size
        first_row = (counts.cumsum(0) - counts)[node[order]]
        first_group = (n_groups.cumsum(0) - n_groups)[node[order]]
        slot = torch.empty_like(node)
        slot[order] = first_group * size + torch.arange(len(node), device=node.device) - first_row
        return cls(shape, slot, torch.repeat_interleave(n_groups), size)

    def coefficients(self, C: Tensor) -> Tensor:
        """C as the other functions take it."""
        return self._pad(C.flatten(0, 2).contiguous())

    def states(self, C: Tensor, W: Tensor) -> Tensor:
        """z (S, R, T, n)."""
        z = (C @ W.flatten(0, 2)[self.node]).flatten(0, 1)[self.slot]
        return z.reshape(*self.shape[:2], -1, W.shape[-1])

    def gather(self, C: Tensor, g: Tensor, gW: Tensor) -> None:
        """Reverse of `states`: the gradient with respect to W, added to gW, zero before."""
        sums = gW if gW.is_contiguous() else torch.zeros_like(gW, memory_format=torch.contiguous_format)
        sums.flatten(0, 2).index_add_(0, self.node, C.conj_physical().mT @ self._pad(g.reshape(-1, g.shape[-1])))
        if sums is not gW:
            gW += sums

    def _pad(self, rows: Tensor) -> Tensor:
        """(S R T, m) -> (n_groups, size, m), zeros where there is no time."""
        padded = rows.new_zeros(len(self.node) * self.size, rows.shape[-1])
        padded[self.slot] = rows
        return padded.reshape(len(self.node), self.size, -1)
