"""Where Xi acts: regions of the complex plane on which a polynomial must be close to the exponential.

A `Region` holds the support function of a set that contains the numerical range of Xi (or of D^-1 Xi D), or a disc
that bounds Xi - c in the 1-norm or the inf-norm. In that norm |F_k(Xi)| <= 2 for the polynomials of every ellipse that
contains the set. For entries, Gershgorin's theorem gives it, direction by direction; for functions, what the user
knows and a few products.
Source: Johnson (1974), J. Res. Nat. Bur. Stand. 78B: Gershgorin sets of the numerical range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from .coefficients import Ellipse, degrees
from .linear import Functions, Linear, Matrix, Rows
from .symmetry import scaling

COARSE, FINE = 8, 64  # directions from 0 to pi less one: with all rows, and with those rows that were largest there
OVERSHOOT = (0.0, 0.3, 1.0, 3.0)  # by which an ellipse may pass the right end, in units of 1 / h
STRETCH = (0.0, 0.03, 0.1, 0.3)  # by which it may pass the left end, in widths
EDGE = 1e-9  # added to half axes, relative: rounding of the bounds
N_LANCZOS, N_ARNOLDI = 14, 20
WORTH = 100  # products expected from which on Lanczos steps may pay


@dataclass(frozen=True)
class Region:
    """Directions theta (P,) and support (P,): Re(e^(-i theta) x) <= support for every x of the set."""

    theta: np.ndarray
    support: np.ndarray
    words: str
    norm: float = 2  # 2, 1 or inf
    angle: float = 0.0  # of the first axis of ellipses: pi / 2 where B is real then
    d: np.ndarray | None = None  # of D
    disc: tuple[complex, float] | None = None  # centre and radius, where the set is that disc
    is_guess: bool = False  # found by products with a random vector
    is_flat: bool = False  # a segment

    @property
    def right(self) -> float:
        return float(self.support[0])

    @property
    def left(self) -> float:
        return -float(self.support[np.argmin(np.abs(self.theta - math.pi))])

    @property
    def spread(self) -> float:
        """max d / min d."""
        return 1.0 if self.d is None else float(self.d.max() / self.d.min())

    @property
    def size(self) -> float:
        """Its radius, about."""
        centre = (self.right + self.left) / 2
        return float((self.support - centre * np.cos(self.theta)).max())

    def widened(self, share: float) -> Region:
        """A region that is larger on all sides by that share of its size."""
        more = share * max(self.size, 1e-300)
        disc = None if self.disc is None else (self.disc[0], self.disc[1] + more)
        return replace(self, support=self.support + more, disc=disc)

    def axes(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centres and half axes, real and imaginary, of ellipses round the set for steps h (N,): (N, candidates).

        Half axes are inf where there is no ellipse with these ends.
        """
        least = 0.05 / h[:, None]  # smaller ones save no terms, and rho must not be 0
        if self.disc is not None:
            radius = np.maximum(self.disc[1] * (1 + EDGE), least)
            return np.full(radius.shape, self.disc[0], complex), radius, radius
        right = self.right + np.multiply.outer(1 / h, np.repeat(OVERSHOOT, len(STRETCH)))
        left = self.left - (self.right - self.left) * np.tile(STRETCH, len(OVERSHOOT))
        top, bottom = self._end(math.pi / 2), -self._end(1.5 * math.pi)
        c, a = (right + left) / 2, (right - left) / 2 * (1 + EDGE)
        cos, sin = np.cos(self.theta), np.sin(self.theta)
        height = (top + bottom) / 2
        g = np.maximum(self.support - c[..., None] * cos - height * sin, 0)
        scale = max(float(np.abs(self.support).max()), float(a.max()))  # squares of entries of 1e200 overflow
        lacking = (g / scale) ** 2 - (a[..., None] / scale * cos) ** 2
        is_end = np.abs(sin) < 1e-9
        lacking = np.where(is_end, 0, lacking / np.where(is_end, 1, sin) ** 2)
        b = scale * np.sqrt(np.maximum(lacking, 0).max(-1)) * (1 + EDGE)
        is_small = a + b < least
        return c + 1j * height, np.where(is_small, a + least, a), b

    def _end(self, theta: float) -> float:
        """The support in that direction; a set without directions past pi is symmetric about the real axis."""
        if theta > self.theta[-1] + 1e-9:
            theta = 2 * math.pi - theta
        return float(self.support[np.argmin(np.abs(self.theta - theta))])

    def best(self, h: np.ndarray, u: float, tol: float, budget: float) -> tuple[list[Ellipse], np.ndarray]:
        """For steps h (N,) the ellipses whose series are shortest, and how many terms these have at most.

        u: z grows no faster than e^(u t). budget: of h times the distance by which the ellipse passes u, which costs
        digits; terms are inf where none keeps it.
        """
        c, a, b = self.axes(h)
        first, second = (a, b) if self.angle == 0 else (b, a)
        terms = degrees(c.real - u, first, second, np.full(a.shape, self.angle), h[:, None] * np.ones_like(a), tol)
        over = h[:, None] * (c.real + a - u)
        terms = np.where(over <= budget, terms, np.inf)
        i = terms.argmin(1)
        n = np.arange(len(h))
        return [Ellipse(*x, self.angle) for x in zip(c[n, i].tolist(), first[n, i].tolist(), second[n, i].tolist())], (
            terms[n, i]
        )


