"""Variable projection on eigenvalues: trajectories as sums of shared modes with free amplitudes.

In min |w (y - Phi(theta) c)| over theta and c, the linear c is eliminated. The Jacobian of the remaining problem is
that of Golub & Pereyra; only its Gram matrix is formed, by some products of thin matrices. Data come in groups of
channels (see `channels`), each with times and weights of its own; all groups share the eigenvalues.
Source: Golub & Pereyra (2003), Inverse Problems 19, R1, equation 12; Askham & Kutz (2018), SIAM J. Appl. Dyn. Syst. 17.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .products import Array, column_lengths, matmul, sum_of_squares
from .race import count_spikes
from .rates import Factors
from .residuals import is_noise

SINGULAR_BASIS = 1e-13  # least diagonal entry of R, for columns of length 1: some 500 eps

# Q and R of the basis scaled to columns of length 1, the lengths, the amplitudes and the residuals
Projected = tuple[Array, Array, Array, Array, Array]


@dataclass(frozen=True)
class Tangent:
    """Derivatives of the weighted basis (G, T, n + bias) = Q R by theta: parameter k changes the columns of its factor.

    column (2 n,): the two columns that each parameter changes. slopes (G, T, 2 n): their derivatives. inside
    (G, n + bias, 2 n): Q^T slopes. outside (G, T, 2 n): slopes - Q inside. inverse (G, n + bias, n + bias): R^-1, and
    inverse inverse^T is the covariance of amplitudes at fixed theta, for noise of weight 1.
    """

    column: Array
    slopes: Array
    inside: Array
    outside: Array
    inverse: Array


@dataclass
class RatesModel:
    """G groups of q channels at T times: t (G, T), y (G, T, q) weighted, w (G, T), zero where a value is missing.

    bias adds a constant to the basis. fastest: bounds of |Re lambda| and |Im lambda|.
    """

    factors: Factors
    t: Array
    y: Array
    w: Array
    bias: bool = False
    fastest: tuple[float, float] = (np.inf, np.inf)
    least_starts: int = 2
    enough: float = 0.0
    _last: tuple[Array, Projected | None] | None = field(default=None, init=False, repr=False)
    _slopes: Array | None = field(default=None, init=False, repr=False)  # of the basis at the last theta

    def cost(self, theta: Array) -> float:
        found = self._projected(theta)
        return np.inf if found is None else sum_of_squares(found[-1])

    def linearise(self, theta: Array) -> tuple[float, Array, Array]:
        n, found, tangent = self.factors.n, self._projected(theta), self.tangent(theta)
        if found is None or tangent is None:
            return np.inf, np.zeros((n, n)), np.zeros(n)
        *_, c, r = found
        moved = c[:, tangent.column]  # (G, 2n, q); the channels enter by sums over all of them
        pulled = matmul(tangent.slopes.swapaxes(-1, -2), r)
        covariance = tangent.inverse @ tangent.inverse.swapaxes(-1, -2)
        both = matmul(tangent.outside.swapaxes(-1, -2), tangent.outside) * matmul(moved, moved.swapaxes(-1, -2))
        both += matmul(pulled, pulled.swapaxes(-1, -2)) * covariance[:, tangent.column[:, None], tangent.column]
        gradient = -(pulled * moved).sum((0, 2)).reshape(n, 2).sum(-1)
        return sum_of_squares(r), both.sum(0).reshape(n, 2, n, 2).sum((1, 3)), gradient

    def tangent(self, theta: Array) -> Tangent | None:
        """None where the basis is not usable or its derivatives are not finite."""
        n, found = self.factors.n, self._projected(theta)
        assert self._slopes is not None  # `_projected` computes both
        if found is None or not np.isfinite(self._slopes).all():
            return None
        Q, R, norms, *_ = found
        first = np.minimum(np.arange(n) // 2 * 2, n - 1)
        column = np.stack([first, np.minimum(first + 1, n - 1)], -1).ravel()  # the second slope of a single rate is 0
        slopes = (self._slopes * self.w[..., None, None]).reshape(*self.t.shape, 2 * n)
        inside = matmul(Q.swapaxes(-1, -2), slopes)
        return Tangent(column, slopes, inside, slopes - matmul(Q, inside), np.linalg.inv(R) / norms[..., None])

    @property
    def bounds(self) -> None:
        """None: every theta is allowed."""
        return None

    def n_spikes(self, theta: Array) -> int:
        return count_spikes(self.factors.eigenvalues(theta), self.t, self.w > 0)

    def rechart(self, theta: Array) -> Array:
        """Pairs real rates anew, so that close ones share a factor (see `rates.closest_pairs`)."""
        return self.factors.from_eigenvalues(self.factors.eigenvalues(theta))

    def leaves_noise(self, theta: Array) -> bool:
        found = self._projected(theta)
        return found is not None and is_noise(found[-1], self.w[..., None] > 0)

    def amplitudes(self, theta: Array) -> Array:
        """c (G, n + bias, q). Raises LinAlgError where the basis is singular."""
        found = self._projected(theta)
        if found is None:
            raise np.linalg.LinAlgError("singular basis")
        return found[3]

    def basis(self, theta: Array, t: Array) -> Array:
        """(*t, n + bias): the functions that amplitudes multiply, without weights."""
        phi = self.factors.basis(theta, t)
        return np.concatenate([phi, np.ones((*phi.shape[:-1], int(self.bias)))], -1)

    def _projected(self, theta: Array) -> Projected | None:
        """The projected problem at theta; None where the basis is singular or eigenvalues are out of bounds."""
        if self._last is None or not np.array_equal(self._last[0], theta):
            phi, self._slopes = self.factors.basis_and_slopes(theta, self.t)
            self._last = theta.copy(), self._project(theta, phi)
        return self._last[1]

    def _project(self, theta: Array, phi: Array) -> Projected | None:
        lam = self.factors.eigenvalues(theta)
        growth, frequency = self.fastest
        if not np.isfinite(phi).all() or (abs(lam.real) > growth).any() or (abs(lam.imag) > frequency).any():
            return None
        if self.bias:
            phi = np.concatenate([phi, np.ones((*phi.shape[:-1], 1))], -1)
        phi = phi * self.w[..., None]
        norms = column_lengths(phi)
        Q, R = np.linalg.qr(phi / norms)
        diagonal = np.abs(np.diagonal(R, axis1=-2, axis2=-1))
        if Q.shape[-1] < phi.shape[-1] or not (diagonal > SINGULAR_BASIS).all():
            return None
        projected = matmul(Q.swapaxes(-1, -2), self.y)
        c = matmul(np.linalg.inv(R), projected) / norms.swapaxes(-1, -2)
        return Q, R, norms[:, 0], c, self.y - matmul(Q, projected)
