"""Newton polynomials at Leja points on the boundary of a convex set, for R that is not Hermitian.

The set K is the hull of 0, the right end and the numerical range of H = V^H R V, a small section of R by Arnoldi; it is
widened a little. Points are taken on the boundary of K, each where the product of distances from those before it is
largest; for real R in conjugate pairs, whose two factors are taken in real arithmetic. A polynomial that agrees with f
at them is near f on all of K, and so is its derivative, which gradients with respect to R need. Points at eigenvalues
of H would serve states only.
Coefficients (divided differences): the values at the points, by forward substitution. The matrix is unit lower
triangular, but for pairs, with entries of at most 1, by the choice of the points. It runs in np.longdouble: 64 bits of
mantissa on x86, double on platforms that have no more.
Source: Leja (1957), Annales Polonici Mathematici 4, 8; Reichel (1990), BIT 30, 332; Caliari, Kandolf and Zivcovich
(2018), BIT 58, 907; Crouzeix and Palencia (2017), SIAM J. Matrix Anal. Appl. 38(2), 649.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

N_DIRECTIONS = 64  # in which the support function of W(H) is taken
N_CANDIDATES = 400  # for points, on the upper boundary; the lower is their conjugate or has as many
WIDER = 0.02  # of the imaginary parts, by which K is larger than what was found
FURTHER = 0.005  # of the right end
FLAT = 1e-9  # of the length: height of a set that is a segment
STRIDE = 16  # points, after which the polynomials are compared with the functions
N_CHECKED = 12  # functions that are, of many times
NOISE = 1e-16  # of the largest value: a coefficient or an error that does not count
ROUNDED = 1e-14  # of the largest value: errors below may be rounding


def support_points(H: np.ndarray) -> np.ndarray:
    """Points on the boundary of W(H), one for each direction.

    Source: Johnson (1978), SIAM J. Numer. Anal. 15(3), 595.
    """
    turns = np.exp(-2j * np.pi * np.arange(N_DIRECTIONS) / N_DIRECTIONS)[:, None, None]
    parts = turns * H
    _, vectors = np.linalg.eigh((parts + parts.conj().swapaxes(1, 2)) / 2)
    v = vectors[..., -1]
    return np.einsum("di,ij,dj->d", v.conj(), H, v)


def hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of complex points, anticlockwise from the leftmost.

    Source: Andrew (1979), Information Processing Letters 9(5), 216.
    """

    def chain(ordered: list[complex]) -> list[complex]:
        found: list[complex] = []
        for p in ordered:
            while len(found) > 1 and ((found[-1] - found[-2]).conjugate() * (p - found[-1])).imag <= 0:
                found.pop()
            found.append(p)
        return found

    ordered = [complex(x, y) for x, y in sorted({(p.real, p.imag) for p in points.tolist()})]
    return np.array(chain(ordered)[:-1] + chain(ordered[::-1])[:-1] or ordered)


class Region(NamedTuple):
    """K by samples of its boundary: the upper half, from its right end to 0, and for complex R the lower one."""

    samples: np.ndarray  # (P,) complex
    right: float  # right end on the real axis
    is_symmetric: bool  # about the real axis

    @property
    def height(self) -> float:
        return float(abs(self.samples.imag).max())


def region(H: np.ndarray, most: float, wider: float = WIDER) -> Region | None:
    """K for R whose section is H; None where it reaches the left half plane.

    most: right end that R cannot exceed. Everything lies in the disc of diameter (0, right), the image of a half plane:
    there |e^(t x)| is at most its value at the right end, for x with r = 1 / (1 - gamma x).
    """
    is_symmetric = not np.iscomplexobj(H)
    points = support_points(H)
    points = points[abs(points) > 1e-12 * abs(points).max()]
    if (points.real <= 0).any():
        return None
    right = min(float((abs(points) ** 2 / points.real).max()) * (1 + FURTHER * wider / WIDER), most)
    if is_symmetric:
        points = np.concatenate([points, points.conj()])
    points = points.real + 1j * (1 + wider) * points.imag
    inside = abs(points) ** 2 <= right * points.real
    points = np.where(inside, points, points * np.minimum(1, right * points.real / abs(points) ** 2))
    corners = hull(np.concatenate([points, [0.0, right]]))
    start = int(np.argmax(corners.real))
    corners = np.roll(corners, -start)  # anticlockwise from the right end: the upper half first
    corners = np.append(corners, corners[0])
    leftmost = int(np.argmin(corners.real))
    halves = [corners[: leftmost + 1], corners[leftmost:][::-1]]
    samples = [_sampled(half) for half in (halves[:1] if is_symmetric else halves)]
    return Region(np.concatenate(samples), right, is_symmetric)


