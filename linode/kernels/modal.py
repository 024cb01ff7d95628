"""exp(Xi t) z0 and its adjoint in an eigenbasis Xi = V diag(lam) V^-1, by divided differences.

For real Xi one of each conjugate pair is kept and the products over time are real: z = E K, with E the columns
exp(alpha t) cos(omega t) and exp(alpha t) sin(omega t), and K from the coefficients c = V^-1 z0. Forward is one product
of T x n x n, the adjoint two; nothing is ever divided by a small eigenvalue gap.
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
    as_type,
    conj,
    elementwise,
    empty,
    is_complex,
    namespace,
    nonzero,
    of_kind,
    product,
    real,
    split,
    take,
)
from .gaps import Gaps, add_close_pairs
from .rows import Rows

CHUNK_ENTRIES = 2**20  # of E at a time
Gradients = tuple[Any, Any, Any]


@dataclass
class Modes:
    """Eigenpairs kept: lam (S, p), V (S, n, p), V_inv (S, p, n), weight (S, p): 2 for a pair, 0 for padding.

    n_pairs: how many of the leading modes have conjugates that were left out, in any system; Xi is real then, and so
    are the trajectories. Where it is 0, lam, V and the trajectories have one dtype. NumPy arrays or tensors, all of one
    kind; z0 is of that kind too. t and g may be tensors beside arrays: where times are many and n is small. delicate
    (S, p, q): pairs to be subtracted analytically though their gap does not ask for it, see `eigenpairs`; or None.
    """

    lam: Any
    V: Any
    V_inv: Any
    weight: Any
    n_pairs: int
    delicate: Any = None
    _rows: Rows | None = field(default=None, repr=False)
    _gaps: Gaps | None = field(default=None, repr=False)
    _adjoint: tuple[Any, Any, Any, Any] | None = field(default=None, repr=False)
    _start: tuple[bytes, Any, Any] | None = field(default=None, repr=False)  # z0 with its c and K, where small

    def __post_init__(self) -> None:
        self.weighted = self.V * self.weight[:, None] if self.n_pairs else self.V

    @property
    def xp(self) -> Any:
        return namespace(self.lam)

    @property
    def rows(self) -> Rows:
        """Where n_pairs is not 0."""
        rows = self._rows
        if rows is None:
            self._rows = rows = Rows.of(self.lam, self.weight, self.n_pairs, in_order=len(self.lam) == 1)
        return rows

    @property
    def adjoint(self) -> tuple[Any, Any, Any, Any]:
        """Of the weighted V, of V_inv and of every column of V; and max |lam|, (S, 1, 1)."""
        known = self._adjoint
        if known is None:
            factors = (conj(x).mT for x in (self.weighted, self.V_inv, self.every(self.V, -1)))
            self._adjoint = known = (*factors, self.xp.amax(abs(self.lam), -1)[:, None, None])
        return known

    def subset(self, index: Any) -> Modes:
        delicate = None if self.delicate is None else self.delicate[index]
        return Modes(self.lam[index], self.V[index], self.V_inv[index], self.weight[index], self.n_pairs, delicate)

    def replace(self, index: Any, lam: Any, V: Any, V_inv: Any) -> None:
        """Other eigenpairs for some of the systems."""
        self.lam[index], self.V[index], self.V_inv[index] = lam, V, V_inv
        self.__post_init__()

    def clear(self, systems: Any) -> None:
        """No modes for some of the systems."""
        self.replace(systems, 0, 0, 0)

    def tensors(self, device: torch.device) -> Modes:
        """The same as tensors; from NumPy arrays."""
        host = (np.require(x, requirements="W") for x in (self.lam, self.V, self.V_inv, self.weight))
        lam, V, V_inv, weight = (torch.from_numpy(x).to(device) for x in host)
        delicate = None if self.delicate is None else torch.from_numpy(self.delicate).to(device)
        return Modes(lam, V, V_inv, weight, self.n_pairs, delicate)

    def every(self, x: Any, axis: int) -> Any:
        """What belongs to the kept eigenvalues, then to the conjugates that were left out."""
        if not self.n_pairs:
            return x
        head = x[..., : self.n_pairs] if axis == -1 else x[..., : self.n_pairs, :]
        return namespace(x).concatenate((x, conj(head)), axis=axis)

    def evaluate(self, z0: Any, t: Any) -> Any:
        """(S, R, T, n) for z0 (S, R, n), t (S, R, T)."""
        K = of_kind(self._expanded(z0)[1], t)
        parts = [product(self._modal(part).mT, K) for part in self._chunks(t)]
        return parts[0] if len(parts) == 1 else namespace(t).concatenate(parts, axis=2)

    def record(self, z0: Any, t: Any) -> tuple[Any, Callable[[Any, bool], Gradients]]:
        """The states, and what gives the gradients; it keeps the exponentials where they are not many."""
        chunks = self._chunks(t)
        if len(chunks) > 1:
            return self.evaluate(z0, t), lambda g, want_t: self.vjp(z0, t, g, want_t)
        c, K = self._expanded(z0)
        F = self._modal(chunks[0])
        z = product(F.mT, of_kind(K, t))
        return z, lambda g, want_t: self._gradients(c, t, g, want_t, [(chunks[0], F)])

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool) -> Gradients:
        """Gradients S (S, n, n), a (S, R, n) and, where wanted, with respect to t (S, R, T)."""
        return self._gradients(self._expanded(z0)[0], t, g, want_t, [(part, None) for part in self._chunks(t)])

    def _gradients(self, c: Any, t: Any, g: Any, want_t: bool, chunks: list[tuple[Any, Any]]) -> Gradients:
        K = of_kind(self._synthesis(c * self.lam[:, None]), t) if want_t else None  # of Xi z
        cotangents = split(g, chunks[0][0].shape[2], 2) if len(chunks) > 1 else [g]
        rates, parts = [], []
        for (part, F), h in zip(chunks, cotangents):
            if F is None:
                F = self._modal(part)
            if K is not None:
                rates.append(real((conj(h) * product(F.mT, K)).sum(-1)))
            parts.append(self._sums(part, F, h))
        sums, delayed = (self._of_conjugates(of_kind(_total(x), c)) for x in list(zip(*parts))[:2])
        at_short = _total([x for _, _, x in parts if x is not None])
        S, a = self._assembled(c, t, g, sums, delayed, None if at_short is None else of_kind(at_short, c))
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

    def _modal(self, t: Any) -> Any:
        """E^T (S, R, q, T): exp(lam t), or the rows that stand for it.

        By two real functions, which take half the time of a complex exp.
        """
        xp, lam, times = namespace(t), of_kind(self.lam, t)[:, None, :, None], t[:, :, None]
        (S, R, T), p, pairs = t.shape, self.lam.shape[-1], self.n_pairs
        if pairs and S > 1:
            return self.rows.at(t)
        F = empty((S, R, p + pairs, T), t if pairs else lam)
        if pairs:
            re, head, im = F[:, :, :p], F[:, :, :pairs], F[:, :, p:]
            elementwise("exp", xp.multiply(lam.real, times, out=re), re)
            angle = lam.imag[:, :, :pairs] * times
            xp.multiply(elementwise("sin", angle, im), head, out=im)
            xp.multiply(elementwise("cos", angle, angle), head, out=head)
        elif is_complex(lam):
            size, angle = xp.exp(lam.real * times), lam.imag * times
            F.real[:], F.imag[:] = size * xp.cos(angle), size * xp.sin(angle)
        else:
            elementwise("exp", xp.multiply(lam, times, out=F), F)
        return F

    def _sums(self, t: Any, F: Any, g: Any) -> tuple[Any, Any, Any]:
        """conj(E)^T g and conj(E)^T t g (S, R, q, n), E - 1 standing for E at short times; then sums of g and t g at
        short times (S, R, 2, n).

        At times so short that all modes are near 1, differences of exp - 1 are those of exp, free of cancellation.
        """
        xp = namespace(t)
        short = abs(t) * of_kind(self.adjoint[3], t) < 1
        s, r, i = nonzero(short)
        kept = None
        if len(s):
            kept, own = F[s, r, :, i], t[s, r, i][:, None]
            F[s, r, :, i] = self._less_one(kept, s, own) if own.any() else 0
        times = t[:, :, None]
        sums, delayed = product(conj(F), g), product(conj(F * times), g)
        if kept is None:
            return sums, delayed, None
        F[s, r, :, i] = kept  # for a second backward
        weights = as_type(xp.concatenate((short[:, :, None], short[:, :, None] * times), axis=2), g)
        return sums, delayed, product(weights, g)

    def _less_one(self, x: Any, s: Any, times: Any) -> Any:
        """What E - 1 is where E is x (P, q), of systems s (P,) at times (P, 1)."""
        if not self.n_pairs:
            return namespace(times).expm1(of_kind(self.lam, times)[s] * times)
        return self.rows.less_one(x, s, times)

    def _of_conjugates(self, sums: Any) -> Any:
        """Sums of g conj(x), (S, R, p, n), from those with the rows of E^T."""
        if not self.n_pairs:
            return sums
        if len(sums) == 1:
            p = self.lam.shape[-1]
            out = as_type(sums[:, :, :p], self.lam)
            out.imag[:, :, : self.n_pairs] = -sums[:, :, p:]
            return out
        rows = self.rows
        out = as_type(take(sums, rows.cosine[:, None, :, None], 2), self.lam)
        out.imag[:] = -take(sums, rows.sine[:, None, :, None], 2) * (self.weight > 1)[:, None, :, None]
        return out

    # ---- n x n -----------------------------------------------------------------------------------------------------

    def _expanded(self, z0: Any) -> tuple[Any, Any]:
        """c and K of z0, kept for the next call where z0 is small and on the host."""
        if isinstance(z0, Tensor):
            c = self._coefficients(z0)
            return c, self._synthesis(c)
        known, key = self._start, z0.tobytes()  # one read: another thread may replace it
        if known is None or known[0] != key or known[1].shape[1] != z0.shape[1]:
            c = self._coefficients(z0)
            self._start = known = (key, c, self._synthesis(c))
        return known[1], known[2]

    def _coefficients(self, z0: Any) -> Any:
        """c = V^-1 z0, (S, R, p)."""
        return as_type(z0, self.V_inv) @ self.V_inv.mT

    def _synthesis(self, c: Any) -> Any:
        """K (S, R, q, n): E K are the states with coefficients c (S, R, p)."""
        K = c[..., None] * self.weighted.mT[:, None]
        if not self.n_pairs:
            return K
        if len(K) == 1:
            return self.xp.concatenate((K.real, -K.imag[:, :, : self.n_pairs]), axis=2)
        return take(self.xp.concatenate((K.real, -K.imag), axis=2), self.rows.index[:, None, :, None], 2)

    def _assembled(self, c: Any, t: Any, g: Any, sums: Any, delayed: Any, at_short: Any) -> tuple[Any, Any]:
        """S and a from the sums over time (S, R, p, n): of conj(x) g, and of t conj(x) g; at_short: what they lack."""
        (VH, dual, basis, _), p = self.adjoint, c.shape[-1]
        # (S, R, p): Q_jj, and D_jj(t) = t exp(lam_j t)
        diagonal, own = ((VH[:, None] * x).sum(-1) for x in (sums, delayed))
        whole = diagonal
        if at_short is not None:
            extra = as_type(at_short, VH) @ VH.mT[:, None]
            whole, own = diagonal + extra[:, :, 0], own + extra[:, :, 1]
        a = whole @ dual.mT
        if self._gaps is None:
            self._gaps = Gaps.of(self.lam, self.every(self.lam, -1), self.weight, self.delicate)
        inverse_gap, near = self._gaps.at(t)
        cH = conj(self.every(c, -1))
        right = cH[..., None] * self.every(sums, -2)
        right = right.sum(1) if right.shape[1] > 1 else right[:, 0]  # (S, q, n)
        M = (diagonal.mT @ cH - product(VH, right.mT)) * inverse_gap
        j = self.xp.arange(p)
        M[:, j, j] = (own * cH[..., :p]).sum(1)
        if near is not None:
            add_close_pairs(M, near, self.lam, self.every(self.lam, -1), self.weighted, cH, t, g)
        S = product(dual, product(M, basis))
        return (S.real, a.real) if self.n_pairs else (S, a)


def _total(parts: Any) -> Any:
    """Their sum, or None."""
    return None if not parts else parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
