"""Real Schur form with block diagonalisation: eigenvalues where they are separate, blocks where they are not.

Use when some eigenvalues are repeated or defective and the times are many, long or stiff: simple eigenvalues cost
what they cost in `eig`, only clusters are evaluated by matrix powers. Cost: about 60 n^3 once, on the CPU, one matrix
at a time.
Always applies: a matrix whose eigenvalues cannot be told apart is one block, and so is one whose blocks fail their
check at a few of the times. Couplings between blocks in the gradient
come from the commutator (Sylvester) equation with the sum over times taken first.
Sources: Bavely & Stewart (1979); Davies & Higham (2003), SIAM J. Matrix Anal. 25, 464 (Schur-Parlett, for the use of
blocks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import LinAlgError, solve_sylvester
from torch import Tensor

from ..kernels.balance import balance
from ..kernels.block_schur import BlockSchur, block_schur
from ..kernels.modal import Modes
from .base import SECONDS_PER_ENTRY, SECONDS_PER_EXP, SECONDS_PER_FLOP, Method, Plan, SplitPlan, Workload, register
from ..kernels.eigenpairs import one_norm
from .eig import keep_one_of_each_pair
from .propagator import Propagator, PropagatorPlan

WORTH_BALANCING = (
    0.1  # of the norm left; less gain hides a defective Xi in D (Watkins 2006, A case where balancing is harmful)
)
N_PROBES = 8  # times at which blocks are checked against one block
CHECK, GRADIENT_CHECK = 3e-14, 3e-13  # relative differences that pass
MAX_PAIR_CONDITION = 30.0  # of the eigenvectors of a 2 x 2 block; beyond, it is evaluated as a block


@register
@dataclass(frozen=True)
class Schur(Method):
    """No options."""

    name: ClassVar[str] = "schur"
    summary: ClassVar[str] = "real Schur form, block-diagonalised; every matrix, repeated eigenvalues included"
    needs_host: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None) -> Plan:
        plans = [_plan_one(Xi[s : s + 1], rtol) for s in range(Xi.shape[0])]  # LAPACK factors one at a time
        if len(plans) == 1:
            return plans[0]
        return SplitPlan(Xi, [(torch.tensor([s], device=Xi.device), plan) for s, plan in enumerate(plans)])

    def cost(self, work: Workload) -> float:
        lapack = 1e-2 + 300 * work.n**3 * SECONDS_PER_FLOP
        per_row = work.n * (SECONDS_PER_EXP + 10 * SECONDS_PER_ENTRY) + 16 * work.n**2 * SECONDS_PER_FLOP
        return work.n_systems * (lapack + work.n_rows * per_row)


@dataclass
class Cluster:
    """One block: V (1, n, m) and V_inv (1, m, n) select it, `plan` evaluates exp(B t)."""

    index: slice
    V: Tensor
    V_inv: Tensor
    plan: Plan


@dataclass
class SchurPlan(Plan):
    """One system: Xi = X blockdiag(blocks) X^-1, simple eigenvalues gathered in `modes`, the rest in `clusters`."""

    Xi: Tensor  # (1, n, n)
    X: Tensor  # (1, n, n)
    X_inv: Tensor
    blocks: list[np.ndarray[Any, Any]]
    modes: Modes
    clusters: list[Cluster]
    whole: PropagatorPlan  # Xi as one block
    gap: float  # smallest distance between eigenvalues of a cluster and any other
    kappa: float
    method: str = "schur"
    _checked: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def accepted(self) -> Tensor:  # type: ignore[override]
        return torch.ones(1, dtype=torch.bool, device=self.Xi.device)

    @property
    def reason(self) -> str:  # type: ignore[override]
        sizes = [len(block) for block in self.blocks]
        return f"{len(sizes)} blocks, the largest {max(sizes)} x {max(sizes)}, kappa(X) = {self.kappa:.3g}"

    @property
    def details(self) -> dict[str, Any]:
        return {"block_sizes": [len(block) for block in self.blocks], "kappa_X": self.kappa, "gap": self.gap}

    def subset(self, index: Tensor) -> Plan:
        if len(index) == 1:
            return self
        every = torch.arange(len(index), device=self.Xi.device)
        return SplitPlan(self.Xi[index], [(every[s : s + 1], self) for s in range(len(index))])

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        whole = self._as_one_block(z0, t)
        if not bool(whole.any()):
            return self._states(z0, t)[0]
        z = self.whole.evaluate(z0, torch.where(whole, t, 0))
        if bool(whole.all()):
            return z
        return torch.where(whole[..., None], z, self._states(z0, torch.where(whole, 0, t))[0])

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        whole = self._as_one_block(z0, t)
        if not bool(whole.any()):
            return self._vjp_by_blocks(z0, t, g, want_t)
        mask = whole[..., None]
        S, a, dt = self.whole.vjp(z0, torch.where(whole, t, 0), torch.where(mask, g, 0), want_t)
        if bool(whole.all()):
            return S, a, dt
        S_long, a_long, dt_long = self._vjp_by_blocks(z0, torch.where(whole, 0, t), torch.where(mask, 0, g), want_t)
        return S + S_long, a + a_long, dt + dt_long if dt is not None and dt_long is not None else None

    def _as_one_block(self, z0: Tensor, t: Tensor) -> Tensor:
        """(1, R, T) bool, where Xi is taken as one block: times too short to tell the blocks apart, and all of them
        where the blocks fail the check: at a few times, values and gradients must be those of one block."""
        if self._checked is not None and torch.equal(self._checked[0], z0) and torch.equal(self._checked[1], t):
            return self._checked[2]
        whole = t.abs() * self.gap < 1.0 if self.clusters else torch.zeros_like(t, dtype=torch.bool)
        if bool(self.whole.arithmetic(z0, t).any()):  # no double arithmetic will do
            whole = torch.ones_like(whole)
        if not bool(whole.all()):
            pick = torch.linspace(0, t.shape[2] - 1, min(t.shape[2], N_PROBES), device=t.device).round().to(torch.int64)
            probes = torch.where(whole, 0, t).sort(dim=2).values[:, :, pick]
            z = self.whole.evaluate(z0, probes)
            g = torch.sgn(z) / _norm(z).clamp(min=torch.finfo(t.dtype).tiny)[..., None]
            S, a, _ = self.whole.vjp(z0, probes, g, want_t=False)
            S_blocks, a_blocks, _ = self._vjp_by_blocks(z0, probes, g, want_t=False)
            pairs = [(self._states(z0, probes)[0], z), (S_blocks.flatten(1), S.flatten(1)), (a_blocks, a)]
            for (ours, truth), allowed in zip(pairs, (CHECK, GRADIENT_CHECK, GRADIENT_CHECK)):
                passed = bool((_norm(ours - truth) <= allowed * _norm(truth)).all())
                whole = whole if passed else torch.ones_like(whole)
        self._checked = (z0.clone(), t.clone(), whole)
        return whole

    def _vjp_by_blocks(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        S, a, dt = self.modes.vjp(z0, t, g, want_t)
        for cluster in self.clusters:
            h = g @ cluster.V.conj_physical()[:, None]
            S_own, a_own, dt_own = cluster.plan.vjp(z0 @ cluster.V_inv.mT, t, h, want_t)
            S = S + cluster.V_inv.mT.conj_physical() @ S_own @ cluster.V.mT.conj_physical()
            a = a + a_own @ cluster.V_inv.conj_physical()
            dt = dt + dt_own if dt is not None and dt_own is not None else None
        return (S + self._couplings(z0, t, g, a), a, dt) if self.clusters else (S, a, dt)

    def _states(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """z, and its coordinates in the blocks, (1, R, T, n)."""
        z = self.modes.evaluate(z0, t)
        y = z @ self.X_inv.mT[:, None]
        for cluster in self.clusters:
            own = cluster.plan.evaluate(z0 @ cluster.V_inv.mT, t)
            y[..., cluster.index] = own
            z = z + own @ cluster.V.mT[:, None]
        return z, y

    def _couplings(self, z0: Tensor, t: Tensor, g: Tensor, a: Tensor) -> Tensor:
        """The part of S between clusters and everything else: B_p^H M - M B_q^H = a z0^H - sum_i g_i z_i^H, block by
        block.
        """
        n = self.Xi.shape[-1]
        _, y = self._states(z0, t)
        h = (g @ self.X.conj_physical()[:, None]).reshape(-1, n)
        a_block, y0 = (a @ self.X.conj_physical()).reshape(-1, n), (z0 @ self.X_inv.mT).reshape(-1, n)
        right = a_block.mT @ y0.conj_physical() - h.mT @ y.reshape(-1, n).conj_physical()
        M = torch.from_numpy(self._solved(right.cpu().numpy())).to(right)
        return self.X_inv.mT.conj_physical() @ M[None] @ self.X.mT.conj_physical()

    def _solved(self, right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rows of every cluster against all other blocks, and rows of simple eigenvalues against the clusters."""
        n = len(right)
        B = np.zeros((n, n), dtype=right.dtype)
        start, scale = 0, float(np.abs(right).max(initial=0.0)) or 1.0
        right = right / scale
        for block in self.blocks:
            B[start : start + len(block), start : start + len(block)] = block
            start += len(block)
        BH, M, simple = B.conj().T, np.zeros_like(right), np.ones(n, dtype=bool)
        for cluster in self.clusters:
            simple[cluster.index] = False
        modes = np.flatnonzero(simple)
        for cluster in self.clusters:
            own = np.arange(n)[cluster.index]
            others = np.setdiff1d(np.arange(n), own)
            for rows, columns in ((own, others), (modes, own)):
                if len(rows) and len(columns):
                    left = BH[np.ix_(rows, rows)], -BH[np.ix_(columns, columns)]
                    M[np.ix_(rows, columns)] = solve_sylvester(*left, right[np.ix_(rows, columns)])
        return M * scale


