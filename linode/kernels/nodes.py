"""States of small systems at nodes k H by powers of one step, Taylor polynomials from there, and the reverse: NumPy.

States are rows: with A = H (Xi^T - shift I) and F = exp(H Xi^T) = exp(H shift) exp(A), z(k H) = z0 F^k, and
z((k + s) H) = exp(s H shift) sum_j s^j / j! z(k H) A^j for |s| <= 1/2. All systems have one H and one shift, the mean
of their eigenvalues, so that a call does one thing for all of them; nodes double in number with every squaring of F.
Polynomials by blocks of Q terms (Paterson & Stockmeyer 1973), as in `taylor`.
Truncation: |A^p|^(1/p) <= REACH leaves (REACH / 2)^18 / 18! = 6e-17 of a polynomial between nodes, 8e-18 of F
(Al-Mohy & Higham 2009, SIAM J. Matrix Anal. 31, theorem 4.2 with p = 4).
Shapes: Xi (S, n, n), z0 (S, R, n), states at nodes (S, N, R, n), terms (S, N, R, N_TERMS, n), without 1/j!.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import conj, largest, products, scratch

Array = NDArray[Any]
Q, BLOCKS, BLOCKS_OF_STEP = 6, 3, 4
N_TERMS = Q * BLOCKS
REACH = 1.9  # |A^p|^(1/p), p >= 4
SHORTEST, DIGITS = 1e-300, 8  # of a step
MOST_SHIFT = 16.0  # in a step
MOST_UNITS = 100.0  # shift t: of rounding, that small entries of the diagonal may lose to the shift; 1e-14
MOST_SIZE = 4.0  # of |A| beside these: how far its powers may fall behind
INVERSE_FACTORIALS = np.array([1 / math.factorial(j) for j in range(Q * BLOCKS_OF_STEP)])
OF_STEP = INVERSE_FACTORIALS.reshape(BLOCKS_OF_STEP, Q)


class Nodes:
    """A step H for times up to t_max, powers of A, and those of F that were asked for."""

    def __init__(self, Xi: Array, t_max: float) -> None:
        n = Xi.shape[-1]
        diagonal = slice(None, None, n + 1)
        shift = float(Xi.reshape(len(Xi), -1)[:, diagonal].real.mean())
        if abs(shift) * t_max > MOST_UNITS:
            shift = 0.0
        A = np.array(Xi.swapaxes(-1, -2), order="C")
        A.reshape(len(A), -1)[:, diagonal] -= shift
        entry = largest(A)
        unit = 2.0 ** (min(max(math.frexp(entry)[1], -1000), 1000) if entry else -1000)
        A *= 1 / unit
        square = A @ A
        fourth = square @ square
        self._known = A, square, fourth, fourth @ A
        size, _, *high = (_size(X) for X in self._known)
        by_powers = max(float(x.max()) ** (1 / p) for p, x in zip((4, 5), high))
        by_size = float(size.max()) / MOST_SIZE
        rate = max(unit * max(by_powers, by_size), abs(shift) * REACH / MOST_SHIFT)
        # double integrators and their like have whole numbers for answers: a power of two keeps them
        self.H = step_for(rate, t_max, DIGITS if by_powers > by_size else 1)
        self.size = size * (unit * self.H)  # of A
        self.shift = shift * self.H
        self._scale = unit * self.H
        self._F: dict[int, Array] = {}

    @cached_property
    def P(self) -> Array:
        """A^j (Q + 1, S, n, n)."""
        A, square, fourth, fifth = self._known
        P = np.empty((Q + 1, *A.shape), A.dtype)
        P[0] = np.eye(A.shape[-1])
        for j, X in ((1, A), (2, square), (4, fourth), (5, fifth)):
            np.multiply(X, self._scale**j, out=P[j])
        np.matmul(P[2], P[1], out=P[3])
        np.matmul(P[4], P[2], out=P[6])
        del self._known
        return P

    @cached_property
    def basis(self) -> Array:
        """I, A, .. A^(Q - 1) side by side, (S, n, Q n)."""
        _, S, n, _ = self.P.shape
        return np.ascontiguousarray(self.P[:Q].transpose(1, 2, 0, 3)).reshape(S, n, Q * n)

    @cached_property
    def of_step(self) -> Array:
        """Coefficients of F by blocks."""
        return math.exp(self.shift) * OF_STEP

    @cached_property
    def partial(self) -> list[Array]:
        """Horner's sums, the last of them F."""
        blocks = (self.of_step @ self.P[:Q].reshape(Q, -1)).reshape(BLOCKS_OF_STEP, *self.P.shape[1:])
        sums = [blocks[-1]]
        for block in blocks[-2::-1]:
            sums.append(block + self.P[Q] @ sums[-1])
        return sums

    def subset(self, index: Any) -> Nodes:
        """The same step of some of the systems."""
        own = object.__new__(Nodes)
        own.H, own.shift, own.of_step, own.size = self.H, self.shift, self.of_step, self.size[index]
        own.P, own.basis = self.P[:, index], self.basis[index]
        own.partial = [U[index] for U in self.partial]
        own._F = {level: F[index] for level, F in list(self._F.items())}
        return own

    def F(self, level: int) -> Array:
        """F^(2^level) (S, n, n)."""
        for k in range(level + 1):
            if k not in self._F:  # by its number: two threads may compute it, and store the same
                self._F[k] = self._F[k - 1] @ self._F[k - 1] if k else self.partial[-1]
        return self._F[level]

    def rounding(self, n_nodes: int, limit: float) -> Array:
        """(S,) a bound, in units of rounding, of the relative error of the powers of F that so many nodes ask for: a
        quick one where that is below the limit for all systems.

        In Frobenius norms |F|, a square has the error 2 |F|_2 / |F^2| times that of F and |F|^2 / |F^2| units of its
        own; |F|_2^2 <= |F^H F|, and |F|_2 <= |F|.
        """
        powers = [self.F(level) for level in range(n_levels(n_nodes))]
        sizes = [_size(F) for F in powers]
        first = np.exp(self.size) * (math.exp(self.shift) / sizes[0])
        quick = _carried(first, sizes, sizes)
        if (quick <= limit).all():
            return quick
        return _carried(first, sizes, [np.sqrt(_size(np.ascontiguousarray(_adjoint(F)) @ F)) for F in powers[:-1]])

    def states(self, z0: Array, n_nodes: int) -> Array:
        """At the first n_nodes nodes."""
        S, R, n = z0.shape
        Z = np.empty((S, n_nodes, R, n), np.result_type(z0, self.P))
        Z[:, 0] = z0
        rows = Z.reshape(S, -1, n)
        for level, count in doublings(n_nodes):
            start = R * 2**level
            products(rows[:, : R * count], self.F(level), out=rows[:, start : start + R * count])
        return Z

    def leading(self, Z: Array) -> Array:
        """The first terms of every block, (S, N R, BLOCKS, n), of the states at the nodes."""
        S, N, R, n = Z.shape
        Y = np.empty((S, N * R, BLOCKS, n), Z.dtype)
        Y[:, :, 0] = Z.reshape(S, -1, n)
        for b in range(1, BLOCKS):
            products(Y[:, :, b - 1], self.P[Q], out=Y[:, :, b])
        return Y

    def terms(self, Y: Array, shape: tuple[int, ...]) -> Array:
        """All terms, for states at the nodes of this shape; in scratch memory."""
        S, N, R, n = shape
        W = scratch((S, N * R * BLOCKS, Q * n), Y.dtype)
        return products(Y.reshape(S, -1, n), self.basis, out=W).reshape(S, N, R, N_TERMS, n)

    def gradients(self, Z: Array, Y: Array, gW: Array) -> tuple[Array, Array]:
        """Those with respect to Xi and z0, from that with respect to the terms."""
        S, N, R, n = Z.shape
        P, PH = self.P, _adjoint(self.P)
        gP = np.empty_like(P)
        gW = gW.reshape(S, -1, Q * n)
        gP[:Q] = products(_adjoint(Y.reshape(S, -1, n)), gW).reshape(S, n, Q, n).transpose(2, 0, 1, 3)
        gY = products(gW, np.ascontiguousarray(_adjoint(self.basis))).reshape(Y.shape)
        gP[Q], after = 0, np.ascontiguousarray(PH[Q])
        for b in range(BLOCKS - 1, 0, -1):
            gP[Q] += products(_adjoint(Y[:, :, b - 1]), gY[:, :, b])
            gY[:, :, b - 1] += products(gY[:, :, b], after)
        lam, rows, G = np.ascontiguousarray(gY[:, :, 0]), Z.reshape(S, -1, n), None
        for level, count in reversed(doublings(N)):
            start, stop, FH = R * 2**level, R * (2**level + count), np.ascontiguousarray(_adjoint(self.F(level)))
            of_square, G = G, products(_adjoint(rows[:, : stop - start]), lam[:, start:stop])
            if of_square is not None:
                G += FH @ of_square
                G += of_square @ FH
            lam[:, : stop - start] += products(lam[:, start:stop], FH)
        if G is not None:
            self._add_of_step(G, gP, PH)
        first, second = (np.ascontiguousarray(X) for X in PH[1:3])
        gP[1:3] += PH[4] @ gP[5:7]
        gP[4] += gP[5] @ first + gP[6] @ second
        gP[1:3] += second @ gP[3:5]
        gP[2] += gP[3] @ first + gP[4] @ second
        gP[1] += first @ gP[2] + gP[2] @ first
        return self.H * gP[1].swapaxes(-1, -2), lam[:, :R]

    def _add_of_step(self, G: Array, gP: Array, PH: Array) -> None:
        """To gP what comes of the gradient with respect to F."""
        parts = [G]
        for U in self.partial[-2::-1]:
            gP[Q] += parts[-1] @ np.ascontiguousarray(_adjoint(U))
            parts.append(PH[Q] @ parts[-1])
        gP[:Q] += (self.of_step.T @ np.stack(parts).reshape(BLOCKS_OF_STEP, -1)).reshape(Q, *G.shape)


