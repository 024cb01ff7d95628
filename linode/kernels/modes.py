"""exp(Xi t) z0 and its adjoint in an eigenbasis Xi = V diag(lam) V^-1, by divided differences.

Forward is one product of T x n x n, the adjoint two; no division by a small difference of eigenvalues occurs. With
c = V^-1 z0, x_ik = exp(lam_k t_i) and ghat = V^H g, the gradient in the eigenbasis is
    M_jk = conj(c_k) sum_i ghat_ij conj(D_jk(t_i)),   D_jk(t) = (exp(lam_j t) - exp(lam_k t)) / (lam_j - lam_k),
and for well-separated pairs j, k the sum over i comes first: (Q_jj - Q_jk) / conj(lam_j - lam_k), Q = V^H (g^T
conj(x)), where at short times 1 is taken off x, which keeps them exact beside long ones. Close pairs use
t exp(lam_k t) expm1(w) / w, w = (lam_j - lam_k) t, time by time.
For real systems with complex eigenvalues only one of two conjugate modes is computed, and products over time are real.
Sources: Daleckii & Krein (1965); Higham (2008), Functions of Matrices, theorem 3.9 and eq. 10.15-10.17.
Shapes: z0 (S, R, n), t (S, R, T), z and g (S, R, T, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

Gradients = tuple[Tensor, Tensor]  # of Xi and z0
CHUNK_ENTRIES = 2**19  # of F at a time: 4 MiB, which a cache holds
# Pairs of modes with |lam_j - lam_k| t_max below NEAR are subtracted analytically, time by time; so are those whose
# distance is below NEAR_RELATIVE of the eigenvalues themselves, since it may be too small for the short ones of the
# times. Division by the other distances loses at most 1 / NEAR units of rounding.
NEAR, NEAR_RELATIVE = 0.03, 0.01
TINY = 1e-290  # below, dividing subnormal complex numbers overflows


@dataclass(frozen=True)
class Modes:
    """Eigenpairs of S systems: lam (S, e), V (S, n, e), V_inv (S, e, n), all float64 or all complex128.

    is_real: the systems are real. Then, where lam is complex, a system with m conjugate pairs has in its first m places
    the modes with Im lam > 0, in its last m places their conjugates in the same order, and between them the real modes.
    n_pairs: that m where it is the same for all systems; 0 where it is not, or where nothing is a conjugate.
    delicate (S, n_kept, e), on the CPU: None, or True for two modes to be subtracted analytically though their distance
    does not ask for it (see `eigenpairs`).
    on_host: lam on the CPU, where the modes are on another device.
    """

    lam: Tensor
    V: Tensor
    V_inv: Tensor
    is_real: bool
    n_pairs: int = 0
    delicate: Tensor | None = None
    on_host: Tensor | None = None

    @property
    def is_paired(self) -> bool:
        """Whether a real system is given by complex modes."""
        return self.is_real and self.lam.is_complex()

    @property
    def n_kept(self) -> int:
        """Leading modes that stand for all of them, in sums of which only the real part matters."""
        return self.lam.shape[-1] - self.n_pairs

    @cached_property
    def weighted(self) -> Tensor:
        """V of the modes kept, twice where one stands for two, (S, n, n_kept)."""
        if not self.n_pairs:
            return self.V
        weights = torch.ones(self.n_kept, dtype=torch.float64, device="cpu")
        weights[: self.n_pairs] = 2.0
        return self.V[..., : self.n_kept] * weights.to(self.V.device)

    @cached_property
    def radius(self) -> Tensor:
        """The largest |lam|, (S, 1, 1)."""
        return self.lam.abs().amax(-1)[:, None, None]

    @cached_property
    def gaps(self) -> Gaps:
        """Distances of the modes kept from all."""
        return Gaps.of(self.lam if self.on_host is None else self.on_host, self.n_kept, self.delicate, self.lam.device)

    def subset(self, index: Tensor) -> Modes:
        """The modes of some of the systems."""
        delicate, on_host = (None if x is None else x[index.cpu()] for x in (self.delicate, self.on_host))
        lam, V, V_inv = (x[index] for x in (self.lam, self.V, self.V_inv))
        return replace(self, lam=lam, V=V, V_inv=V_inv, delicate=delicate, on_host=on_host)

    def adjoint(self) -> Modes:
        """The modes of Xi^H."""
        if self.is_real:  # whose eigenvalues are the same ones
            return replace(self, V=self.V_inv.mT.contiguous(), V_inv=self.V.mT.contiguous())
        lam, V, V_inv = (x.conj_physical() for x in (self.lam, self.V, self.V_inv))
        on_host = None if self.on_host is None else self.on_host.conj_physical()
        return replace(self, lam=lam, V=V_inv.mT.contiguous(), V_inv=V.mT.contiguous(), on_host=on_host)

    def to(self, device: torch.device) -> Modes:
        """The same on a device, with what follows from the modes alone, computed here on the CPU: one copy for all."""
        if device.type == "cpu":
            return self
        own = [self.lam, self.V, self.V_inv, self.weighted, self.radius, self.gaps.inverse]
        sent = torch.cat([x.flatten() for x in own]).to(device).split([x.numel() for x in own])
        lam, V, V_inv, weighted, radius, inverse = (x.reshape(y.shape) for x, y in zip(sent, own))
        modes = replace(self, lam=lam, V=V, V_inv=V_inv, on_host=self.lam)
        vars(modes).update(weighted=weighted, radius=radius.real, gaps=replace(self.gaps, inverse=inverse))
        return modes

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """z (S, R, T, n)."""
        K = self._synthesis(self.coefficients(z0))
        return _joined([self.functions(part).mT @ K for part in self._chunks(t)])

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        """Gradients S (S, n, n) and a (S, R, n) of sum Re<g, z>."""
        return self._gradients(self.coefficients(z0), t, g, [(part, None) for part in self._chunks(t)])

    def record(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
        """The states, and what gives the gradients from g; it keeps the exponentials where they are not many."""
        chunks = self._chunks(t)
        if len(chunks) > 1:
            return self.evaluate(z0, t), lambda g: self.vjp(z0, t, g)
        c, F = self.coefficients(z0), self.functions(chunks[0])
        return F.mT @ self._synthesis(c), lambda g: self._gradients(c, t, g, [(chunks[0], F)])

    # ---- over time -------------------------------------------------------------------------------------------------

    def _chunks(self, t: Tensor) -> list[Tensor]:
        """Times a share at a time, so that what belongs to them stays in the cache; once where trajectories share
        them.
        """
        if t.shape[1] > 1 and t.stride(1) == 0:
            t = t[:, :1]
        size = max(1, CHUNK_ENTRIES // max(1, t.shape[0] * t.shape[1] * self.V.shape[1]))
        return list(t.split(size, 2))

    def functions(self, t: Tensor) -> Tensor:
        """F (S, R, f, T): exp(lam t); of paired modes the rows exp(alpha t) cos(omega t) of the modes kept, then the
        rows exp(alpha t) sin(omega t), lam = alpha + i omega.
        """
        lam, times = self.lam[:, None, : self.n_kept, None], t[:, :, None]
        if not lam.is_complex():
            return torch.exp(lam * times)
        size, angle = torch.exp(lam.real * times), lam.imag * times  # half of the time of the complex function
        cosine, sine = size * torch.cos(angle), size.mul_(torch.sin(angle))
        return torch.cat([cosine, sine], 2) if self.is_paired else torch.complex(cosine, sine)

    def _sums(self, t: Tensor, F: Tensor, g: Tensor) -> Tensor:
        """Sums over time of conj(F) g, of t conj(F) g, and of g at short times, (S, R, 2 f + 1, n); in the first of
        them F has 1 taken off every mode at these times.

        Short are times at which all modes are near 1: differences of exp - 1 are those of exp, free of cancellation.
        """
        f, p = F.shape[2], self.n_kept
        short = (t.abs() * self.radius < 1)[:, :, None]
        lam, times = self.lam[:, None, :p, None], t[:, :, None]
        weights = torch.empty(*F.shape[:2], 2 * f + 1, F.shape[3], dtype=F.dtype, device=F.device)
        weights[:, :, :f] = F
        torch.mul(F, times, out=weights[:, :, f:-1])
        # elsewhere than on a CPU it takes longer to wait for the indices of short times than to compute all
        i = short.any(0).any(0)[0].nonzero()[:, 0] if t.is_cpu else slice(None)
        own = times[..., i]
        less = less_one(lam, own) if self.is_paired else torch.expm1(lam * own)  # sines are near 0 as they are
        weights[:, :, :p, i] = torch.where(short[..., i], less, F[:, :, :p, i])
        weights[:, :, -1:] = short
        return weights.conj_physical() @ g

    # ---- n x n -----------------------------------------------------------------------------------------------------

    def coefficients(self, z0: Tensor) -> Tensor:
        """c = V^-1 z0, (S, R, e)."""
        return z0.to(self.V_inv.dtype) @ self.V_inv.mT

    def _synthesis(self, c: Tensor) -> Tensor:
        """K (S, R, f, n): F^T K are the states with coefficients c (S, R, e)."""
        K = c[..., : self.n_kept, None] * self.weighted.mT[:, None]
        return torch.cat([K.real, -K.imag], 2) if self.is_paired else K

    def _gradients(self, c: Tensor, t: Tensor, g: Tensor, chunks: list[tuple[Tensor, Tensor | None]]) -> Gradients:
        """Of trajectories with coefficients c; chunks: times, a share at a time, with F or None for each."""
        total: Tensor | None = None
        for (part, F), h in zip(chunks, g.split(max(1, chunks[0][0].shape[2]), 2)):
            sums = self._sums(part, self.functions(part) if F is None else F, h)
            total = sums if total is None else total + sums
        if total is None:
            raise ValueError("no times")
        return self._assembled(c, t, g, total)

    def _assembled(self, c: Tensor, t: Tensor, g: Tensor, sums: Tensor) -> Gradients:
        """S and a from the sums over time (S, R, 2 f + 1, n)."""
        p, cH = self.n_kept, c.conj_physical()
        VH, dual = self.weighted.conj_physical().mT, self.V_inv[:, :p].conj_physical().mT
        Q, of_t_g = sums[:, :, :-1].chunk(2, 2)  # of conj(x) g, and of t conj(x) g
        if self.is_paired:  # rows of cosines and sines to modes
            Q, of_t_g = (torch.complex(x[:, :, :p], -x[:, :, p:]) for x in (Q, of_t_g))
        diagonal, own = ((VH[:, None] * x).sum(-1) for x in (Q, of_t_g))  # (S, R, p): Q_jj, and of D_jj(t) = t x_j
        a = (diagonal + sums[:, :, -1].to(VH.dtype) @ VH.mT) @ dual.mT
        if self.n_pairs:
            Q = torch.cat([Q, Q[:, :, : self.n_pairs].conj_physical()], 2)
        inverse_gap, near = self.gaps.at(t)
        right = (cH[..., None] * Q).sum(1)  # (S, e, n)
        M = (diagonal.mT @ cH - VH @ right.mT) * inverse_gap
        M.diagonal(dim1=-2, dim2=-1).copy_((own * cH[..., :p]).sum(1))
        if near is not None:
            _add_close_pairs(M, near, self.lam, VH, cH, t, g)
        S = dual @ (M @ self.V.conj_physical().mT)
        return (S.real.contiguous(), a.real.contiguous()) if self.is_paired else (S, a)


def less_one(lam: Tensor, t: Tensor) -> Tensor:
    """Re exp(lam t) - 1, free of cancellation where lam t is small."""
    growth = torch.expm1(lam.real * t)
    return growth.addcmul(torch.sin(0.5 * lam.imag * t).square(), growth + 1, value=-2.0)  # 1 - cos(x) = 2 sin(x / 2)^2


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


# ---- distances of eigenvalues ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaps:
    """Distances of the leading p modes from all: |lam_j - lam_k| (S, p, e), infinite where a pair is not divided by its
    distance, the smallest of them (S,), and the mask of the pairs that are near whatever the times, or None, all on the
    CPU; the inverse of conj(lam_j - lam_k), 0 where it is not used, on the device of the modes.
    """

    size: Tensor
    smallest: Tensor
    near: Tensor | None
    inverse: Tensor

    @classmethod
    def of(cls, lam: Tensor, p: int, delicate: Tensor | None, device: torch.device) -> Gaps:
        """Of modes lam (S, e), on the CPU; delicate as in `Modes`."""
        difference, magnitude = (lam[:, :p, None] - lam[:, None]).conj_physical(), lam.abs()
        is_self = torch.eye(p, lam.shape[-1], dtype=torch.bool, device="cpu")
        size = difference.abs().masked_fill(is_self, torch.inf)
        near = size <= NEAR_RELATIVE * torch.maximum(magnitude[:, :p, None], magnitude[:, None])
        if delicate is not None:
            near = near | (delicate & ~is_self)
        unused = near | is_self
        size = size.masked_fill(unused, torch.inf)
        inverse = torch.where(unused, 0, 1 / torch.where(unused, 1, difference))
        return cls(size, size.amin((1, 2)), near if bool(near.any()) else None, inverse.to(device))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """For times t (S, R, T): the inverse, 0 for near modes, and the mask of the near modes, on the CPU, or None."""
        t_max = t.abs().amax((1, 2)).cpu()
        if bool((self.smallest * t_max >= NEAR).all()):
            return self.inverse, self.near
        near = self.size * t_max[:, None, None] < NEAR
        inverse = torch.where(near.to(self.inverse.device), 0, self.inverse)
        return inverse, near if self.near is None else near | self.near


def _add_close_pairs(M: Tensor, near: Tensor, lam: Tensor, VH: Tensor, cH: Tensor, t: Tensor, g: Tensor) -> None:
    """Entries of M (S, p, e) for near modes (near: on the CPU), R T work for two modes."""
    system, first, second = near.nonzero(as_tuple=True)
    which, own = system.unique(return_inverse=True)
    modes, row = first.unique(return_inverse=True)
    indices = (which, modes, system, first, second, own, row)
    which, modes, *pairs = torch.cat(indices).to(M.device).split([len(index) for index in indices])  # one copy
    ghat = g[which].to(lam.dtype) @ VH[which][:, None, modes].mT  # (systems, R, T, modes)
    n_pairs = max(1, CHUNK_ENTRIES // (t.shape[1] * t.shape[2]))
    for s, j, k, i, m in zip(*(index.split(n_pairs) for index in pairs)):
        times = t[s]  # (P, R, T)
        x_j, x_k = lam[s, j][:, None, None], lam[s, k][:, None, None]
        # the larger exponential is the factor, so that neither overflows alone
        w = (x_j - x_k) * times
        swap = w.real > 0
        D = times * torch.exp(torch.where(swap, x_j, x_k) * times) * _phi1(torch.where(swap, -w, w))
        M[s, j, k] = ((ghat[i, :, :, m] * D.conj_physical()).sum(-1) * cH[s, :, k]).sum(-1)


def _phi1(w: Tensor) -> Tensor:
    """(exp(w) - 1) / w, 1 at 0."""
    zero = w.abs() < TINY
    return (torch.expm1(w) / w.masked_fill(zero, 1)).masked_fill(zero, 1)
