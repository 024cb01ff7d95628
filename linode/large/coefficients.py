"""Ellipses round a numerical range, and the coefficients of functions in the Faber polynomials that belong to them.

psi(w) = c + rho (w + tau / w) maps the circles |w| = r >= 1 to confocal ellipses; r = 1 is the ellipse itself. With
B = (Xi - c) / rho the polynomials are F_0 = 1, F_1 = B, F_2 = B F_1 - 2 tau, F_(k+1) = B F_k - tau F_(k-1), and
f(Xi) = sum_k f_k F_k(Xi) with f_k the coefficients of w^k in f(psi(w)): by FFT of values on the ellipse.
A flat ellipse gives Chebyshev polynomials, a disc powers.
Source: Novati (2003), Numer. Linear Algebra Appl. 10; Beckermann (2005), C. R. Acad. Sci. Paris 340: |F_k(Xi)| <= 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RADII = 1 + np.geomspace(1e-3, 30, 64)  # of circles on which coefficients are bounded
SPARE = 40  # coefficients beyond those expected, to see where they vanish
SMALL, TINY = 1e-15, 1e-18  # of the largest value: what may be rounding of the FFT, and what surely is
MOST_TERMS = 1 << 18


class Ellipse(NamedTuple):
    """Centre c, half axes a along the direction e^(i angle) and b across it."""

    c: complex
    a: float
    b: float
    angle: float = 0.0  # 0, or pi / 2 where Xi is i times a real matrix, so that B is real

    @property
    def rho(self) -> complex:
        size = (self.a + self.b) / 2
        if self.angle == 0:
            return size
        return size * 1j if self.angle == math.pi / 2 else size * complex(math.cos(self.angle), math.sin(self.angle))

    @property
    def tau(self) -> float:
        return (self.a - self.b) / (self.a + self.b)

    @property
    def right(self) -> float:
        """The largest real part."""
        return self.c.real + math.hypot(self.a * math.cos(self.angle), self.b * math.sin(self.angle))

    @property
    def is_symmetric(self) -> bool:
        """About the real axis, with B real for real Xi: coefficients of real functions are real."""
        return self.angle == 0 and self.c.imag == 0

    def arc(self, n: int) -> np.ndarray:
        """psi at n equidistant points of the upper half of the unit circle, both ends included; if symmetric."""
        angles = np.linspace(0, math.pi, n)
        along: np.ndarray = self.c.real + self.a * np.cos(angles)
        return along + 1j * self.b * np.sin(angles) if self.b else along

    def points(self, n: int) -> np.ndarray:
        """psi at n equidistant points of the unit circle."""
        circle = np.exp(2j * math.pi / n * np.arange(n))
        points: np.ndarray = self.c + self.rho * (circle + self.tau / circle)
        return points


def function(kind: str, x: np.ndarray, t: np.ndarray, w: complex = 0.0) -> np.ndarray:
    """f(t, x) of a `Term` at points x (M,) and times t (T,): (T, M)."""
    tx = t[:, None] * x
    if kind == "exp":
        return np.exp(tx)
    if kind == "phi1":
        return t[:, None] * phi1(tx)
    if kind == "power":
        order = int(w.real) + 1
        return t[:, None] ** order * phi(order, tx)
    tw = t[:, None] * w
    # the factor of larger size outside, so that the other does not overflow
    is_left = (tx - tw).real > 0
    outside = np.where(is_left, tx, tw)
    return t[:, None] * np.exp(outside) * phi1(np.where(is_left, tw - tx, tx - tw))


def phi1(y: np.ndarray) -> np.ndarray:
    """(e^y - 1) / y."""
    is_zero = y == 0
    y = np.where(is_zero, 1.0, y)
    return np.where(is_zero, 1.0, np.expm1(y) / y)


def phi(k: int, y: np.ndarray) -> np.ndarray:
    """The integral of e^((1 - s) y) s^(k - 1) / (k - 1)! over s from 0 to 1, for k >= 1.

    phi_(k + 1) = (phi_k - 1 / k!) / y loses no digits where |y| > k + 1; below, terms of the power series, times k!,
    are at most 1.
    Source: Hochbruck & Ostermann (2010), Acta Numerica 19, 209, section 2.1.
    """
    is_near = np.abs(y) <= k + 1
    far, near = np.where(is_near, 1.0, y), np.where(is_near, y, 0.0)
    found = phi1(far)
    for j in range(1, k):
        found = (found - 1 / math.factorial(j)) / far
    term = total = np.ones_like(near)
    j = k
    while np.abs(term).max(initial=0.0) > 2.0**-60:
        j += 1
        term = term * near / j
        total = total + term
    return np.where(is_near, total / math.factorial(k), found)


def faber(ellipse: Ellipse, values: Callable[[np.ndarray], np.ndarray], n_terms: int, is_real: bool) -> np.ndarray:
    """f_k for k < N of functions whose values at points (M,) are (T, M): (T, N), of which the last are 0.

    n_terms: how many are expected not to be. is_real: f(conj(x)) = conj(f(x)); coefficients are real if so, and if the
    ellipse is symmetric.
    """
    half = 1 << max(4, math.ceil(math.log2(n_terms + SPARE)))
    while True:
        found: np.ndarray
        is_half = ellipse.is_symmetric and is_real
        sampled = values(ellipse.arc(half + 1) if is_half else ellipse.points(2 * half))
        if is_half:
            found = np.fft.hfft(sampled, 2 * half, axis=-1)[:, :half] / (2 * half)
        else:
            found = np.fft.fft(sampled, axis=-1)[:, :half] / (2 * half)
        sizes = np.abs(found)
        largest = np.abs(sampled).max(1, keepdims=True)
        noise = sizes[:, -half // 8 :].max(1, keepdims=True)  # all that is left there, if the series has ended
        if (noise <= SMALL * largest).all() or half >= MOST_TERMS:
            beyond = np.maximum.accumulate(sizes[:, ::-1], 1)[:, ::-1] <= np.maximum(6 * noise, TINY * largest)
            found[beyond] = 0  # tails must end
            return found
        half *= 2


def degrees(
    c_right: np.ndarray, a: np.ndarray, b: np.ndarray, angle: np.ndarray, h: np.ndarray, tol: float
) -> np.ndarray:
    """Terms that e^(h x) needs, at most: |f_k| <= max |e^(h x)| on the circle r, over r^k, for the best r.

    c_right: real part of the centre less the right end of the range; all arrays broadcast.
    """
    rho, tau = (a + b) / 2, (a - b) / np.maximum(a + b, 1e-300)
    along, across = (np.multiply.outer(rho, RADII) * (1 + s * np.multiply.outer(tau, RADII**-2.0)) for s in (1, -1))
    reach = np.hypot(along * np.cos(angle)[..., None], across * np.sin(angle)[..., None])
    gain = np.log(RADII)
    tail = -np.log1p(-1 / RADII)
    terms = (h[..., None] * (c_right[..., None] + reach) + tail + math.log(2 / tol)) / gain
    return np.maximum(np.ceil(terms.min(-1)), 2)
