"""Real Schur form with block diagonalisation: eigenvalues where they are separate, blocks where they are not.

Use when some eigenvalues are repeated or defective and the times are many, long or stiff: simple eigenvalues cost
what they cost in `eig`, only clusters are evaluated by matrix powers. Cost: about 60 n^3 once, on the CPU, one matrix
at a time; a batch is evaluated at once (see `blocks`).
Always applies: a matrix whose eigenvalues cannot be told apart is one block, and so is one whose blocks fail their
check at a few of the times.
Sources: Bavely & Stewart (1979); Davies & Higham (2003), SIAM J. Matrix Anal. 25, 464 (Schur-Parlett, for the use of
blocks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import LinAlgError, block_diag
from torch import Tensor

from ..kernels.balance import balance
from ..kernels.block_schur import BlockSchur, block_schur
from ..kernels.memory import Memory
from .base import Gradients, Method, Plan, Workload, register
from .blocks import Blocks, make_blocks
from .costs import GEES, SECONDS_PER_ENTRY, SECONDS_PER_EXP, SECONDS_PER_FLOP, SECONDS_PER_TORCH_CALL
from .propagator import Propagator, PropagatorPlan

WORTH_BALANCING = (
    0.1  # of the norm left; less gain hides a defective Xi in D (Watkins 2006, A case where balancing is harmful)
)
N_PROBES = 8  # times at which blocks are checked against one block
CHECK, GRADIENT_CHECK = 3e-14, 3e-13  # relative differences that pass


@register
@dataclass(frozen=True)
class Schur(Method):
    """Block-diagonalised real Schur form; every matrix, repeated eigenvalues included.

    No options.

    Example:
        >>> import linode
        >>> method = linode.methods.Schur()
        >>> linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'schur'
    """

    name: ClassVar[str] = "schur"
    summary: ClassVar[str] = "real Schur form, block-diagonalised; every matrix, repeated eigenvalues included"
    needs_host: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        balanced, D = balance(Xi)
        worth = _one_norm(balanced) <= WORTH_BALANCING * _one_norm(Xi)
        D = torch.where(worth[:, None], D, 1.0)
        X, X_inv, B, first = _factored(torch.where(worth[:, None, None], balanced, Xi))
        blocks, gap = make_blocks(D[:, :, None] * X, X_inv / D[:, None], B, first, rtol)
        return SchurPlan(Xi, blocks, Propagator().plan(Xi, rtol), gap, _one_norm(X) * _one_norm(X_inv))

    def cost(self, work: Workload) -> float:
        lapack = 2e-3 + 3 * (GEES[0] * work.n**2 + GEES[1] * work.n**3)  # reordered, and Sylvester equations solved
        per_row = work.n * (3 * SECONDS_PER_EXP + 50 * SECONDS_PER_ENTRY) + 16 * work.n**2 * SECONDS_PER_FLOP
        return 10_000 * SECONDS_PER_TORCH_CALL + work.n_systems * (lapack + work.n_rows * per_row)


@dataclass
class Part:
    """Some systems, `index` (P,), at some of their times, `mask` (P, R, T), and their plan."""

    index: Tensor
    mask: Tensor
    plan: Blocks | PropagatorPlan

    def times(self, t: Tensor) -> Tensor:
        return torch.where(self.mask, t[self.index], 0)


@dataclass
class SchurPlan(Plan):
    """Systems by their blocks, or as one block where blocks would lose digits."""

    Xi: Tensor
    blocks: Blocks
    whole: PropagatorPlan  # every Xi as one block
    gap: Tensor  # (S,) smallest distance between eigenvalues of a cluster and any other
    kappa: Tensor  # (S,) 1-norm condition of X before it is scaled
    method: str = "schur"
    _split: Memory[list[Part]] = field(default_factory=Memory, repr=False)

    @property
    def reason(self) -> str:
        sizes = self.blocks.sizes
        n_blocks = sorted({len(own) for own in sizes})
        count = " to ".join(str(n) for n in dict.fromkeys(n_blocks[:1] + n_blocks[-1:]))
        largest = max((max(own) for own in sizes), default=0)
        kappa = max(self.kappa.tolist(), default=1.0)
        return f"{count or 0} blocks, the largest {largest} x {largest}, kappa(X) = {kappa:.3g}"

    @property
    def details(self) -> dict[str, Any]:
        return {"block_sizes": self.blocks.sizes, "kappa_X": self.kappa.tolist(), "gap": self.gap.tolist()}

    def subset(self, index: Tensor) -> Plan:
        return SchurPlan(
            self.Xi[index], self.blocks.subset(index), self.whole.subset(index), self.gap[index], self.kappa[index]
        )

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        parts = self._parts(z0, t)
        if len(parts) == 1:
            return parts[0].plan.evaluate(z0, t)
        z = z0.new_zeros(*t.shape, z0.shape[-1])
        for part in parts:
            own = part.plan.evaluate(z0[part.index], part.times(t))
            z[part.index] += torch.where(part.mask[..., None], own, 0)
        return z

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        parts = self._parts(z0, t)
        if len(parts) == 1:
            return parts[0].plan.vjp(z0, t, g)
        S, a = torch.zeros_like(self.Xi), torch.zeros_like(z0)
        for part in parts:
            h = torch.where(part.mask[..., None], g[part.index], 0)
            S_own, a_own = part.plan.vjp(z0[part.index], part.times(t), h)
            S[part.index] += S_own
            a[part.index] += a_own
        return S, a

    def _parts(self, z0: Tensor, t: Tensor) -> list[Part]:
        """What goes by blocks, and what as one block."""
        return self._split.of(lambda: self._divided(z0, t), z0, t)

    def _divided(self, z0: Tensor, t: Tensor) -> list[Part]:
        whole = self._as_one_block(z0, t)
        return _part(self.blocks, ~whole) + _part(self.whole, whole)

    def _as_one_block(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S, R, T) bool, where Xi is taken as one block: times too short to tell the blocks apart, and all of them
        where the blocks fail the check: at a few times, values and gradients must be those of one block.
        """
        whole = t.abs() * self.gap[:, None, None] < 1.0
        whole |= (self.whole.arithmetic(z0, t) > 0)[:, None, None]  # no double arithmetic will do
        for part in _part(self.blocks, ~whole):
            pick = torch.linspace(0, t.shape[2] - 1, min(t.shape[2], N_PROBES), device=t.device).round().to(torch.int64)
            start, probes = z0[part.index], part.times(t).sort(dim=2).values[:, :, pick]
            one_block = _subset(self.whole, part.index, len(t))
            z = one_block.evaluate(start, probes)
            g = torch.sgn(z) / _norm(z).clamp(min=torch.finfo(t.dtype).tiny)[..., None]
            S, a = one_block.vjp(start, probes, g)
            S_blocks, a_blocks = part.plan.vjp(start, probes, g)
            passed = _is_close(part.plan.evaluate(start, probes), z, CHECK)
            passed &= _is_close(S_blocks.flatten(1), S.flatten(1), GRADIENT_CHECK)
            passed &= _is_close(a_blocks, a, GRADIENT_CHECK)
            whole[part.index[~passed]] = True
        return whole