def step_for(rate: float, t_max: float, digits: int = DIGITS) -> float:
    """The largest step with rate H <= REACH, of few binary digits so that multiples of it are exact, and no longer than
    need be: half of it then holds all times up to t_max.
    """
    longest = 2.0 ** (math.frexp(t_max)[1] + 1) if t_max > 0 else 1.0
    if not rate * longest > REACH:
        return longest
    fraction, exponent = math.frexp(max(REACH / rate, SHORTEST))
    return math.ldexp(math.floor(fraction * 2**digits) / 2**digits, exponent)


def n_levels(n_nodes: int) -> int:
    """Of doublings."""
    return max(1, (n_nodes - 1).bit_length())


def doublings(n_nodes: int) -> list[tuple[int, int]]:
    """(level, count): count nodes from node 2^level on are F^(2^level) times the first ones."""
    return [(level, min(2**level, n_nodes - 2**level)) for level in range((n_nodes - 1).bit_length())]


def _carried(error: Array, sizes: list[Array], spectral: list[Array]) -> Array:
    """The relative error of the last power, from that of the first one, in their norms."""
    for size, square, norm in zip(sizes, sizes[1:], spectral):
        error = size / square * (2 * norm * error + size)
    return error


def _adjoint(A: Array) -> Array:
    adjoint: Array = conj(A).swapaxes(-1, -2)
    return adjoint


def _size(A: Array) -> Array:
    """Frobenius norms of the matrices."""
    rows = A.reshape(*A.shape[:-2], -1)
    size: Array = np.sqrt(np.vecdot(rows, rows).real)
    return size
