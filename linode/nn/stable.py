"""Matrices whose eigenvalues have negative real parts: all of them, and no others.

Xi = (J - R) P with J skew and R, P positive definite: z^T P z is an energy that R dissipates. Every such matrix is
stable, and every stable one is of this form, with any P that solves Xi^T P + P Xi = -Q for some positive definite Q.
The Q taken here is W^-1 with Xi W + W Xi^T = -I, which makes P = I where Xi is normal. Measured against Q = I: the
condition number of P falls from 1e12 to 1 for rates 1e-6 ... 1e6, and from 1800 to 170 for random Xi of n = 50; that of
R falls by as much again. P has trace n, so that units of time do not matter.
Source: Gillis & Sharma (2017), On computing the distance to stability for matrices using linear dissipative
Hamiltonian systems, Automatica 85, theorem 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve, schur
from scipy.linalg.lapack import dtrsyl
from torch import Tensor

from .base import Parametrization, register

# least decay, as part of |Xi|_2: from beyond rounding to what can always be factored
MARGINS = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)
MOST_GAIN = 1e4  # of parts whose matrix was moved: they are found again from it, and in float32 three digits are left
ACCURATE = 1e-7  # error of Xi from its parts, as part of |Xi|_2, where it was not moved
Array = NDArray[Any]


@register
class Stable(Parametrization):
    """Every eigenvalue of Xi has a negative real part: all solutions decay.

    Three parameters (n, n): J below its diagonal, and R and P by Cholesky factors whose diagonals are held as
    logarithms. In float32 an assigned matrix keeps about 7 - log10(cond(P)) digits; see `linode.nn.stable`. One that
    rounding could make unstable, such as a Jordan block of ten states at -0.1, is not recognised as stable.

    nearest: real parts that are not negative change sign (in the Schur form, so that all else stays), as poles are
    flipped in vector fitting; not the closest in norm, but it moves by twice what was wrong at most, in |.|_2, and a
    growth that was noise becomes a decay of the same size. Decay is at least 1e-12 |Xi|_2, or more where that is too
    close to growth to be factored, as for a double integrator.
    Source: the module's; Gustavsen & Semlyen (1999), IEEE Trans. Power Delivery 14(3), for the flips.

    Example:
        >>> import torch, linode.nn
        >>> Xi = linode.nn.Stable().nearest(torch.tensor([[0.1, 2.0], [-2.0, 0.1]], dtype=torch.float64))
        >>> Xi.round(decimals=9).tolist()
        [[-0.1, 2.0], [-2.0, -0.1]]
    """

    name = "stable"
    summary = "stable (eigenvalues with negative real parts)"

    def forward(self, J: Tensor, R: Tensor, P: Tensor) -> Tensor:
        R_factor, P_factor = factor(R), factor(P)
        return (J.tril(-1) - J.tril(-1).mT - R_factor @ R_factor.mT) @ (P_factor @ P_factor.mT)

    def parts(self, Xi: Tensor) -> tuple[Tensor, ...]:
        T, Z = schur(Xi.numpy())
        real = T.diagonal()  # LAPACK's 2 x 2 blocks have the real part of both eigenvalues on the diagonal
        size = np.linalg.norm(T, 2) or 1.0
        for margin in MARGINS:
            moves = -np.maximum(abs(real), margin * size) - real
            decaying = T + np.diag(moves)
            parts, gain = factors(decaying, Z)
            error = abs(Z.T @ self(*parts).numpy() @ Z - decaying).max()  # NaN where there are no parts
            if gain <= MOST_GAIN or (not moves.any() and error <= ACCURATE * size):
                break
        return parts


def factor(x: Tensor) -> Tensor:
    """The Cholesky factor that x (n, n) holds: exponentials keep its diagonal positive."""
    return x.tril(-1) + x.diagonal().exp().diag()


def factors(T: Array, Z: Array) -> tuple[tuple[Tensor, ...], float]:
    """J, R and P of Xi = Z T Z^T as `Stable.forward` takes them, and their gain |J - R|_2 |P|_2 / |Xi|_2.

    T (n, n) is a real Schur form. R = P^-1 Q P^-1 / 2, of which Q = W^-1 gives a factor: no difference is taken. The
    gain says how much larger a relative change of the parts is in Xi; NaN and inf where they cannot be found.
    """
    n = len(T)
    try:
        W_factor = np.linalg.cholesky(symmetric(dtrsyl(T, T, -np.eye(n), tranb="T")[0]))
        Q_factor = np.linalg.inv(W_factor).T
        P = symmetric(dtrsyl(T, T, -Q_factor @ Q_factor.T, trana="T")[0])
        scale = n / np.trace(P)
        P_factor = np.linalg.cholesky(P * scale)
        R_factor = cho_solve((P_factor, True), Q_factor * np.sqrt(scale / 2))
        S = cho_solve((P_factor, True), T.T).T  # J - R
    except (np.linalg.LinAlgError, ValueError):  # not positive definite, or not finite, to rounding
        return (torch.full((n, n), torch.nan, dtype=torch.float64, device="cpu"),) * 3, np.inf
    J = Z @ (S - S.T) @ Z.T / 2
    parts = np.tril(J, -1), logged(triangular(Z @ R_factor)), logged(triangular(Z @ P_factor))
    gain = np.linalg.norm(S, 2) * np.linalg.norm(P * scale, 2) / np.linalg.norm(T, 2)
    return tuple(map(torch.from_numpy, parts)), float(gain)


def symmetric(x: Array) -> Array:
    return (x + x.T) / 2


def triangular(x: Array) -> Array:
    """The lower triangular L with L L^T = x x^T and a positive diagonal."""
    L: Array = np.linalg.qr(x.T)[1].T
    return L * np.where(L.diagonal() < 0, -1.0, 1.0)


def logged(L: Array) -> Array:
    """Inverse of `factor`."""
    return np.tril(L, -1) + np.diag(np.log(L.diagonal()))
