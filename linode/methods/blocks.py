"""exp(Xi t) z0 and its adjoint for block-diagonalised systems Xi = X blockdiag(B_1, ..., B_p) X^-1, a batch at once.

Simple eigenvalues of all systems are evaluated together as `Modes`, other blocks by size, all of one size together,
by powers of one step. In the gradient, what couples a block to the others comes from the commutator (Sylvester)
equation with the sum over times taken first, block by block: LAPACK's trsyl, one system at a time.
Sources: Davies & Higham (2003), SIAM J. Matrix Anal. 25, 464 (Schur-Parlett, for the use of blocks); Golub & Van Loan
(2013), 7.6.3 (trsyl).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from ..kernels.eigenpairs import arranged
from ..kernels.modes import Modes
from .propagator import Propagator, PropagatorPlan

MAX_PAIR_CONDITION = 30.0  # of the eigenvectors of a 2 x 2 block; beyond, it is evaluated as a block
Matrix = NDArray[Any]


@dataclass
class Clusters:
    """Blocks of one size m, of any systems: V (G, n, m) and V_inv (G, m, n) select them, `plan` evaluates exp(B t)."""

    system: Tensor  # (G,)
    rows: Tensor  # (G, m) positions in the block diagonal
    V: Tensor
    V_inv: Tensor
    plan: PropagatorPlan

    def subset(self, index: Tensor) -> Clusters:
        system, chosen = (index[:, None] == self.system).nonzero().unbind(1)
        return Clusters(system, self.rows[chosen], self.V[chosen], self.V_inv[chosen], self.plan.subset(chosen))

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """The blocks' own coordinates of the states, (G, R, T, m)."""
        return self.plan.evaluate(z0[self.system] @ self.V_inv.mT, t[self.system])


@dataclass
class Blocks:
    """S systems by their blocks: simple eigenvalues in `modes`, the others in `clusters`."""

    X: Tensor  # (S, n, n)
    X_inv: Tensor
    B: Tensor  # (S, n, n), zero outside the blocks
    first: Tensor  # (S, n): where the block of each position starts
    simple: Tensor  # (S, n) bool: positions whose eigenvalues are in modes
    modes: Modes | None
    clusters: list[Clusters]

    @property
    def sizes(self) -> list[list[int]]:
        """Sizes of the blocks, system by system."""
        return [np.unique(first, return_counts=True)[1].tolist() for first in self.first.cpu().numpy()]

    def subset(self, index: Tensor) -> Blocks:
        clusters = [cluster.subset(index) for cluster in self.clusters]
        return Blocks(
            self.X[index],
            self.X_inv[index],
            self.B[index],
            self.first[index],
            self.simple[index],
            None if self.modes is None else self.modes.subset(index),
            [cluster for cluster in clusters if len(cluster.system)],
        )

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S, R, T, n) for z0 (S, R, n), t (S, R, T)."""
        z = self._modal(z0, t)
        for cluster in self.clusters:
            z = z.index_add(0, cluster.system, cluster.evaluate(z0, t) @ cluster.V.mT[:, None])
        return z

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients S (S, n, n) and a (S, R, n)."""
        if self.modes is not None:
            S, a = self.modes.vjp(z0, t, g)
        else:
            S, a = torch.zeros_like(self.X), torch.zeros_like(z0)
        for cluster in self.clusters:
            own, V, V_inv = cluster.system, cluster.V.conj_physical(), cluster.V_inv.conj_physical()
            S_own, a_own = cluster.plan.vjp(z0[own] @ cluster.V_inv.mT, t[own], g[own] @ V[:, None])
            S = S.index_add(0, own, V_inv.mT @ S_own @ V.mT)
            a = a.index_add(0, own, a_own @ V_inv)
        several = (self.first != 0).any(1)
        coupled = (several & ~self.simple.all(1)).nonzero()[:, 0]
        if len(coupled):
            S = S.index_add(0, coupled, self._couplings(z0, t, g, a, coupled))
        return S, a

    def _modal(self, z0: Tensor, t: Tensor) -> Tensor:
        return z0.new_zeros(*t.shape, z0.shape[-1]) if self.modes is None else self.modes.evaluate(z0, t)

    def _couplings(self, z0: Tensor, t: Tensor, g: Tensor, a: Tensor, index: Tensor) -> Tensor:
        """The part of S between clusters and everything else, of some systems, from
        B_p^H M - M B_q^H = a z0^H - sum_i g_i z_i^H, block by block.
        """
        X, X_inv, n = self.X[index], self.X_inv[index], self.X.shape[-1]
        y = self._modal(z0, t) @ self.X_inv.mT[:, None]
        for cluster in self.clusters:
            if cluster.rows.shape[1] < n:  # else there is nothing to couple to
                y[cluster.system[:, None], :, :, cluster.rows] = cluster.evaluate(z0, t).movedim(-1, 1)
        h = (g[index] @ X.conj_physical()[:, None]).flatten(1, 2)
        right = (a[index] @ X.conj_physical()).mT @ (z0[index] @ X_inv.mT).conj_physical()
        right = right - h.mT @ y[index].flatten(1, 2).conj_physical()
        systems = [x[index].cpu().numpy() for x in (self.B, self.first, self.simple)]
        M = [_sylvester(*system) for system in zip(*systems, right.cpu().numpy())]
        return X_inv.mT.conj_physical() @ torch.from_numpy(np.stack(M)).to(right) @ X.mT.conj_physical()


