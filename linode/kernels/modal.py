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

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

# Pairs with |lam_j - lam_k| t_max below NEAR are subtracted analytically, time by time; so are those with a gap below
# NEAR_RELATIVE beside the eigenvalues themselves, since some times may be too short to resolve it. Both bound the
# digits that are lost otherwise: at most 1 / NEAR units of rounding.
NEAR, NEAR_RELATIVE = 0.03, 0.01
TINY = 1e-300  # a gap whose inverse may overflow
CHUNK_ENTRIES = 2**19  # of E at a time


@dataclass
class Modes:
    """Eigenpairs kept: lam (S, p), V (S, n, p), V_inv (S, p, n), weight (S, p): 2 for a pair, 0 for padding.

    `paired`: real Xi with complex lam, pairs first; else lam, V and the trajectories have one dtype.
    """

    lam: Tensor
    V: Tensor
    V_inv: Tensor
    weight: Tensor
    paired: bool
    _last: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def subset(self, index: Tensor) -> Modes:
        return Modes(self.lam[index], self.V[index], self.V_inv[index], self.weight[index], self.paired)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S, R, T, n) for z0 (S, R, n), t (S, R, T)."""
        K = self._synthesis(self._coefficients(z0))
        parts = [self._exponentials(part) @ K for part in self._chunks(t)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients S (S, n, n), a (S, R, n) and, where wanted, with respect to t (S, R, T)."""
        c = self._coefficients(z0)
        chunks = self._chunks(t)
        cotangents = g.split(chunks[0].shape[2], 2)
        dt = None
        if want_t:
            K = self._synthesis(c * self.lam[:, None])  # of Xi z
            rates = (h.conj_physical() * (self._exponentials(part) @ K) for part, h in zip(chunks, cotangents))
            dt = _real_part(torch.cat([rate.sum(-1) for rate in rates], 2))
        parts = [self._sums(part, h) for part, h in zip(chunks, cotangents)]
        sums, scaled, at_short = parts[0] if len(parts) == 1 else map(sum, zip(*parts))
        S, a = self._assembled(c, t, g, self._of_conjugates(sums), self._of_conjugates(scaled), at_short)
        return S, a, dt

    # ---- over time -------------------------------------------------------------------------------------------------

    def _chunks(self, t: Tensor) -> tuple[Tensor, ...]:
        """Times a share at a time, so that what belongs to them stays in the cache; once where trajectories share
        them.
        """
        if t.shape[1] > 1 and t.stride(1) == 0:
            t = t[:, :1]
        per_time = t.shape[0] * t.shape[1] * (self.lam.shape[1] + self._n_pairs)
        return t.split(max(1, CHUNK_ENTRIES // per_time), 2)

    def _exponentials(self, t: Tensor) -> Tensor:
        """E (S, R, T, q), kept for the gradient that may follow."""
        last = self._last
        if last is not None and torch.equal(last[0], t):
            return last[1]
        E = self._modal(self.lam[:, None, None], t[..., None])
        if E.numel() <= CHUNK_ENTRIES:
            self._last = t.clone(), E
        return E

    def _modal(self, lam: Tensor, t: Tensor) -> Tensor:
        """exp(lam t); for pairs the real parts of all modes, then the imaginary parts of the pairs."""
        if not lam.is_complex():
            return torch.exp(lam * t)
        pairs = self._n_pairs
        size, angle = torch.exp(lam.real * t), lam.imag[..., :pairs] * t  # half the time of a complex exp
        head = size[..., :pairs]
        re, im = head * torch.cos(angle), head * torch.sin(angle)
        return torch.cat([re, size[..., pairs:], im], -1) if self.paired else torch.complex(re, im)

    def _modal_minus_one(self, lam: Tensor, t: Tensor) -> Tensor:
        """The same for exp(lam t) - 1."""
        x = torch.expm1(lam * t)
        return torch.cat([x.real, x.imag[..., : self._n_pairs]], -1) if self.paired else x

    def _sums(self, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """g^T conj(E) (S, R, n, q), where E - 1 stands for E at short times; g^T conj(t E); g at short times
        (S, R, n).
        """
        E, gT = self._exponentials(t), g.mT
        scaled = gT @ (t[..., None] * E).conj_physical()
        # at times so short that all modes are near 1, exp - 1: differences are the same, and free of cancellation
        short = t.abs() * self._fastest < 1
        system, r, i = short.nonzero(as_tuple=True)
        if not len(system):
            return gT @ E.conj_physical(), scaled, g.new_zeros(g.shape[:2] + g.shape[3:])
        self._last = None  # E is changed in place
        E[system, r, i] = self._modal_minus_one(self.lam[system], t[system, r, i][:, None])
        return gT @ E.conj_physical(), scaled, (gT @ short[..., None].to(g.dtype))[..., 0]

    def _of_conjugates(self, sums: Tensor) -> Tensor:
        """Sums of g conj(x), (S, R, n, p), from those with the columns of E."""
        if not self.paired:
            return sums
        p = self.lam.shape[-1]
        out = sums[..., :p].to(self.lam.dtype)
        out.imag[..., : self._n_pairs] = -sums[..., p:]
        return out

    # ---- n x n -----------------------------------------------------------------------------------------------------

    def _coefficients(self, z0: Tensor) -> Tensor:
        """c = V^-1 z0, (S, R, p)."""
        return z0.to(self.V_inv.dtype) @ self.V_inv.mT

    def _synthesis(self, c: Tensor) -> Tensor:
        """K (S, R, q, n): E K are the states with coefficients c (S, R, p)."""
        K = c[..., None] * self._weighted.mT[:, None]
        return torch.cat([K.real, -K.imag[..., : self._n_pairs, :]], -2) if self.paired else K

    def _assembled(
        self, c: Tensor, t: Tensor, g: Tensor, Q: Tensor, scaled: Tensor, at_short: Tensor
    ) -> tuple[Tensor, Tensor]:
        """S and a from the sums over time, Q (S, R, n, p) of g conj(x) and `scaled` of t g conj(x)."""
        VH, dual = self._weighted.mT.conj_physical(), self.V_inv.mT.conj_physical()
        diagonal = (VH[:, None] * Q.mT).sum(-1)  # Q_jj, (S, R, p)
        total = diagonal + at_short.to(VH.dtype) @ VH.mT
        near, inverse_gap = self._near_pairs(t)
        cH = self._all(c).conj_physical()
        right = (self._all(Q) * cH[:, :, None]).sum(1)  # (S, n, p or 2p)
        M = (diagonal.mT @ cH - VH @ right) * inverse_gap
        own = (VH[:, None] * scaled.mT).sum(-1)  # D_jj(t) = t exp(lam_j t)
        M[..., : own.shape[-1]].diagonal(dim1=-2, dim2=-1).copy_((own * cH[..., : own.shape[-1]]).sum(1))
        if near is not None:
            self._add_close_pairs(M, near, cH, t, g)
        S, a = dual @ (M @ self._all(self.V).mT.conj_physical()), total @ dual.mT
        return (S.real, a.real) if self.paired else (S, a)

    def _near_pairs(self, t: Tensor) -> tuple[Tensor | None, Tensor]:
        """Mask of the near pairs off the diagonal, if there are any, and 1 / conj(lam_j - lam_k), 0 for them."""
        gap, near, inverse = self._pairs
        size = torch.where(inverse != 0, gap, torch.inf)
        t_max = t.abs().amax((1, 2))[:, None, None]
        also = size * t_max < NEAR
        if bool(also.any()):
            return near | also, torch.where(also, 0, inverse)
        return (near if self._any_near else None), inverse

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(S, p, p), and (S, p, 2p) where conjugates were left out: |lam_j - lam_k|, which of them are near at all
        times, and 1 / conj(lam_j - lam_k), 0 for near ones, on the diagonal and where there is no such mode.
        """
        every, p = self._all(self.lam), self.lam.shape[-1]
        difference = self.lam[:, :, None] - every[:, None]
        gap, size = difference.abs(), self.lam.abs()
        exists = (self.weight > 0)[:, :, None] & torch.cat([self.weight > 0, self.weight > 1], -1)[:, None, : every.shape[-1]]
        exists[..., :p].diagonal(dim1=-2, dim2=-1).fill_(False)
        larger = torch.maximum(size[:, :, None], self._all(size)[:, None])
        near = exists & ((gap < NEAR_RELATIVE * larger) | (gap < TINY))
        inverse = torch.where(exists & ~near, 1 / torch.where(exists & ~near, difference, 1).conj_physical(), 0)
        return gap, near, inverse

    @cached_property
    def _any_near(self) -> bool:
        return bool(self._pairs[1].any())

    def _add_close_pairs(self, M: Tensor, near: Tensor, cH: Tensor, t: Tensor, g: Tensor) -> None:
        """Entries of M for near pairs: R T work a pair, as many at a time as there are modes."""
        every = self._all(self.lam)
        ghat = g.to(self.lam.dtype) @ self._weighted[:, None].conj_physical()  # (S, R, T, p)
        for pairs in near.nonzero().split(self.lam.shape[-1]):
            s, j, k = pairs.unbind(-1)
            times = t[s]  # (P, R, T)
            x_j, x_k = self.lam[s, j][:, None, None], every[s, k][:, None, None]
            # the larger exponential goes outside, so that neither overflows alone
            swap = _real_part((x_j - x_k) * times) > 0
            w = torch.where(swap, x_k - x_j, x_j - x_k) * times
            D = times * torch.exp(torch.where(swap, x_j, x_k) * times) * _phi1(w)
            M[s, j, k] = ((ghat[s, :, :, j] * D.conj_physical()).sum(-1) * cH[s, :, k]).sum(-1)

    @cached_property
    def _weighted(self) -> Tensor:
        return self.V * self.weight[:, None] if self.paired else self.V

    @cached_property
    def _n_pairs(self) -> int:
        return int((self.weight == 2).sum(-1).max()) if self.paired else self.lam.shape[-1]

    @cached_property
    def _fastest(self) -> Tensor:
        return self.lam.abs().amax(-1)[:, None, None]

    def _all(self, x: Tensor) -> Tensor:
        """Kept eigenvalues (or columns), then their conjugates."""
        return torch.cat([x, x.conj_physical()], -1) if self.paired else x


def _phi1(w: Tensor) -> Tensor:
    """(exp(w) - 1) / w, 1 at 0."""
    zero = w.abs() < 1e-290  # dividing subnormal complex numbers overflows
    return torch.where(zero, 1, torch.expm1(w) / torch.where(zero, 1, w))


def _real_part(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x