def segment(low: float, high: float, words: str, *, is_imaginary: bool = False, angle: float = 0.0) -> Region:
    """The interval from low to high on the real or on the imaginary axis."""
    theta = np.linspace(0, 2 * math.pi, 2 * FINE, endpoint=False)
    along = np.sin(theta) if is_imaginary else np.cos(theta)
    along[np.abs(along) < 1e-15] = 0
    return Region(theta, np.maximum(low * along, high * along), words, angle=angle, is_flat=True)


def disc(c: complex, radius: float, words: str, norm: float, angle: float) -> Region:
    theta = np.linspace(0, 2 * math.pi, 2 * FINE, endpoint=False)
    return Region(theta, (np.exp(-1j * theta) * c).real + radius, words, norm, angle, disc=(c, radius))


def box(low: float, high: float, bottom: float, top: float, words: str) -> Region:
    """A rectangle."""
    theta = np.linspace(0, 2 * math.pi, 2 * FINE, endpoint=False)
    cos, sin = np.cos(theta), np.sin(theta)
    cos[np.abs(cos) < 1e-15], sin[np.abs(sin) < 1e-15] = 0, 0
    support = np.maximum(low * cos, high * cos) + np.maximum(bottom * sin, top * sin)
    return Region(theta, support, words)


# ---- of a matrix with entries ------------------------------------------------------------------------------


def regions(A: Linear) -> list[Region]:
    """Regions for A, among which the cheapest serves."""
    if isinstance(A, Matrix):
        return regions_of_entries(A)
    if isinstance(A, Functions):
        return [region_of_functions(A)]
    return [arnoldi(A)]


def regions_of_entries(A: Matrix) -> list[Region]:
    data, pattern = A.data, A.pattern
    is_turned = data.dtype.kind == "c" and not data.real.any()
    angle = math.pi / 2 if is_turned else 0.0
    diagonal = np.zeros(A.n, A.dtype)
    diagonal[pattern.rows[pattern.diagonal]] = data[pattern.diagonal]
    sizes = np.abs(data)
    sizes[pattern.diagonal] = 0
    by_row = np.zeros(A.n)
    Rows(pattern.indptr, pattern.indices, sizes).add(np.ones(A.n), by_row)
    if A.symmetry == 1:
        return [segment(*ends(diagonal.real, by_row), "Xi is Hermitian")]
    if A.symmetry == -1:
        return [segment(*ends(diagonal.imag, by_row), "Xi is skew-Hermitian", is_imaginary=True, angle=angle)]
    by_column = np.bincount(pattern.indices, sizes, A.n)
    found = []
    for off, norm in ((by_column, 1), (by_row, math.inf)):
        centre, radius = smallest_disc(diagonal, off)
        found.append(disc(centre, radius, f"disc in the {norm}-norm", norm, angle if centre.real == 0 else 0.0))
    d = scaling(A)
    if d is not None:
        ratio = np.zeros(A.n)
        Rows(pattern.indptr, pattern.indices, sizes * (d[pattern.indices] / d[pattern.rows])).add(np.ones(A.n), ratio)
        pairs = [ends(diagonal.real, off) for off in (by_row, by_column, ratio)]
        low, high = max(x for x, _ in pairs), min(x for _, x in pairs)
        return [replace(segment(low, high, "D^-1 Xi D is Hermitian"), d=d), *found]
    found.append(hull(A, diagonal, angle))
    return found


