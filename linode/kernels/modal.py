"""exp(Xi t) z0 and its adjoint in an eigenbasis Xi = V diag(lam) V^-1, by divided differences.

For real Xi the products over time are real: z = F^T K, with F the rows exp(alpha t) cos(omega t) and exp(alpha t)
sin(omega t), and K from the coefficients c = V^-1 z0. Forward is one product of T x n x n, the adjoint two; nothing is
ever divided by a small eigenvalue gap.
Derivation: with x_ik = exp(lam_k t_i) and ghat = V^H g, the gradient in the eigenbasis is
    M_jk = conj(c_k) sum_i ghat_ij conj(D_jk(t_i)),   D_jk(t) = (exp(lam_j t) - exp(lam_k t)) / (lam_j - lam_k),
and for well-separated pairs the sum over i comes first: (Q_jj - Q_jk) / conj(lam_j - lam_k), Q = V^H (g^T conj(x)),
where at short times 1 is taken off x, which keeps them exact beside long ones. Close pairs use
t exp(lam_k t) expm1(w) / w, w = (lam_j - lam_k) t, time by time.
Sources: Daleckii & Krein (1965); Higham (2008), Functions of Matrices, theorem 3.9 and eq. 10.15-10.17.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import (
    amax,
    as_type,
    conj,
    copy,
    empty,
    empty_rows,
    exponential,
    is_complex,
    namespace,
    nonzero,
    of_kind,
    product,
    real,
    split,
)
from .gaps import Gaps, add_close_pairs
from .pairs import Pairs

Gradients = tuple[Any, Any, Any]  # of Xi, z0 and t
CHUNK_ENTRIES = 2**19  # of F at a time


@dataclass
class Modes:
    """Eigenpairs: lam (S, e), V (S, n, e), V_inv (S, e, n).

    pairs: of real Xi with complex lam, in the order that `Pairs` asks for; the trajectories are real then. Where it is
    None, lam, V and the trajectories have one dtype. NumPy arrays or tensors, all of one kind; z0 is of that kind too.
    t and g may be tensors beside arrays: where times are many and n is small. exists (S, e): None, or false for
    padding, whose V and V_inv are 0. delicate (S, kept, e): pairs of modes to be subtracted analytically though their
    gap does not ask for it, see `eigenpairs`; or None.
    """

    lam: Any
    V: Any
    V_inv: Any
    pairs: Pairs | None = None
    exists: Any = None
    delicate: Any = None
    _gaps: Gaps | None = field(default=None, repr=False)
    _adjoint: tuple[Any, Any, Any, Any] | None = field(default=None, repr=False)
    _start: tuple[bytes, Any, Any] | None = field(default=None, repr=False)  # z0 with its c and K, where small

    @property
    def n_kept(self) -> int:
        """Leading modes that stand for all, in sums of which only the real part matters."""
        return self.lam.shape[-1] if self.pairs is None else self.pairs.n_kept

    @property
    def weighted(self) -> Any:
        """V of the modes kept, twice where one stands for two."""
        return self.V if self.pairs is None else self.V[..., : self.n_kept] * self.pairs.weight

    @property
    def adjoint(self) -> tuple[Any, Any, Any, Any]:
        """V^H, twice where a mode stands for two, and V^-H, of the modes kept; V^H of all; and max |lam|, (S, 1, 1)."""
        known = self._adjoint
        if known is None:
            basis = conj(self.V).mT
            kept = basis if self.pairs is None else basis[:, : self.n_kept] * self.pairs.weight[:, None]
            dual = conj(self.V_inv[:, : self.n_kept]).mT
            self._adjoint = known = (kept, dual, basis, amax(abs(self.lam), -1)[:, None, None])
        return known

    @property
    def gaps(self) -> Gaps:
        """Between the modes kept and all."""
        if self._gaps is None:
            self._gaps = Gaps.of(self.lam, self.n_kept, self.exists, self.delicate)
        return self._gaps

    def subset(self, index: Any) -> Modes:
        """The modes of some of the systems."""
        pairs = self.pairs and self.pairs.subset(index)
        own = Modes(self.lam[index], self.V[index], self.V_inv[index], pairs)
        own.exists = None if self.exists is None else self.exists[index]
        own.delicate = None if self.delicate is None else self.delicate[index][:, : own.n_kept]  # alike, fewer are kept
        return own

    def clear(self, systems: Any) -> None:
        """No modes for some of the systems."""
        self.lam[systems], self.V[systems], self.V_inv[systems] = 0, 0, 0
        if self.exists is None:
            self.exists = namespace(self.lam).ones_like(self.lam, dtype=bool)
        self.exists[systems] = False

    def tensors(self, device: torch.device) -> Modes:
        """The same as tensors; from NumPy arrays."""
        arrays = (self.lam, self.V, self.V_inv, self.exists, self.delicate)
        host = (None if x is None else np.require(x, requirements="W") for x in arrays)
        lam, V, V_inv, exists, delicate = (None if x is None else torch.from_numpy(x).to(device) for x in host)
        return Modes(lam, V, V_inv, self.pairs and self.pairs.tensors(device), exists, delicate)

    def evaluate(self, z0: Any, t: Any) -> Any:
        """(S, R, T, n) for z0 (S, R, n), t (S, R, T)."""
        K, chunks = of_kind(self.expanded(z0)[1], t), self._chunks(t)
        if len(chunks) == 1:
            return product(self.functions(t).mT, K)
        z = empty((*z0.shape[:2], t.shape[2], z0.shape[2]), K)
        for part, place in zip(chunks, split(z, chunks[0].shape[2], 2)):
            namespace(z).matmul(self.functions(part).mT, K, out=place)
        return z

    def record(self, z0: Any, t: Any) -> tuple[Any, Callable[[Any, bool], Gradients]]:
        """The states, and what gives the gradients; it keeps the exponentials where they are not many."""
        chunks = self._chunks(t)
        if len(chunks) > 1:
            return self.evaluate(z0, t), lambda g, want_t: self.vjp(z0, t, g, want_t)
        c, K = self.expanded(z0)
        F = self.functions(chunks[0])
        z = product(F.mT, of_kind(K, t))
        return z, lambda g, want_t: self.gradients(c, t, g, want_t, [(chunks[0], F)])

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool) -> Gradients:
        """Gradients S (S, n, n), a (S, R, n) and, where wanted, with respect to t (S, R, T)."""
        return self.gradients(self.expanded(z0)[0], t, g, want_t, [(part, None) for part in self._chunks(t)])

    def gradients(self, c: Any, t: Any, g: Any, want_t: bool, chunks: list[tuple[Any, Any]]) -> Gradients:
        """As `vjp`, of trajectories with coefficients c; chunks: times, a share at a time, with F or None for each."""
        K = of_kind(self.synthesis(c * self.lam[:, None]), t) if want_t else None  # of Xi z
        cotangents = split(g, chunks[0][0].shape[2], 2) if len(chunks) > 1 else [g]
        rates, sums = [], None
        for (part, F), h in zip(chunks, cotangents):
            if F is None:
                F = self.functions(part)
            if K is not None:
                rates.append(real((conj(h) * product(F.mT, K)).sum(-1)))
            own = self._sums(part, F, h)
            sums = own if sums is None else sums + own
        S, a = self._assembled(c, t, g, of_kind(sums, c))
        dt = None if K is None else rates[0] if len(rates) == 1 else namespace(t).concatenate(rates, axis=2)
        return S, a, dt

    # ---- over time -------------------------------------------------------------------------------------------------

    def _chunks(self, t: Any) -> list[Any]:
        """Times a share at a time, so that what belongs to them stays in the cache; once where trajectories share
        them.
        """
        if t.shape[1] > 1 and (t.stride(1) if isinstance(t, Tensor) else t.strides[1]) == 0:
            t = t[:, :1]
        size = max(1, CHUNK_ENTRIES // (t.shape[0] * t.shape[1] * self.V.shape[1]))
        return [t] if t.shape[2] <= size else split(t, size, 2)

    def functions(self, t: Any) -> Any:
        """F (S, R, e, T): exp(lam t), or the rows that stand for it.

        By two real functions, which take half the time of a complex exp.
        """
        if self.pairs is not None:
            return self.pairs.functions(self.lam, t)
        xp, lam, times = namespace(t), of_kind(self.lam, t)[:, None, :, None], t[:, :, None]
        if not is_complex(lam):
            return exponential(lam * times)
        F = empty((*t.shape[:2], lam.shape[2], t.shape[2]), lam)
        size, angle = exponential(lam.real * times), lam.imag * times
        F.real[:], F.imag[:] = size * xp.cos(angle), size * xp.sin(angle)
        return F

    def _sums(self, t: Any, F: Any, g: Any) -> Any:
        """Sums over time of conj(F) g, of conj(F) t g, and of g at short times, (S, R, 2 e + 1, n); in the first of
        them F has 1 taken off every mode at these times.

        Short are times at which all modes are near 1: differences of exp - 1 are those of exp, free of cancellation.
        """
        S, R, e, T = F.shape
        short = abs(t) * of_kind(self.adjoint[3], t) < 1
        weights = empty_rows(S, R, 2 * e + 1, T, F)
        weights[:, :, :e] = F
        namespace(t).multiply(F, t[:, :, None], out=weights[:, :, e:-1])
        weights[:, :, -1] = short
        s, r, i = nonzero(short)
        if len(s):
            own, lam = t[s, r, i][:, None], of_kind(self.lam, t)
            if self.pairs is None:
                weights[s, r, :e, i] = namespace(t).expm1((lam if S == 1 else lam[s]) * own)
            else:
                weights[s, r, : self.n_kept, i] = self.pairs.less_one(F, lam, (s, r, i), own)
        return product(conj(weights), g)

    # ---- n x n -----------------------------------------------------------------------------------------------------

    def expanded(self, z0: Any) -> tuple[Any, Any]:
        """c and K of z0, kept for the next call where z0 is small and on the host."""
        if isinstance(z0, Tensor):
            c = self._coefficients(z0)
            return c, self.synthesis(c)
        known, key = self._start, z0.tobytes()  # one read: another thread may replace it
        if known is None or known[0] != key or known[1].shape[1] != z0.shape[1]:
            c = self._coefficients(z0)
            self._start = known = (key, c, self.synthesis(c))
        return known[1], known[2]

    def _coefficients(self, z0: Any) -> Any:
        """c = V^-1 z0, (S, R, e)."""
        return as_type(z0, self.V_inv) @ self.V_inv.mT

    def synthesis(self, c: Any) -> Any:
        """K (S, R, e, n): F^T K are the states with coefficients c (S, R, e)."""
        if self.pairs is None:
            return c[..., None] * self.V.mT[:, None]
        p = self.n_kept
        return copy(product(self.pairs.U[:, None, :, :p] * c[:, :, None, :p], self.weighted.mT[:, None]).real)

    def _assembled(self, c: Any, t: Any, g: Any, sums: Any) -> tuple[Any, Any]:
        """S and a from the sums over time (S, R, 2 e + 1, n)."""
        (VH, dual, basis, _), (n_systems, R, e), p = self.adjoint, c.shape, self.n_kept
        Q = sums[:, :, :-1].reshape(n_systems, R, 2, e, -1)  # of conj(x) g, and of t conj(x) g
        if self.pairs is not None:
            UH = self.pairs.UH
            Q = product(UH[:, None, None], as_type(Q, UH))
        parts = (VH[:, None, None] * Q[:, :, :, :p]).sum(-1)
        diagonal, own = parts[:, :, 0], parts[:, :, 1]  # (S, R, p): Q_jj, and D_jj(t) = t exp(lam_j t)
        a = (diagonal + as_type(sums[:, :, -1], VH) @ VH.mT) @ dual.mT
        inverse_gap, near = self.gaps.at(t)
        cH = conj(c)
        right = cH[..., None] * Q[:, :, 0]
        right = right.sum(1) if R > 1 else right[:, 0]  # (S, e, n)
        M = (diagonal.mT @ cH - product(VH, right.mT)) * inverse_gap
        j = namespace(c).arange(p)
        M[:, j, j] = (own * cH[..., :p]).sum(1)
        if near is not None:
            add_close_pairs(M, near, self.lam, VH, cH, t, g)
        S = product(dual, product(M, basis))
        return (S.real, a.real) if self.pairs is not None else (S, a)
