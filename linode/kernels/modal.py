"""exp(Xi t) z0 and its adjoint in an eigenbasis Xi = V diag(lam) V^-1, by divided differences.

For real Xi one of each conjugate pair is kept and the products over time are real: z = Re(sum_j w_j c_j exp(lam_j t)
v_j), w = 2 for a pair. Forward is one product of T x n x n, the adjoint two more; nothing is ever divided by a small
eigenvalue gap.
Derivation: with x_ik = exp(lam_k t_i) and ghat = V^H g, the gradient in the eigenbasis is
    M_jk = conj(c_k) sum_i ghat_ij conj(D_jk(t_i)),   D_jk(t) = (exp(lam_j t) - exp(lam_k t)) / (lam_j - lam_k),
and for well-separated pairs the sum over i comes first: (Q_jj - Q_jk) / conj(lam_j - lam_k), Q = ghat^T conj(x), where
at short times 1 is taken off x, which keeps them exact beside long ones. Close pairs use
t exp(lam_k t) expm1(w) / w, w = (lam_j - lam_k) t, time by time.
Sources: Daleckii & Krein (1965); Higham (2008), Functions of Matrices, theorem 3.9 and eq. 10.15-10.17.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Pairs with |lam_j - lam_k| t_max below NEAR are subtracted analytically, time by time; so are those with a gap below
# NEAR_RELATIVE beside the eigenvalues themselves, since some times may be too short to resolve it. Both bound the
# digits that are lost otherwise: at most 1 / NEAR units of rounding.
NEAR, NEAR_RELATIVE = 0.03, 0.01


@dataclass
class Modes:
    """Eigenpairs kept: lam (S, p), V (S, n, p), V_inv (S, p, n), weight (S, p): 2 for a pair, 0 for padding.

    `paired`: real Xi with complex lam; else lam, V and the trajectories have one dtype.
    """

    lam: Tensor
    V: Tensor
    V_inv: Tensor
    weight: Tensor
    paired: bool

    def subset(self, index: Tensor) -> Modes:
        return Modes(self.lam[index], self.V[index], self.V_inv[index], self.weight[index], self.paired)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        """(S, R, T, n) for z0 (S, R, n), t (S, R, T)."""
        e = self._coefficients(z0)[:, :, None] * self._exponentials(t)
        return self._real(e) @ self._synthesis()[:, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients S (S, n, n), a (S, R, n) and, where wanted, with respect to t (S, R, T)."""
        c = self._coefficients(z0)
        x = self._exponentials(t)  # (S, R, T, p)
        ghat = self._complex(g @ self._synthesis()[:, None].mT.conj_physical())  # (S, R, T, p)
        dt = None
        if want_t:
            dt = _real_part((ghat.conj_physical() * (self.lam[:, None, None] * c[:, :, None]) * x).sum(-1))
        own = (ghat * (x * t[..., None]).conj_physical()).sum(2)  # (S, R, p): D_jj(t) = t exp(lam_j t)
        near = self._near_pairs(t)
        close = self._close_pairs(near, ghat, t)

        # at times so short that all modes are near 1, exp - 1: differences are the same, and free of cancellation
        short = t.abs() * self.lam.abs().amax(-1)[:, None, None] < 1
        if bool(short.any()):
            w = t[..., None] * self.lam[:, None, None]
            x[short] = torch.expm1(w[short])
        Q = self._products(ghat, x)  # (S, R, p, p or 2p)
        diagonal = Q.diagonal(dim1=-2, dim2=-1)
        r = diagonal + (ghat * short[..., None]).sum(2)
        a = (self.V_inv.mT.conj_physical()[:, None] @ r[..., None])[..., 0]

        gap = torch.where(near, 1, self._gaps())
        M = torch.where(near[:, None], 0, (diagonal[..., None] - Q) / gap.conj_physical()[:, None])
        M[..., : own.shape[-1]].diagonal(dim1=-2, dim2=-1).copy_(own)
        for s, j, k, value in close:
            M[s, :, j, k] = value
        M = (M * self._all(c).conj_physical()[:, :, None]).sum(1)
        if self.paired:  # a real eigenvalue has no conjugate partner to sum over
            M = M * torch.cat([torch.ones_like(self.weight), (self.weight - 1).clamp(min=0)], -1)[:, None]
        S = self.V_inv.mT.conj_physical() @ M @ self._all(self.V).mT.conj_physical()
        return (S.real, a.real, dt) if self.paired else (S, a, dt)

    def _exponentials(self, t: Tensor) -> Tensor:
        """exp(lam t), (S, R, T, p)."""
        times = t[..., None]
        if not self.lam.is_complex():
            return torch.exp(self.lam[:, None, None] * times)
        size = torch.exp(self.lam.real[:, None, None] * times)
        angle = self.lam.imag[:, None, None] * times  # two real functions are half the time of a complex exp
        return torch.view_as_complex(torch.stack([size * torch.cos(angle), size * torch.sin(angle)], -1))

    def _gaps(self) -> Tensor:
        """lam_j - lam_k, (S, p, p), then lam_j - conj(lam_k) behind, (S, p, 2p), where conjugates were left out."""
        return self.lam[:, :, None] - self._all(self.lam)[:, None]

    def _near_pairs(self, t: Tensor) -> Tensor:
        size = self.lam.abs()
        larger = torch.maximum(size[:, :, None], self._all(size)[:, None])
        gap = self._gaps().abs()
        return (gap * t.abs().amax((1, 2))[:, None, None] < NEAR) | (gap < NEAR_RELATIVE * larger)

    def _close_pairs(self, near: Tensor, ghat: Tensor, t: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Indices and sums of near pairs off the diagonal: R T work a pair, as many at a time as there are modes."""
        p = self.lam.shape[-1]
        off = near.clone()
        off[..., :p].diagonal(dim1=-2, dim2=-1).fill_(False)
        out = []
        if bool(off.any()):
            every = self._all(self.lam)
            for pairs in off.nonzero().split(p):
                s, j, k = pairs.unbind(-1)
                times = t[s]  # (P, R, T)
                x_j, x_k = self.lam[s, j][:, None, None], every[s, k][:, None, None]
                # the larger exponential goes outside, so that neither overflows alone
                swap = _real_part((x_j - x_k) * times) > 0
                w = torch.where(swap, x_k - x_j, x_j - x_k) * times
                D = times * torch.exp(torch.where(swap, x_j, x_k) * times) * _phi1(w)
                out.append((s, j, k, (ghat[s, :, :, j] * D.conj_physical()).sum(-1)))
        return out

    def _coefficients(self, z0: Tensor) -> Tensor:
        """c = V^-1 z0, (S, R, p)."""
        return z0.to(self.V_inv.dtype) @ self.V_inv.mT

    def _synthesis(self) -> Tensor:
        """What maps modal values to states, (S, p, n), or (S, 2p, n) from real and imaginary parts interleaved."""
        W = (self.V * self.weight[:, None]).mT
        return torch.stack([W.real, -W.imag], 2).flatten(1, 2) if self.paired else W

    def _real(self, e: Tensor) -> Tensor:
        return torch.view_as_real(e).flatten(-2) if self.paired else e

    def _complex(self, e: Tensor) -> Tensor:
        return torch.view_as_complex(e.unflatten(-1, (-1, 2))) if self.paired else e

    def _all(self, x: Tensor) -> Tensor:
        """Kept eigenvalues (or columns), then their conjugates."""
        return torch.cat([x, x.conj_physical()], -1) if self.paired else x

    def _products(self, ghat: Tensor, x: Tensor) -> Tensor:
        """Q_jk = sum_i ghat_ij conj(x_ik), then the same with the conjugates of x: one real product over time."""
        if not self.paired:
            return ghat.mT @ x.conj_physical()
        G, X = self._real(ghat), self._real(x)
        P = (G.mT @ X).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (S, R, p, 2, p, 2)
        rr, ri, ir, ii = P[..., 0, :, 0], P[..., 0, :, 1], P[..., 1, :, 0], P[..., 1, :, 1]
        return torch.cat([torch.complex(rr + ii, ir - ri), torch.complex(rr - ii, ir + ri)], -1)


def _phi1(w: Tensor) -> Tensor:
    """(exp(w) - 1) / w, 1 at 0."""
    zero = w.abs() < 1e-290  # dividing subnormal complex numbers overflows
    return torch.where(zero, 1, torch.expm1(w) / torch.where(zero, 1, w))


def _real_part(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x