def ends(diagonal: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    return float((diagonal - off).min()), float((diagonal + off).max())


def smallest_disc(diagonal: np.ndarray, off: np.ndarray) -> tuple[complex, float]:
    """Centre c and radius with |a_ii - c| + off_i <= radius for every i."""
    low, high = ends(diagonal.real, off)
    c: complex = (low + high) / 2
    if diagonal.dtype.kind == "c":
        low, high = ends(diagonal.imag, off)
        c += 0.5j * (low + high)
        return c, float((np.abs(diagonal - c) + off).max())
    return c, (high - low) / 2


def hull(A: Matrix, diagonal: np.ndarray, angle: float) -> Region:
    """The Gershgorin set of the numerical range: in direction theta it ends at the largest over i of
    Re(e^(-i theta) a_ii) + 1/2 sum_j |e^(-i theta) a_ij + e^(i theta) conj(a_ji)|.
    """
    indptr, indices, a, b = with_mirror(A)
    scale = max(float(np.abs(a).max(initial=0)), 1e-300)  # squares of entries of 1e200 overflow
    a, b, diagonal = a / scale, b / scale, diagonal / scale
    is_complex = A.dtype.kind == "c"
    rows = np.repeat(np.arange(A.n, dtype=indices.dtype), np.diff(indptr))
    off = indices != rows
    # |cos p + sin q| with p = a + b, q = -i (a - b); for real entries p and i q are real
    p, q = (a + b) * off / 2, -1j * (a - b) * off / 2 if is_complex else (a - b) * off / 2
    pp, qq = (x.real**2 + x.imag**2 if is_complex else x**2 for x in (p, q))
    pq = 2 * (p * q.conj()).real if is_complex else None

    def off_diagonal(theta: float, chosen: slice) -> np.ndarray:
        cos, sin = math.cos(theta), math.sin(theta)
        square = cos**2 * pp[chosen] + sin**2 * qq[chosen]
        if pq is not None:
            square += cos * sin * pq[chosen]
        return np.sqrt(np.maximum(square, 0, out=square), out=square)

    turn = 2 if is_complex else 1
    coarse = np.arange(turn * COARSE + 2 - turn) * (math.pi / COARSE)
    fine = np.arange(turn * FINE + 2 - turn) * (math.pi / FINE)
    support = np.full(len(fine), -np.inf)
    largest = set()
    ones, everything = np.ones(A.n), slice(None)
    for i, theta in enumerate(coarse.tolist()):
        reach = (diagonal * np.exp(-1j * theta)).real if is_complex else diagonal * math.cos(theta)
        Rows(indptr, indices, off_diagonal(theta, everything)).add(ones, reach)
        row = int(reach.argmax())
        support[i * (FINE // COARSE)] = reach[row]
        largest.add(row)
    for row in largest:
        entries = slice(indptr[row], indptr[row + 1])
        for i, theta in enumerate(fine.tolist()):
            reach = float((diagonal[row] * np.exp(-1j * theta)).real) + float(off_diagonal(theta, entries).sum())
            support[i] = max(support[i], reach)
    return Region(fine, scale * support, "Gershgorin set of the numerical range", angle=angle)


def with_mirror(A: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """indptr and indices of the pattern of Xi and Xi^H together, and a_ij and conj(a_ji) there."""
    pattern = A.pattern
    indptr, indices, order = pattern.transposition
    if pattern.is_symmetric:
        return pattern.indptr, pattern.indices, A.data, A.data[order].conj()
    shape = (A.n, A.n)
    # numbers of entries, counted from 1, as real and imaginary parts: a sum of matrices brings them together
    own = csr_array((np.arange(1, len(A.data) + 1) + 0j, pattern.indices, pattern.indptr), shape=shape)
    other = csr_array((1j * (order + 1.0), indices, indptr), shape=shape)
    both = own + other
    i, j = both.data.real.astype(int) - 1, both.data.imag.astype(int) - 1
    a, b = np.where(i >= 0, A.data[i], 0), np.where(j >= 0, A.data[j].conj(), 0)
    return both.indptr, both.indices, a, b


# ---- by products with a random vector ----------------------------------------------------------------------


def start(n: int, dtype: np.dtype) -> np.ndarray:
    """A unit vector with a part in every direction; the same in every run."""
    v = np.random.default_rng(7).standard_normal(n)
    return (v / np.linalg.norm(v)).astype(dtype)


def sharpened(region: Region, times: Callable[[np.ndarray], np.ndarray], n: int, dtype: np.dtype) -> tuple[Region, int]:
    """The segment of a Hermitian matrix with ends by Lanczos: the outer Ritz values, and their residuals.

    Also how many products that took; it gives up early where the ends are those that were known.
    """
    low, high = region.left, region.right
    V = [start(n, dtype)]
    diagonal, off = [], []
    new = (low, high)
    for k in range(min(N_LANCZOS, n)):
        w = times(V[-1][:, None])[:, 0]
        diagonal.append(float(np.vdot(V[-1], w).real))
        for _ in range(2):
            for v in V:
                w = w - np.vdot(v, w) * v
        off.append(float(np.linalg.norm(w)))
        T = np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
        ritz, vectors = np.linalg.eigh(T)
        residual = off[-1] * np.abs(vectors[-1])
        new = max(low, float(ritz[0] - residual[0])), min(high, float(ritz[-1] + residual[-1]))
        is_same = new[1] - new[0] > 0.97 * (high - low)
        if off[-1] < 1e-12 * max(abs(low), abs(high)) or (k == 5 and is_same):
            break
        V.append(w / off[-1])
    if new[1] - new[0] > 0.97 * (high - low):
        return region, len(diagonal)
    return replace(segment(*new, region.words + ", ends by Lanczos"), d=region.d, is_guess=True), len(diagonal)


def arnoldi(A: Linear, share: float = 0.02) -> Region:
    """The numerical range of Xi on a Krylov space of a random vector, widened by a share of its size."""
    dtype = A.dtype
    V = [start(A.n, dtype)]
    H = np.zeros((N_ARNOLDI + 1, N_ARNOLDI), dtype)
    size = 0
    for k in range(min(N_ARNOLDI, A.n)):
        w = A.times(V[-1][:, None])[:, 0]
        for _ in range(2):
            for j, v in enumerate(V):
                part = np.vdot(v, w)
                H[j, k] += part
                w = w - part * v
        length = float(np.linalg.norm(w))
        size = k + 1
        if length <= 1e-12 * float(np.abs(H).max()):
            break
        H[k + 1, k] = length
        V.append(w / length)
    T = H[:size, :size]
    turn = 2 if dtype.kind == "c" else 1
    theta = np.arange(turn * FINE + 2 - turn) * (math.pi / FINE)
    turned = np.exp(-1j * theta)[:, None, None] * T
    support = np.linalg.eigvalsh((turned + turned.conj().swapaxes(1, 2)) / 2)[:, -1]
    found = Region(theta, support, f"numerical range on {size} Krylov vectors", is_guess=True)
    return found if size == A.n else found.widened(share)


def region_of_functions(A: Functions) -> Region:
    """From what the user knows; what is not known, by Arnoldi.

    bounds: least and largest real part of the numerical range, and of its imaginary part where two more are given.
    """
    bounds = A.bounds
    if A.is_hermitian and bounds is not None:
        return segment(bounds[0], bounds[1], "Hermitian, between the bounds given")
    if bounds is not None and len(bounds) == 4:
        low, high, bottom, top = bounds
        if low == high:
            angle = math.pi / 2 if A.dtype.kind == "c" and low == 0 else 0.0
            words = "on a vertical line, between the bounds given"
            if low == 0:
                return segment(bottom, top, words, is_imaginary=True, angle=angle)
        if bottom == top == 0:
            return segment(low, high, "between the bounds given")
        return box(low, high, bottom, top, "in the box of the bounds given")
    found = arnoldi(A)
    if A.is_hermitian:
        high = min(found.right, 0.0) if A.is_dissipative else found.right
        return replace(segment(found.left, high, f"Hermitian, {found.words}"), is_guess=True)
    right = 0.0 if A.is_dissipative else None
    left = None
    if bounds is not None:
        left, right = bounds[0], bounds[1]
    return clipped(found, left, right)


def clipped(region: Region, left: float | None, right: float | None) -> Region:
    """The part of a region between two real parts, at least; its ends are those."""
    cos, support = np.cos(region.theta), region.support.copy()
    first = np.argmin(np.abs(region.theta))
    last = np.argmin(np.abs(region.theta - math.pi))
    top = float(support[np.argmin(np.abs(region.theta - math.pi / 2))])
    for end, place, sign in ((right, first, 1), (left, last, -1)):
        if end is not None:
            support[place] = sign * end
            # no further than the corner between this end and the height of the set
            corner = sign * cos > 1e-12
            limit = end * cos + np.abs(np.sin(region.theta)) * top
            support = np.where(corner, np.minimum(support, limit), support)
            support[place] = sign * end
    known = [word for word, end in (("left end given", left), ("right end given", right)) if end is not None]
    return replace(region, support=support, words=", ".join([region.words, *known]))
