"""Eigenvalues as roots of real quadratic factors, and the functions of time that they span.

A pair is lambda = s +- sqrt(d): oscillating for d < 0, two real rates for d > 0, a double one for d = 0; its functions
are smooth in (s, d). It spans c = e^{st} cosh(sqrt(d) t) and S = e^{st} sinh(sqrt(d) t) / sqrt(d), with c' = s c + d S
and S' = c + s S. An odd number of states adds one real rate at the end. All parameters are real, so that no two of them
must be kept conjugate.
"""

from __future__ import annotations

import math

import numpy as np

from .products import Array, complex_step

SERIES_BELOW = 0.25  # |d| t^2 below which power series in d t^2 are summed
N_POWERS = 8  # terms of these: the next one, 0.25^8 / 16!, is below eps
TINY = 1e-300  # keeps a quotient finite where both rates are 0
C_SERIES = [1 / math.factorial(2 * k) for k in range(N_POWERS)]  # cosh(sqrt x)
S_SERIES = [1 / math.factorial(2 * k + 1) for k in range(N_POWERS)]  # sinh(sqrt x) / sqrt x
D_SERIES = [(k + 1) * S_SERIES[k + 1] for k in range(N_POWERS - 1)]  # its derivative
# Least decay rate of stable factors, and the least one they start from, in 1 / (the longest trajectory). Below the
# first a mode is constant within rounding of the data; from the second on the logarithms still change the curve.
SLOWEST, LEAST_START = 1e-9, 1e-2


class Factors:
    """Any eigenvalues: theta holds s, d of each pair, then the single rate; n states, span: the longest trajectory."""

    def __init__(self, n: int, span: float) -> None:
        self.n, self.span, self.n_pairs = n, span, n // 2

    def resized(self, n: int) -> Factors:
        """The same for another number of states."""
        return type(self)(n, self.span)

    def for_errors(self, theta: Array) -> tuple[Factors, Array]:
        """Factors, and their theta, in which errors are computed: a bound of real parts does not make them smaller."""
        return Factors(self.n, self.span), self.decode(theta)

    def from_eigenvalues(self, lam: Array) -> Array:
        """theta (n,) of eigenvalues (n,), which come in conjugate pairs."""
        lam = np.asarray(lam, complex)
        upper = lam[lam.imag > 0]
        close, single = closest_pairs(lam[lam.imag == 0].real)
        pairs = [(x.real, -(x.imag**2)) for x in upper]
        pairs += [((x + y) / 2, ((x - y) / 2) ** 2) for x, y in close]
        return self.encode(np.concatenate([np.ravel(pairs), single]))

    def eigenvalues(self, theta: Array) -> Array:
        """(*batch, n), complex."""
        s, d, single = self.split(self.decode(theta))
        root = np.sqrt(d.astype(complex))
        both = np.stack([s + root, s - root], -1)
        return np.concatenate([both.reshape(*s.shape[:-1], -1), single], -1)

    def encode(self, factors: Array) -> Array:
        """theta of s, d of each pair and the single rate."""
        return factors

    def decode(self, theta: Array) -> Array:
        """s, d of each pair and the single rate."""
        return theta

    def pull_back(self, theta: Array, slopes: Array) -> Array:
        """Derivatives by theta, (*, n, 2), from those by s, d and the single rate."""
        return slopes

    def split(self, factors: Array) -> tuple[Array, Array, Array]:
        """First and second entries of each pair, and the single rate (*, 0 or 1)."""
        m = 2 * self.n_pairs
        return factors[..., 0:m:2], factors[..., 1:m:2], factors[..., m:]

    def basis(self, theta: Array, t: Array) -> Array:
        """(*t, n): c and S of each pair, then e^{lambda t}."""
        return self._functions(theta, t, False)[0]

    def basis_and_slopes(self, theta: Array, t: Array) -> tuple[Array, Array]:
        """The basis, and the derivatives of the two functions that depend on each parameter: (*t, n, 2).

        One function depends on the single rate; its second derivative here is 0.
        """
        return self._functions(theta, t, True)

    def _functions(self, theta: Array, t: Array, want_slopes: bool) -> tuple[Array, Array]:
        s, d, single = self.split(self.decode(theta))
        m, tt = 2 * self.n_pairs, t[..., None]
        phi, slopes = np.empty((*t.shape, self.n)), np.zeros((*t.shape, self.n, 2) if want_slopes else 0)
        with np.errstate(all="ignore"):  # the caller refuses what overflows
            phi[..., m:] = np.exp(single * tt)
            c, S, dS = _hyperbolic(s, d, tt, want_slopes)
            phi[..., 0:m:2], phi[..., 1:m:2] = c, S
            if want_slopes:
                by_d = tt * S  # twice dc / dd
                slopes[..., 0:m:2, 0], slopes[..., 0:m:2, 1] = tt * c, by_d
                slopes[..., 1:m:2, 0], slopes[..., 1:m:2, 1] = by_d / 2, dS
                if self.n % 2:
                    slopes[..., m, 0] = t * phi[..., m]
                slopes = self.pull_back(theta, slopes)
        return phi, slopes

    def generator(self, theta: Array) -> Array:
        """M (*batch, n, n) with phi' = M phi."""
        s, d, single = self.split(self.decode(theta))
        M = np.zeros((*theta.shape, self.n), theta.dtype)
        i, last = np.arange(0, 2 * self.n_pairs, 2), np.arange(2 * self.n_pairs, self.n)
        M[..., i, i], M[..., i, i + 1], M[..., i + 1, i], M[..., i + 1, i + 1] = s, d, 1.0, s
        M[..., last, last] = single
        return M

    def generator_slopes(self, theta: Array) -> Array:
        """dM / dtheta, (n, n, n): parameter first."""
        return complex_step(self.generator, theta)

    def start(self) -> Array:
        """phi(0), (n,)."""
        phi = np.ones(self.n)
        phi[1 : 2 * self.n_pairs : 2] = 0.0
        return phi