def _factored(Xi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X, X^-1, the block diagonal and where each position's block starts; LAPACK factors one matrix at a time."""
    X, X_inv, B = (torch.empty_like(Xi) for _ in range(3))
    first = torch.empty(Xi.shape[:2], dtype=torch.int64, device=Xi.device)
    for s, matrix in enumerate(Xi.cpu().numpy()):
        try:
            factors = block_schur(matrix)
        except LinAlgError:  # one block
            eye = np.eye(len(matrix))
            factors = BlockSchur(eye, eye, [matrix])
        sizes = np.array([len(block) for block in factors.blocks])
        for out, array in ((X, factors.X), (X_inv, factors.X_inv), (B, block_diag(*factors.blocks))):
            out[s] = torch.from_numpy(array)
        first[s] = torch.from_numpy(np.repeat(np.cumsum(sizes) - sizes, sizes))
    return X, X_inv, B, first


def _subset(plan: Any, index: Tensor, S: int) -> Any:
    """The plan for some of its S systems, in order; for all of them itself, with what it has computed."""
    return plan if len(index) == S else plan.subset(index)


def _part(plan: Any, mask: Tensor) -> list[Part]:
    """The part where the mask (S, R, T) says; none for none."""
    index = mask.flatten(1).any(1).nonzero()[:, 0]
    return [Part(index, mask[index], _subset(plan, index, len(mask)))] if len(index) else []


def _is_close(ours: Tensor, truth: Tensor, allowed: float) -> Tensor:
    """(S,) bool: every row within a relative distance."""
    return (_norm(ours - truth) <= allowed * _norm(truth)).reshape(len(ours), -1).all(1)


def _one_norm(A: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(A, 1)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)