def _plan_one(Xi: Tensor, rtol: float | None) -> Plan:
    whole = Propagator().plan(Xi, rtol)
    balanced, D = balance(Xi)
    if float(one_norm(balanced.cpu().numpy())[0]) > WORTH_BALANCING * float(one_norm(Xi.cpu().numpy())[0]):
        balanced, D = Xi, torch.ones_like(D)
    matrix = balanced[0].cpu().numpy()
    try:
        factors = block_schur(matrix)
    except LinAlgError:
        eye = np.eye(len(matrix))
        factors = BlockSchur(eye, eye, [matrix])
    X = D[:, :, None] * torch.from_numpy(factors.X).to(Xi)
    X_inv = torch.from_numpy(factors.X_inv).to(Xi) / D[:, None]
    lam: list[complex] = []
    columns, rows = [], []
    clusters, spectra, start = [], [], 0
    wide = X.to(torch.complex128)
    wide_inv = X_inv.to(torch.complex128)
    for block in factors.blocks:
        index = slice(start, start + len(block))
        start += len(block)
        if len(block) == 1:
            lam.append(complex(block[0, 0]))
            columns.append(wide[0, :, index])
            rows.append(wide_inv[0, index])
            spectra.append((False, np.array([lam[-1]])))
            continue
        values, vectors = np.linalg.eig(block)
        is_pair = len(block) == 2 and np.isrealobj(block) and values[0].imag != 0
        if is_pair and np.linalg.cond(vectors) <= MAX_PAIR_CONDITION:
            V = torch.from_numpy(vectors).to(wide)
            V_inv = torch.from_numpy(np.linalg.inv(vectors)).to(wide)
            lam.extend(complex(value) for value in values)
            columns.append(wide[0, :, index] @ V)
            rows.append(V_inv @ wide_inv[0, index])
            spectra.append((False, values))
            continue
        B = torch.from_numpy(np.ascontiguousarray(block)).to(Xi)[None]
        clusters.append(Cluster(index, X[:, :, index], X_inv[:, index], Propagator().plan(B, rtol)))
        spectra.append((True, values))
    modes = _modes(lam, columns, rows, Xi)
    kappa = float(np.linalg.cond(factors.X, 1))
    return SchurPlan(Xi, X, X_inv, factors.blocks, modes, clusters, whole, _gap(spectra), kappa)


def _modes(lam: list[complex], columns: list[Tensor], rows: list[Tensor], Xi: Tensor) -> Modes:
    n, is_real = Xi.shape[-1], not Xi.is_complex()
    if not lam:  # everything is in clusters: one mode that contributes nothing
        none = Xi.new_zeros(1, 1)
        return Modes(none, Xi.new_zeros(1, n, 1), Xi.new_zeros(1, 1, n), torch.ones_like(none.real), paired=False)
    values = torch.tensor(lam, dtype=torch.complex128, device=Xi.device)[None]
    return keep_one_of_each_pair(values.numpy(), torch.cat(columns, 1)[None].numpy(), torch.cat(rows, 0)[None].numpy(), Xi).tensors(Xi.device)


def _gap(spectra: list[tuple[bool, np.ndarray[Any, Any]]]) -> float:
    """Smallest distance between an eigenvalue of a cluster and one of another block."""
    gap = np.inf
    for i, (is_cluster, values) in enumerate(spectra):
        for j, (_, others) in enumerate(spectra):
            if is_cluster and i != j:
                gap = min(gap, float(np.abs(values[:, None] - others[None]).min()))
    return gap


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)
