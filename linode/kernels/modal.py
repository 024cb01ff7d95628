"""exp(Xi t) z0 and its adjoint in an eigenbasis Xi = V diag(lam) V^-1, by divided differences.

For real Xi one of each conjugate pair is kept and the products over time are real: z = Re(sum_j w_j c_j exp(lam_j t) v_j), w = 2 for a
pair. Forward is one product of T x n x n, the adjoint two more; nothing is ever divided by a small eigenvalue gap.
Derivation: with x_ik = exp(lam_k t_i) and ghat = V^H g, the gradient in the eigenbasis is
    M_jk = conj(c_k) sum_i ghat_ij conj(D_jk(t_i)),   D_jk(t) = (exp(lam_j t) - exp(lam_k t)) / (lam_j - lam_k),
and for |lam_j - lam_k| t_max >= 1 the sum over i comes first: (Q_jj - Q_jk) / conj(lam_j - lam_k), Q = ghat^T conj(x), where at
short times 1 is taken off x, which keeps them exact beside long ones. Closer pairs use t exp(y t) expm1((x-y) t) / ((x-y) t), time by time.
Sources: Daleckii & Krein (1965); Higham (2008), Functions of Matrices, theorem 3.9 and eq. 10.15-10.17.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 1.0  # |lam_j - lam_k| t_max below which the two exponentials are subtracted analytically, time by time;
NEAR_RELATIVE = 1e-2  # so too where the gap is this small beside the eigenvalues: some times may be too short to resolve it


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
        e = self._coefficients(z0)[:, :, None] * torch.exp(t[..., None] * self.lam[:, None, None])
        return self._real(e) @ self._synthesis()[:, None]

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor, want_t: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients S (S, n, n), a (S, R, n) and, where wanted, with respect to t (S, R, T)."""
        lam, c = self.lam[:, None, None], self._coefficients(z0)
        n_systems, _, n_times = t.shape
        w = t[..., None] * lam
        x = torch.exp(w)  # (S, R, T, p)
        synthesis = self._synthesis()[:, None]
        ghat = self._complex(g @ synthesis.mH)  # (S, R, T, p)

        r = (ghat * x.conj()).sum(2)  # (S, R, p)
        a = (self.V_inv.mH[:, None] @ r[..., None])[..., 0]
        dt = None
        if want_t:
            dt = (ghat.conj() * (lam * c[:, :, None]) * x).sum(-1)
            dt = dt.real if dt.is_complex() else dt

        every = self._all(self.lam)
        gap = self.lam[:, :, None] - every[:, None]  # (S, p, p or 2p)
        t_max = t.abs().amax((1, 2)) if n_times else t.new_zeros(n_systems)
        larger = torch.maximum(self.lam.abs()[:, :, None], every.abs()[:, None])
        near = (gap.abs() * t_max[:, None, None] < NEAR) | (gap.abs() < NEAR_RELATIVE * larger)
        Q = self._products(ghat, _less_one_where_short(w, x))  # (S, R, p, p or 2p)
        diagonal = Q.diagonal(dim1=-2, dim2=-1)[..., None]
        safe = torch.where(near, torch.ones_like(gap), gap)
        M = torch.where(near[:, None], 0, (diagonal - Q) / safe.conj()[:, None])
        self._add_near(M, near, ghat, t, x)
        M = (M * self._all(c).conj()[:, :, None]).sum(1)
        if self.paired:  # a real eigenvalue has no conjugate partner to sum over
            M = M * torch.cat([torch.ones_like(self.weight), (self.weight - 1).clamp(min=0)], -1)[:, None]
        S = self.V_inv.mH @ M @ self._all(self.V).mH
        return (S.real, a.real, dt) if self.paired else (S, a, dt)

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
        return torch.cat([x, x.conj()], -1) if self.paired else x

    def _products(self, ghat: Tensor, x: Tensor) -> Tensor:
        """Q_jk = sum_i ghat_ij conj(x_ik), then the same with the conjugates of x: one real product over time."""
        if not self.paired:
            return ghat.mT @ x.conj()
        G, X = self._real(ghat), self._real(x)
        P = (G.mT @ X).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (S, R, p, 2, p, 2)
        rr, ri, ir, ii = P[..., 0, :, 0], P[..., 0, :, 1], P[..., 1, :, 0], P[..., 1, :, 1]
        return torch.cat([torch.complex(rr + ii, ir - ri), torch.complex(rr - ii, ir + ri)], -1)

    def _add_near(self, M: Tensor, near: Tensor, ghat: Tensor, t: Tensor, x: Tensor) -> None:
        """Fill in M where eigenvalues are close or equal: S R T work a pair, a few pairs at a time."""
        p = self.lam.shape[-1]
        on_diagonal = (ghat * (t[..., None] * x).conj()).sum(2)  # (S, R, p): D_jj(t) = t exp(lam_j t)
        M[..., :p].diagonal(dim1=-2, dim2=-1).copy_(on_diagonal)
        off = near.clone()
        off[..., :p].diagonal(dim1=-2, dim2=-1).fill_(False)
        if not bool(off.any()):
            return
        every = self._all(self.lam)
        for pairs in off.nonzero().split(max(1, p)):
            s, j, k = pairs.unbind(-1)
            times = t[s]  # (P, R, T)
            x_j, x_k = self.lam[s, j][:, None, None], every[s, k][:, None, None]
            swap = ((x_j - x_k) * times).real > 0  # the larger exponential goes outside, so that neither overflows alone
            w = torch.where(swap, x_k - x_j, x_j - x_k) * times
            D = times * torch.exp(torch.where(swap, x_j, x_k) * times) * _phi1(w)
            M[s, :, j, k] = (ghat[s, :, :, j] * D.conj()).sum(-1)


def _phi1(w: Tensor) -> Tensor:
    """(exp(w) - 1) / w, 1 at 0."""
    zero = w.abs() < 1e-290  # dividing subnormal complex numbers overflows
    return torch.where(zero, 1, torch.expm1(w) / torch.where(zero, 1, w))


def _less_one_where_short(w: Tensor, x: Tensor) -> Tensor:
    """exp(w) - 1 at times so short that all modes are near 1 there, exp(w) at the others.

    Differences within a time are the same either way, and free of cancellation this way.
    """
    short = w.abs().amax(-1, keepdim=True) < 1
    return torch.where(short, torch.expm1(w), x) if bool(short.any()) else x
