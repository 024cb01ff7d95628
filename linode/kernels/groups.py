"""Times grouped by the node whose polynomial they follow, so that all polynomials are few products of matrices.

At a node, z = sum_j C_j W_j with the coefficients C of a time and the terms W of the node. Two groupings of one
meaning: `Runs`, where times in ascending order are one stretch of rows a node, and products read and write the
trajectory itself; `Padded`, where stretches would be many and short, groups of one size with zeros, so that all are one
batched product.
Shapes: k (S, R, T) the node of every time, below N; C (S, R, T, m); W (S, R, N, m, n); z and g (S, R, T, n).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arrays import conj

MAX_GROUP, MIN_GROUP = 64, 4  # times a group; a quarter of the mean number a node, so that padding stays below 1/4
ENTRIES_PER_RUN = 2500  # of z that are padded, copied and unpadded in the time of one product's call, on a CPU


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
        CH, rows_of_g = conj(C).mT, self._by_node(g.reshape(-1, g.shape[-1]))
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
        sums = gW.new_zeros(self.shape[0] * self.shape[1] * self.shape[2], *gW.shape[3:])
        sums.index_add_(0, self.node, conj(C).mT @ self._pad(g.reshape(-1, g.shape[-1])))
        gW += sums.reshape(gW.shape)

    def _pad(self, rows: Tensor) -> Tensor:
        """(S R T, m) -> (n_groups, size, m), zeros where there is no time."""
        padded = rows.new_zeros(len(self.node) * self.size, rows.shape[-1])
        padded[self.slot] = rows
        return padded.reshape(len(self.node), self.size, -1)
