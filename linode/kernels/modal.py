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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import as_type, conj, copy, empty, equal, is_complex, namespace, nonzero, of_kind, real, split

# Pairs with |lam_j - lam_k| t_max below NEAR are subtracted analytically, time by time; so are those with a gap below
# NEAR_RELATIVE beside the eigenvalues themselves, since some times may be too short to resolve it. Both bound the
# digits that are lost otherwise: at most 1 / NEAR units of rounding.
NEAR, NEAR_RELATIVE = 0.03, 0.01
CHUNK_ENTRIES = 2**20  # of E at a time


@dataclass
class Modes:
    """Eigenpairs kept: lam (S, p), V (S, n, p), V_inv (S, p, n), weight (S, p): 2 for a pair, 0 for padding.

    n_pairs: how many of the leading modes have conjugates that were left out, in any system; Xi is real then, and so
    are the trajectories. Where it is 0, lam, V and the trajectories have one dtype. NumPy arrays or tensors, all of one
    kind; z0 is of that kind too. t and g may be tensors beside arrays: where times are many and n is small.
    """

    lam: Any
    V: Any
    V_inv: Any
    weight: Any
    n_pairs: int
    _kept: list[tuple[Any, Any]] = field(default_factory=list, repr=False)  # times and E^T, for the gradient

    def __post_init__(self) -> None:
        self.xp = namespace(self.lam)
        self.n_rows = self.lam.shape[-1] + self.n_pairs
        self.weighted = self.V * self.weight[:, None] if self.n_pairs else self.V

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "xp": None, "_kept": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, xp=namespace(state["lam"]))

    def subset(self, index: Any) -> Modes:
        return Modes(self.lam[index], self.V[index], self.V_inv[index], self.weight[index], self.n_pairs)

    def tensors(self, device: torch.device) -> Modes:
        """The same as tensors; from NumPy arrays."""
        host = (np.require(x, requirements="W") for x in (self.lam, self.V, self.V_inv, self.weight))
        lam, V, V_inv, weight = (torch.from_numpy(x).to(device) for x in host)
        return Modes(lam, V, V_inv, weight, self.n_pairs)

    def evaluate(self, z0: Any, t: Any) -> Any:
        """(S, R, T, n) for z0 (S, R, n), t (S, R, T)."""
        K = of_kind(self._synthesis(self._coefficients(z0)), t)
        parts = [self._states(part, K) for part in self._chunks(t)]
        return parts[0] if len(parts) == 1 else namespace(t).concatenate(parts, axis=2)

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool) -> tuple[Any, Any, Any]:
        """Gradients S (S, n, n), a (S, R, n) and, where wanted, with respect to t (S, R, T)."""
        c = self._coefficients(z0)
        chunks = self._chunks(t)
        cotangents = split(g, chunks[0].shape[2], 2) if len(chunks) > 1 else [g]
        dt = None
        if want_t:
            K = of_kind(self._synthesis(c * self.lam[:, None]), t)  # of Xi z
            rates = [(conj(h) * self._states(part, K)).sum(-1) for part, h in zip(chunks, cotangents)]
            dt = real(namespace(t).concatenate(rates, axis=2))
        parts = [self._sums(part, h) for part, h in zip(chunks, cotangents)]
        sums, at_short = parts[0] if len(parts) == 1 else map(sum, zip(*parts))
        sums, at_short = of_kind(sums, c), of_kind(at_short, c)
        S, a = self._assembled(c, t, g, self._of_conjugates(sums), at_short)
        return S, a, dt

    # ---- over time -------------------------------------------------------------------------------------------------

    def _chunks(self, t: Any) -> list[Any]:
        """Times a share at a time, so that what belongs to them stays in the cache; once where trajectories share
        them.
        """
        if t.shape[1] > 1 and (t.stride(1) if isinstance(t, Tensor) else t.strides[1]) == 0:
            t = t[:, :1]
        size = max(1, CHUNK_ENTRIES // (t.shape[0] * t.shape[1] * self.n_rows))
        return [t] if t.shape[2] <= size else split(t, size, 2)

    def _states(self, t: Any, K: Any) -> Any:
        """E K; the exponentials are kept for the gradient that may follow, where they are not many."""
        F = self._exponentials(t)
        z = F[:, :, 0].mT @ K
        if t.shape[0] * t.shape[1] * t.shape[2] * self.n_rows <= CHUNK_ENTRIES:
            self._kept[:] = [(copy(t), F)]
        return z

    def _exponentials(self, t: Any) -> Any:
        """(S, R, 2, q, T): E^T, and room for t E^T. The caller's own: what was kept is taken, so that no other thread
        has it too.
        """
        try:
            times, F = self._kept.pop()
        except IndexError:
            return self._modal(t)
        return F if equal(times, t) else self._modal(t)

    def _modal(self, t: Any) -> Any:
        """exp(lam t), modes in rows; for pairs the real parts of all modes, then the imaginary parts of the pairs.

        By two real functions, which take half the time of a complex exp.
        """
        xp, lam, times = namespace(t), of_kind(self.lam, t)[:, None, :, None], t[:, :, None]
        (S, R, T), p, pairs = t.shape, self.lam.shape[-1], self.n_pairs
        F = empty((S, R, 2, p + pairs, T), t if pairs else lam)
        if pairs:
            re, head, im = F[:, :, 0, :p], F[:, :, 0, :pairs], F[:, :, 0, p:]
            xp.exp(xp.multiply(lam.real, times, out=re), out=re)
            angle = lam.imag[:, :, :pairs] * times
            xp.multiply(xp.sin(angle, out=im), head, out=im)
            xp.multiply(xp.cos(angle, out=angle), head, out=head)
        elif is_complex(lam):
            size, angle = xp.exp(lam.real * times), lam.imag * times
            F.real[:, :, 0], F.imag[:, :, 0] = size * xp.cos(angle), size * xp.sin(angle)
        else:
            xp.exp(xp.multiply(lam, times, out=F[:, :, 0]), out=F[:, :, 0])
        return F

    def _sums(self, t: Any, g: Any) -> tuple[Any, Any]:
        """conj(E)^T g and conj(t E)^T g (S, R, 2, q, n), E - 1 standing for the first E at short times; then g at short
        times (S, R, 1, n).
        """
        xp, F, lam = namespace(t), self._exponentials(t), of_kind(self.lam, t)
        xp.multiply(F[:, :, 0], t[:, :, None], out=F[:, :, 1])
        # at times so short that all modes are near 1, exp - 1: differences are the same, and free of cancellation
        short = abs(t) * xp.amax(abs(lam), -1)[:, None, None] < 1
        system, r, i = nonzero(short)
        if len(system):
            x = xp.expm1(lam[system] * t[system, r, i][:, None])
            F[system, r, 0, :, i] = xp.concatenate((x.real, x.imag[:, : self.n_pairs]), axis=-1) if self.n_pairs else x
        S, R, _, q, T = F.shape
        sums = conj(F.reshape(S, R, 2 * q, T)) @ g
        return sums.reshape(S, g.shape[1], 2, q, -1), as_type(short, g)[:, :, None] @ g

    def _of_conjugates(self, sums: Any) -> Any:
        """Sums of g conj(x), (S, R, 2, p, n), from those with the rows of E^T."""
        if not self.n_pairs:
            return sums
        p = self.lam.shape[-1]
        out = as_type(sums[:, :, :, :p], self.lam)
        out.imag[:, :, :, : self.n_pairs] = -sums[:, :, :, p:]
        return out

    # ---- n x n -----------------------------------------------------------------------------------------------------

    def _coefficients(self, z0: Any) -> Any:
        """c = V^-1 z0, (S, R, p)."""
        return as_type(z0, self.V_inv) @ self.V_inv.mT

    def _synthesis(self, c: Any) -> Any:
        """K (S, R, q, n): E K are the states with coefficients c (S, R, p)."""
        K = c[..., None] * self.weighted.mT[:, None]
        return self.xp.concatenate((K.real, -K.imag[:, :, : self.n_pairs]), axis=2) if self.n_pairs else K

    def _assembled(self, c: Any, t: Any, g: Any, sums: Any, at_short: Any) -> tuple[Any, Any]:
        """S and a from the sums over time (S, R, 2, p, n): of conj(x) g, and of t conj(x) g."""
        VH, dual, p = conj(self.weighted).mT, conj(self.V_inv).mT, c.shape[-1]
        diagonals = (VH[:, None, None] * sums).sum(-1)  # (S, R, 2, p): Q_jj, and D_jj(t) = t exp(lam_j t)
        diagonal, own = diagonals[:, :, 0], diagonals[:, :, 1]
        a = (diagonal + (as_type(at_short, VH) @ VH.mT[:, None])[:, :, 0]) @ dual.mT
        inverse_gap, near = self._gaps(t)
        cH = conj(self._all(c, -1))
        right = (cH[..., None] * self._all(sums[:, :, 0], -2)).sum(1)  # (S, q, n)
        M = (diagonal.mT @ cH - VH @ right.mT) * inverse_gap
        j = self.xp.arange(p)
        M[:, j, j] = (own * cH[..., :p]).sum(1)
        if near is not None:
            self._add_close_pairs(M, near, cH, t, g)
        S = dual @ (M @ conj(self._all(self.V, -1)).mT)
        return (S.real, a.real) if self.n_pairs else (S, a)

    def _gaps(self, t: Any) -> tuple[Any, Any]:
        """1 / conj(lam_j - lam_k), (S, p, q), conjugates of the pairs behind; 0 for near pairs and on the diagonal.
        And the mask of the near pairs off the diagonal, or None.
        """
        xp, lam, p = self.xp, self.lam, self.lam.shape[-1]
        every = self._all(lam, -1)
        difference = conj(lam[:, :, None] - every[:, None])
        gap, size = abs(difference), abs(every)
        t_max = of_kind(namespace(t).amax(abs(t), (1, 2)), lam)[:, None, None]
        far = (gap * t_max >= NEAR) & (gap >= NEAR_RELATIVE * xp.maximum(size[:, :p, None], size[:, None]))
        exists = self._exists()
        if exists is not None:
            far &= exists
        inverse = xp.where(far, 1 / xp.where(far, difference, 1), 0)
        if exists is None and int(far.sum()) == far.shape[0] * p * (self.n_rows - 1):
            return inverse, None
        near = ~far if exists is None else exists & ~far
        j = xp.arange(p)
        near[:, j, j] = False
        return inverse, near if bool(near.any()) else None

    def _exists(self) -> Any:
        """(S, p, q), where there is a mode j and a mode (or conjugate) k; None where that is everywhere."""
        w = self.weight
        if float(w.sum()) == w.shape[0] * self.n_rows and bool((w > 0).all()):
            return None
        columns = self.xp.concatenate((w > 0, w[:, : self.n_pairs] > 1), axis=-1)
        return (w > 0)[:, :, None] & columns[:, None]

    def _add_close_pairs(self, M: Any, near: Any, cH: Any, t: Any, g: Any) -> None:
        """Entries of M for near pairs: R T work a pair, as many at a time as there are modes."""
        xp, lam, every, weighted, cH = (
            namespace(t),
            *(of_kind(x, t) for x in (self.lam, self._all(self.lam, -1), self.weighted, cH)),
        )
        ghat = as_type(g, lam) @ conj(weighted)[:, None]  # (S, R, T, p)
        size = lam.shape[-1]
        for s, j, k in zip(*(split(of_kind(index, t), size, 0) for index in nonzero(near))):
            times = t[s]  # (P, R, T)
            x_j, x_k = lam[s, j][:, None, None], every[s, k][:, None, None]
            # the larger exponential goes outside, so that neither overflows alone
            swap = real((x_j - x_k) * times) > 0
            w = xp.where(swap, x_k - x_j, x_j - x_k) * times
            D = times * xp.exp(xp.where(swap, x_j, x_k) * times) * _phi1(w)
            value = ((ghat[s, :, :, j] * conj(D)).sum(-1) * cH[s, :, k]).sum(-1)
            M[tuple(of_kind(x, M) for x in (s, j, k))] = of_kind(value, M)

    def _all(self, x: Any, axis: int) -> Any:
        """What belongs to the kept eigenvalues, then to the conjugates that were left out."""
        if not self.n_pairs:
            return x
        head = x[..., : self.n_pairs] if axis == -1 else x[..., : self.n_pairs, :]
        return self.xp.concatenate((x, conj(head)), axis=axis)


def _phi1(w: Any) -> Any:
    """(exp(w) - 1) / w, 1 at 0."""
    xp = namespace(w)
    zero = abs(w) < 1e-290  # dividing subnormal complex numbers overflows
    return xp.where(zero, 1, xp.expm1(w) / xp.where(zero, 1, w))