def closest_pairs(rates: Array) -> tuple[list[tuple[float, float]], list[float]]:
    """Real rates in pairs, the closest ones first, and the rate that is left over, if any.

    Two rates in the same factor can become equal, where the derivatives are finite; in two factors they cannot.
    """
    left, pairs = sorted(float(x) for x in rates), []
    while len(left) > 1:
        i = min(range(len(left) - 1), key=lambda k: (left[k + 1] - left[k]) / (abs(left[k + 1]) + abs(left[k]) + TINY))
        pairs.append((left.pop(i), left.pop(i)))
    return pairs, left


class StableFactors(Factors):
    """Real parts below a bound: lambda - bound is a root of x^2 + a x + c; theta holds the logarithms of a, c > 0."""

    def __init__(self, n: int, span: float, bound: float = 0.0) -> None:
        super().__init__(n, span)
        self.bound = bound

    def resized(self, n: int) -> Factors:
        return StableFactors(n, self.span, self.bound)

    def encode(self, factors: Array) -> Array:
        s, d, single = self.split(np.asarray(factors, float))
        s, single = s - self.bound, single - self.bound
        floor = LEAST_START / self.span
        a, c = np.maximum(2 * np.abs(s), floor), np.maximum(np.abs(s * s - d), floor**2)
        return np.concatenate([np.stack([np.log(a), np.log(c)], -1).ravel(), np.log(np.maximum(np.abs(single), floor))])

    def decode(self, theta: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            a, c, rate = (np.exp(x) for x in self.split(theta))
            floor = SLOWEST / self.span
            a, c = a + floor, c + floor**2
            both = np.stack([self.bound - a / 2, a * a / 4 - c], -1)
            return np.concatenate([both.reshape(*a.shape[:-1], -1), self.bound - rate - floor], -1)

    def pull_back(self, theta: Array, slopes: Array) -> Array:
        return complex_step(self.decode, theta) @ slopes


class PairedFactors(Factors):
    """Conjugate pairs: d = -exp(theta) < 0. An odd number of states has one real rate."""

    has_decay = True  # whether the real parts are free; if not, they are 0, and their theta has no effect

    def for_errors(self, theta: Array) -> tuple[Factors, Array]:
        return self, theta

    def encode(self, factors: Array) -> Array:
        s, d, single = self.split(np.asarray(factors, float))
        floor = (LEAST_START / self.span) ** 2
        both = np.stack([s * self.has_decay, np.log(np.maximum(np.abs(d), floor))], -1)
        return np.concatenate([both.ravel(), single * self.has_decay])

    def decode(self, theta: Array) -> Array:
        s, x, single = self.split(theta)
        with np.errstate(over="ignore", invalid="ignore"):
            both = np.stack([s * self.has_decay, -np.exp(x)], -1)
        return np.concatenate([both.reshape(*s.shape[:-1], -1), single * self.has_decay], -1)

    def pull_back(self, theta: Array, slopes: Array) -> Array:
        return complex_step(self.decode, theta) @ slopes


class ImaginaryFactors(PairedFactors):
    """Conjugate pairs on the imaginary axis; of an odd number of states one eigenvalue is 0."""

    has_decay = False


def _hyperbolic(s: Array, d: Array, t: Array, want_slope: bool) -> tuple[Array, Array, Array]:
    """c, S and dS/dd of each pair at times t (*, 1)."""
    x = d * t * t
    near = np.abs(x) < SERIES_BELOW
    small = np.where(near, x, 0.0)
    root = np.sqrt(np.abs(d))
    r, st, real = root * t, s * t, d > 0
    swing = np.where(near | real, 0.0, r)
    up, down = np.exp(np.where(real, st + r, st)), np.exp(np.where(real, st - r, st))
    level = np.exp(st)
    safe = np.where(near, 1.0, r)
    c = np.where(near, level * _horner(C_SERIES, small), np.where(real, (up + down) / 2, up * np.cos(swing)))
    far = np.where(real, up - down, 2 * up * np.sin(swing)) / (2 * safe)
    es = np.where(near, level * _horner(S_SERIES, small), far)
    if not want_slope:
        return c, t * es, c
    slope = np.where(near, level * _horner(D_SERIES, small), (c - es) / (2 * np.where(near, 1.0, x)))
    return c, t * es, t**3 * slope


def _horner(series: list[float], x: Array) -> Array:
    """sum_k series[k] x^k."""
    total = np.full_like(x, series[-1])
    for coefficient in series[-2::-1]:
        total = total * x + coefficient
    return total