def make_blocks(X: Tensor, X_inv: Tensor, B: Tensor, first: Tensor, rtol: float | None) -> tuple[Blocks, Tensor]:
    """Blocks, and the smallest distance between an eigenvalue of a cluster and one of another block, (S,)."""
    lam = _eigenvalues(B)
    position = torch.arange(B.shape[-1], device=B.device)
    same = first[:, :, None] == first[:, None]
    size = same.sum(-1)
    V, V_inv = X.to(lam.dtype), X_inv.to(lam.dtype)
    if not B.is_complex():
        s, i = _pairs(B, lam, (size == 2) & (first == position)).unbind(1)
        r = (lam[s, i].imag / B[s, i, i + 1])[:, None]
        v, w = V[s, :, i], 1j * r * V[s, :, i + 1]  # eigenvectors (1, ir) and (1, -ir)
        V[s, :, i], V[s, :, i + 1] = v + w, v - w
        v, w = V_inv[s, i], -1j / r * V_inv[s, i + 1]
        V_inv[s, i], V_inv[s, i + 1] = 0.5 * (v + w), 0.5 * (v - w)
        size[s, i] = size[s, i + 1] = 1
    simple = size == 1
    clusters = []
    for m in size[~simple].unique().tolist():
        system, start = ((size == m) & (first == position)).nonzero().unbind(1)
        rows = start[:, None] + position[:m]
        plan = Propagator().plan(B[system[:, None, None], rows[:, :, None], rows[:, None]], rtol)
        clusters.append(Clusters(system, rows, X.mT[system[:, None], rows].mT, X_inv[system[:, None], rows], plan))
    distance = torch.where(same | simple[:, :, None], torch.inf, (lam[:, :, None] - lam[:, None]).abs())
    modes = _modes(lam, V, V_inv, simple, B)
    return Blocks(X, X_inv, B, first, simple, modes, clusters), distance.amin((1, 2))


def _eigenvalues(B: Tensor) -> Tensor:
    """Of quasi-triangular B (S, n, n) in LAPACK's standard form, position by position."""
    lam = B.diagonal(dim1=-2, dim2=-1).to(torch.complex128, copy=True)
    above, below = (B.diagonal(k, -2, -1).to(lam.dtype).sqrt() for k in (1, -1))  # the product may overflow
    lam[:, :-1] += above * below
    lam[:, 1:] -= above * below
    return lam


def _pairs(B: Tensor, lam: Tensor, starts: Tensor) -> Tensor:
    """System and first position (P, 2) of the 2 x 2 blocks [[a, b], [c, a]] with well-conditioned eigenvectors."""
    diagonal, above, below = (B.diagonal(k, -2, -1) for k in (0, 1, -1))
    ratio = (lam.imag[:, :-1] / above).abs()  # of the entries of an eigenvector
    is_fine = (ratio <= MAX_PAIR_CONDITION) & (ratio * MAX_PAIR_CONDITION >= 1)
    is_standard = (below != 0) & (diagonal[:, 1:] == diagonal[:, :-1])
    return (starts[:, :-1] & is_fine & is_standard).nonzero()


def _modes(lam: Tensor, V: Tensor, V_inv: Tensor, simple: Tensor, like: Tensor) -> Modes | None:
    """Of the simple eigenvalues; padded, where systems have fewer than others."""
    p = int(simple.sum(-1).amax()) if simple.numel() else 0
    if p == 0:
        return None
    order = torch.argsort((~simple).to(torch.int8), dim=-1, stable=True)[:, :p]
    kept = simple.gather(-1, order)
    lam = torch.where(kept, lam.gather(-1, order), 0)
    V = torch.where(kept[:, None], V.gather(-1, order[:, None].expand(-1, V.shape[1], -1)), 0)
    V_inv = torch.where(kept[..., None], V_inv.gather(-2, order[..., None].expand(-1, -1, V.shape[1])), 0)
    return arranged(lam.cpu(), V.cpu(), V_inv.cpu(), not like.is_complex(), kept.cpu()).to(like.device)


def _sylvester(B: Matrix, first: Matrix, simple: Matrix, right: Matrix) -> Matrix:
    """M with B^H M - M B^H = right (n, n): rows of every cluster against all other blocks, and rows of simple
    eigenvalues against the clusters.
    """
    trsyl = lapack.ztrsyl if np.iscomplexobj(B) else lapack.dtrsyl
    M, scale = np.zeros_like(right), float(np.abs(right).max()) or 1.0
    right = right / scale
    for start in np.unique(first[~simple]):
        own, others = np.flatnonzero(first == start), np.flatnonzero(first != start)
        for rows, columns in ((own, others), (np.flatnonzero(simple), own)):
            if len(rows) and len(columns):
                at = np.ix_(rows, columns)
                left = B[np.ix_(rows, rows)], B[np.ix_(columns, columns)]
                solution, shrunk, _ = trsyl(*left, right[at], "C", "C", isgn=-1)
                M[at] = solution / shrunk
    return M * scale
