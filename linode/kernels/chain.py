"""exp(A t) z0 of small A on the host: states a step apart, and between them one Taylor polynomial a time.

The same as `dense`, in as few NumPy calls as there can be, since for small A the calls are all that costs: some eighty
forward and as many in reverse, and one for each stretch of times with a common nearest node.
A second chain carries what rounding may have done to the states: at every step an error of the size of rounding, with
random signs, is added to it.
Sources: Paterson & Stockmeyer (1973), SIAM J. Comput. 2, 60; Al-Mohy & Higham (2009), SIAM J. Matrix Anal. 31, theorem
4.2, for the step; the idea of the second chain is that of Vignes (2004), Numer. Algorithms 37.
Shapes: A (S, n, n), z0 (S, R, n), t (S, R, T) >= 0, z (S, R, T, n); gradients follow torch: dL/dRe + i dL/dIm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import one_norm, product
from .dense import node_ranges

Array = NDArray[Any]
THETA = 2.0  # |A| H at most
# powers a block; blocks for a step, which leave 2^24/24! = 3e-17, and for half a step, which leave 1/20! = 4e-19
Q, N_BLOCKS, N_NEAR = 4, 6, 5
LARGE = 2.0**64  # of the 1-norm
MAX_LEVEL = 3  # nodes go on in blocks of 2^MAX_LEVEL: more squarings cost more than they save
COEFFICIENTS = np.array([1 / math.factorial(j) for j in range(Q * N_BLOCKS)]).reshape(N_BLOCKS, Q)
NEAR_COEFFICIENTS = COEFFICIENTS[:N_NEAR].reshape(-1, 1)


@dataclass
class Powers:
    """unit^-j A^j, j = 1 .. Q, as (Q, S, n, n); unit (S,) powers of two."""

    unit: Array
    scaled: Array
    one_norm: Array  # (S,) of A
    rate: Array  # (S,) max(|A^3|^(1/3), |A^4|^(1/4)): how fast the Taylor series falls

    @classmethod
    def of(cls, A: Array) -> Powers:
        size = one_norm(A)
        unit = np.ones_like(size)
        if size.max() > LARGE or size.min() < 1 / LARGE:  # so that powers stay in range
            unit = np.ldexp(1.0, np.clip(np.frexp(size)[1], -1000, 1000))
            A = A / unit[:, None, None]
        scaled = np.empty((Q, *A.shape), A.dtype)
        scaled[0] = A
        np.matmul(A, A, out=scaled[1])
        np.matmul(scaled[1], A, out=scaled[2])
        np.matmul(scaled[1], scaled[1], out=scaled[3])
        third, fourth = one_norm(scaled[2:])
        return cls(unit, scaled, size, np.maximum(np.cbrt(third), np.sqrt(np.sqrt(fourth))) * unit)


class Steps:
    """Powers P_j = (A H)^j and E^(2^level), E = exp(A H), for steps H (S,), powers of two with |A| H of order 1."""

    def __init__(self, powers: Powers, H: Array, n_levels: int) -> None:
        self.H, size = H, powers.unit * H
        self.P = powers.scaled * np.power(size, np.arange(1, Q + 1)[:, None])[..., None, None]
        self.PT = self.P.swapaxes(-1, -2).conj()
        _, S, n, _ = self.P.shape
        self.basis = np.concatenate((np.broadcast_to(_eye(n), (1, S, n, n)), self.P[:-1]))  # I, P_1, .. P_(Q-1)
        blocks = (COEFFICIENTS @ self.basis.reshape(Q, -1)).reshape(N_BLOCKS, S, n, n)
        self.partial = [blocks[-1]]  # Horner in P_Q
        for block in blocks[-2::-1]:
            self.partial.append(block + self.P[-1] @ self.partial[-1])
        self.E = [self.partial[-1]]
        for _ in range(n_levels):
            self.E.append(self.E[-1] @ self.E[-1])
        self.near = self.basis.transpose(1, 3, 0, 2).reshape(S, n, Q * n)  # v @ near: P_j v side by side

    def gradient(self, gE: list[Any], gP: Array) -> Array:
        """dL/dA (S, n, n) from the gradients with respect to E^(2^level) and P_1 .. P_Q (Q, S, n, n)."""
        G = gE[-1]
        for E, own in zip(self.E[len(gE) - 2 :: -1] if len(gE) > 1 else (), gE[-2::-1]):
            EH = E.swapaxes(-1, -2).conj()
            G = own + (EH @ G + G @ EH)
        cotangents = np.empty((N_BLOCKS, *G.shape), G.dtype)
        cotangents[0], last = G, self.PT[-1]
        for j, below in enumerate(self.partial[-2::-1]):
            gP[-1] += cotangents[j] @ below.swapaxes(-1, -2).conj()
            np.matmul(last, cotangents[j], out=cotangents[j + 1])
        gP[:-1] += (COEFFICIENTS[:, 1:].T @ cotangents.reshape(N_BLOCKS, -1)).reshape(gP[:-1].shape)
        first, second = self.PT[0], self.PT[1]
        square = gP[1] + (second @ gP[3] + gP[3] @ second) + gP[2] @ first
        total = gP[0] + second @ gP[2] + (first @ square + square @ first)
        return np.asarray(total * self.H[:, None, None])


@dataclass
class ChainStates:
    """States at the nodes of one question, its times by node, and what their polynomials are made of."""

    steps: Steps
    shape: tuple[int, ...]  # S, R, T
    ranges: list[tuple[int, int, int]]
    nodes: Array  # (S, R, N, n)
    Y: Array  # (S, R, N, N_NEAR, n): P_Q^b nodes
    order: Array | None  # rows by node, where they are not so already
    runs: list[tuple[int, int, int]]  # a node, the first of its rows, and the first of the next
    s: Array  # (Q * N_NEAR, rows): powers of t / H - node

    @classmethod
    def of(cls, powers: Powers, H: Array, z0: Array, t: Array) -> ChainStates:
        S, R, T = t.shape
        n = z0.shape[-1]
        x = t / H[:, None, None]
        k = np.rint(x)
        index = k.astype(np.intp).reshape(-1)
        N = int(index.max()) + 1
        if S * R > 1:
            index = (index.reshape(S * R, T) + N * np.arange(S * R)[:, None]).reshape(-1)
        ranges = node_ranges(N, MAX_LEVEL)
        steps = Steps(powers, H, max((level for level, _, _ in ranges), default=0))
        nodes = np.empty((S, R, N, n), z0.dtype)
        nodes[:, :, 0] = z0
        for level, start, stop in ranges:
            before = nodes[:, :, start - 2**level : stop - 2**level]
            np.matmul(before, steps.E[level].mT[:, None], out=nodes[:, :, start:stop])
        Y = np.empty((S, R, N, N_NEAR, n), z0.dtype)
        Y[:, :, :, 0] = nodes
        for b in range(1, N_NEAR):
            Y[:, :, :, b] = Y[:, :, :, b - 1] @ steps.P[-1].mT[:, None]
        order, rest = None, (x - k).reshape(-1)
        if (index[1:] < index[:-1]).any():
            order = index.argsort(kind="stable")
            rest = rest[order]
        ends = np.bincount(index, minlength=1).cumsum().tolist()
        runs = [(i, a, b) for i, a, b in zip(range(len(ends)), [0, *ends], ends) if b > a]
        s = np.empty((Q * N_NEAR, len(rest)))
        s[0], s[1] = 1, rest
        for j in range(2, Q * N_NEAR):
            np.multiply(s[j // 2], s[j - j // 2], out=s[j])
        return cls(steps, (S, R, T), ranges, nodes, Y, order, runs, s)

    def states(self) -> Array:
        """z (S, R, T, n)."""
        S, R, N, n = self.nodes.shape
        W = product(self.Y.reshape(S, -1, n), self.steps.near).reshape(S * R * N, Q * N_NEAR, n) * NEAR_COEFFICIENTS
        z = np.empty((self.s.shape[1], n), W.dtype)
        s = self.s.T
        for i, a, b in self.runs:
            np.matmul(s[a:b], W[i], out=z[a:b])
        return self._as_asked(z).reshape(*self.shape, n)

    def gradients(self, g: Array) -> tuple[Array, Array]:
        """dL/dA (S, n, n) and dL/dz0 (S, R, n) for cotangents g (S, R, T, n)."""
        (S, R, N, n), steps = self.nodes.shape, self.steps
        rows = g.reshape(-1, n)
        rows = rows if self.order is None else rows[self.order]
        gW = np.zeros((S * R * N, Q * N_NEAR, n), g.dtype)
        for i, a, b in self.runs:
            np.matmul(self.s[:, a:b], rows[a:b], out=gW[i])
        gW *= NEAR_COEFFICIENTS
        terms = gW.reshape(S, -1, Q * n)  # rows as those of Y
        gP = np.empty_like(steps.P)
        gP[:-1] = product(terms.mT, self.Y.reshape(S, -1, n).conj()).reshape(S, Q, n, n).swapaxes(0, 1)[1:]
        G = product(terms, steps.near.mT.conj()).reshape(self.Y.shape)
        last = steps.P[-1].conj()[:, None]
        for b in range(N_NEAR - 2, -1, -1):
            G[:, :, :, b] += G[:, :, :, b + 1] @ last
        gP[-1] = _rows_product(G[:, :, :, 1:], self.Y[:, :, :, :-1])
        lam = np.ascontiguousarray(G[:, :, :, 0])
        gE: list[Any] = [0.0] * len(steps.E)
        for level, start, stop in reversed(self.ranges):
            before = slice(start - 2**level, stop - 2**level)
            upper = lam[:, :, start:stop]
            gE[level] = gE[level] + _rows_product(upper, self.nodes[:, :, before])
            lam[:, :, before] += upper @ steps.E[level].conj()[:, None]
        if not self.ranges:
            gE[0] = np.zeros_like(steps.P[0])
        return steps.gradient(gE, gP), lam[:, :, 0]

    def rounding(self, A: Array) -> float:
        """How large the error of a state, or of A times it, may be, in units of its own size and the unit roundoff."""
        steps, nodes = self.steps, self.nodes
        S, _, N, n = nodes.shape
        sizes = np.abs(steps.basis).reshape(Q, -1)
        low, high = (COEFFICIENTS[:2] @ sizes).reshape(2, S, n, n)
        reach = low + np.abs(steps.P[-1]) @ high  # of rounding in E
        error = np.sqrt((nodes * nodes.conj()).real @ (reach * reach).mT[:, None]) * _signs(nodes.shape)
        error = error + nodes @ (reach * _signs((n, n))).mT[:, None]  # errors of E itself, the same at every step
        error[:, :, 0] = 0
        step, E = 1, steps.E[0]
        while step < N:  # every error goes through all steps that follow
            error[:, :, step:] += error[:, :, :-step] @ E.mT[:, None]
            step *= 2
            level = step.bit_length() - 1
            E = steps.E[level] if level < len(steps.E) else E @ E
        worst = 0.0
        for value, change in ((nodes, error), (nodes @ A.mT[:, None], error @ A.mT[:, None])):
            size = np.maximum(np.abs(value).max(-1), 1e-300)
            worst = max(worst, float((np.abs(change).max(-1) / size).max()))
        return worst

    def _as_asked(self, z: Array) -> Array:
        if self.order is None:
            return z
        out = np.empty_like(z)
        out[self.order] = z
        return out


def _rows_product(a: Array, b: Array) -> Array:
    """a^T conj(b), summed over all rows of a system: (S, ..., n) -> (S, n, n)."""
    S, n = len(a), a.shape[-1]
    return np.asarray(product(a.reshape(S, -1, n).mT, b.reshape(S, -1, n).conj()))


@lru_cache(maxsize=64)
def _signs(shape: tuple[int, ...]) -> Array:
    """Random numbers in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, shape)


@lru_cache(maxsize=64)
def _eye(n: int) -> Array:
    return np.eye(n)