def _sampled(corners: np.ndarray) -> np.ndarray:
    """Points on a line through corners, denser towards both ends, as points of low degree error lie."""
    length = np.concatenate([[0.0], np.cumsum(abs(np.diff(corners)))])
    place = length[-1] * (1 - np.cos(np.linspace(0, np.pi, N_CANDIDATES))) / 2
    return np.interp(place, length, corners.real) + 1j * np.interp(place, length, corners.imag)


class Newton:
    """Newton polynomials N_k on K, scaled so that the largest |N_k| on the boundary is 1, point by point."""

    def __init__(self, K: Region) -> None:
        self.K = K
        self.z = K.samples.astype(np.clongdouble)
        self.c: list[complex] = []
        self.s: list[float] = []
        self.tau: list[float] = []
        self.points: list[
            tuple[int, bool]
        ] = []  # sample, and whether with its conjugate; one for each new N_k of these
        self.basis = [np.ones_like(self.z)]  # N_k at the samples, k = 0 .. degree

    def extend(self, degree: int) -> None:
        """More points, up to N_degree at least."""
        real_axis = 1e-14 * self.K.right
        while len(self.c) < degree:
            N = self.basis[-1]
            # the first point is the right end, where e^(t x) is largest
            best = int(np.argmax(abs(N))) if self.c else int(np.argmax(self.z.real))
            point = complex(self.z[best])
            is_pair = self.K.is_symmetric and abs(point.imag) > real_axis
            centre = point.real if self.K.is_symmetric else point
            first = (self.z - centre) * N
            s = float(abs(first).max())
            self._append(centre, s, 0.0, first / s)
            self.points.append((best, is_pair))
            if is_pair:
                b = point.imag
                second = (self.z - centre) * self.basis[-1] + (b * b / s) * N
                s2 = float(abs(second).max())
                self._append(centre, s2, -(b * b) / (s * s2), second / s2)

    def _append(self, c: complex, s: float, tau: float, N: np.ndarray) -> None:
        self.c.append(c)
        self.s.append(s)
        self.tau.append(tau)
        self.basis.append(N)

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """(T, degree) coefficients of the polynomials that agree at the points with values (T, P) at the samples.

        For pairs both coefficients come from one complex value: the rest at the point is N_k (d_k + i b d_(k+1) / s_k).
        Values of real functions, which are conjugate at conjugate points, have real coefficients. Others are split.
        """
        degree = len(self.c)
        d = np.zeros((len(values), degree), np.longdouble if self.K.is_symmetric else np.clongdouble)
        basis = np.array(self.basis[:-1])  # (degree, P)
        k = 0
        for sample, is_pair in self.points:
            rest = values[:, sample] - d[:, :k] @ basis[:k, sample]
            rest = rest / basis[k, sample]
            if is_pair:
                d[:, k] = rest.real
                d[:, k + 1] = rest.imag * (self.s[k] / self.z[sample].imag)
                k += 2
            else:
                d[:, k] = rest.real if self.K.is_symmetric else rest
                k += 1
        return d

    def approximations(self, values: np.ndarray, most: int) -> tuple[np.ndarray, float]:
        """(T, m) coefficients of polynomials near the functions with these values, of at most `most` terms, and their
        largest error, relative to the largest value. More points are chosen where they are needed.
        """
        size = abs(values).max(1, keepdims=True)
        size = np.where(size == 0, 1, size)
        some = np.unique(np.linspace(0, len(values) - 1, N_CHECKED).astype(int))
        best = np.inf
        degree = 0
        while True:
            degree = min(degree + STRIDE, most)
            self.extend(degree)
            rest = values[some] - self.coefficients(values[some]) @ np.array(self.basis[:-1])
            error = float((abs(rest) / size[some]).max())
            if error <= NOISE or degree >= most or (error > best / 2 and best < ROUNDED):
                break
            best = min(best, error)
        C = self.coefficients(values)
        C = C.astype(complex if C.dtype.kind == "c" else float)
        beyond = np.maximum.accumulate(abs(C[:, ::-1]), 1)[:, ::-1] <= NOISE * size
        C[beyond] = 0
        return C, error


def is_flat(K: Region) -> bool:
    """A segment of the real axis."""
    return K.height <= FLAT * K.right
