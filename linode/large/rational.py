"""Stiff Xi by polynomials in R = (I - gamma Xi)^-1: a few dozen solves, however stiff.

Use where |Xi| t is large, Xi can be factored (see `factor`) and its numerical range does not reach far along the
imaginary axis. With x = (1 - 1 / r) / gamma, e^(t x) and its integrals over t are smooth functions of r down to r = 0,
where stiff modes are. Hermitian Xi: Chebyshev polynomials on the interval of r. Otherwise: Newton polynomials, see
`leja`. The recurrence is that of `sweep`, with R in place of Xi.
gamma is a time: times from about gamma to 100 gamma take 20 to 60 solves. Times that spread further are put in groups,
each with its own gamma.
Rounding: I - gamma Xi in floating point is that of another Xi, off by some eps |Xi|: states are off by |Xi| t eps.
Source: van den Eshof and Hochbruck (2006), SIAM J. Sci. Comput. 27(4), 1438 (shift and invert).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .coefficients import Ellipse, faber, function
from .factor import Resolvent, arnoldi, lanczos
from .leja import WIDER, Newton, is_flat, region
from .linear import Linear, Mapped, Sampler, plain
from .sweep import GIVEN_UP, Sweep

EPS = 2.0**-52
N_LANCZOS, MOST_LANCZOS = 8, 24  # steps for the right end of R: as a rule, and at most
N_ARNOLDI = 16  # steps for the numerical range of R
FAR = -1e300  # x at r = 0
SPANS = (10.0, 15.0, 22.0, 33.0, 50.0, 70.0, 100.0, 150.0, 220.0)  # t_max / gamma among which one is chosen
FACTOR_IN_SOLVES = 33  # a factorisation costs as much (2-D grid of 300 x 300: 0.3 s and 9 ms)
MOST_GROUPS = 8  # of times, each with its own gamma
MOST_TERMS = 256  # of a series: more are not worth their solves
MOST_PIECES = 16  # of the time range, where z decays too fast for one
N_WIDENINGS = 4
SHARE = 0.25  # of rtol, for the terms left out


class Facts(NamedTuple):
    """What is known of Xi, or of D^-1 Xi D if it is scaled."""

    right: float  # right end of its numerical range, at most; inf: not known
    left: float  # left end of the spectrum, at least; -inf: not known
    norm: float  # |Xi|, about; 0: not known
    is_hermitian: bool
    d: np.ndarray | None = None  # D^-1 Xi D is meant


class Refused(Exception):
    """No polynomial of R serves; the text says why."""


class ResolventMap(Mapped):
    """B = (R - c) / s."""

    samples_products = True

    X: Any  # a Resolvent, of D^-1 Xi D

    def __init__(self, R: Resolvent, c: complex, s: float, d: np.ndarray | None) -> None:
        self.X, self.c, self.s, self.d = R, plain(c), s, None if d is None else d[:, None]

    def at(self, k: int) -> ResolventMap:
        return self

    def add(self, x: np.ndarray, out: np.ndarray) -> None:
        """out += B x."""
        out += (self.X.times(x) - self.c * x) / self.s

    def add_adjoint(self, y: np.ndarray, out: np.ndarray) -> None:
        """out += B^H y."""
        out += (self.X.adjoint_times(y) - np.conj(self.c) * y) / self.s

    def sample_products(
        self, sampler: Sampler, Y: np.ndarray, BY: np.ndarray, X: np.ndarray, BX: np.ndarray, low: int
    ) -> None:
        """Add what sum_k Y_k X_k^H, a gradient with respect to B, is as one with respect to Xi: as dR is
        gamma R dXi R, it is gamma / s sum_k (R^H Y_k) (R X_k)^H. BY and BX are B^H Y_k and B X_k; low: the first k.
        """
        c, s = self.parts(low, low + len(Y))
        RY, RX = BY + np.conj(c) / s * Y, s * BX + c * X
        RY *= self.X.gamma
        if self.d is not None:
            RY, RX = RY / self.d, RX * self.d
        sampler.add(RY, RX)

    def parts(self, low: int, high: int) -> tuple[Any, Any]:
        """c and s of these k."""
        return self.c, self.s

    def tangent(self, dX: Linear) -> ResolventTangent:
        return ResolventTangent(self, dX)


class NewtonMap(ResolventMap):
    """B_k = (R - c_k) / s_k."""

    def __init__(self, R: Resolvent, newton: Newton, d: np.ndarray | None) -> None:
        super().__init__(R, 0.0, 1.0, d)
        self.newton = newton

    def at(self, k: int) -> ResolventMap:
        return ResolventMap(self.X, self.newton.c[k], self.newton.s[k], None if self.d is None else self.d[:, 0])

    def parts(self, low: int, high: int) -> tuple[Any, Any]:
        c, s = np.array(self.newton.c[low:high]), np.array(self.newton.s[low:high])
        return c[:, None, None], s[:, None, None]


class ResolventTangent(Mapped):
    """What a change of Xi changes in B: gamma R dXi R / s."""

    def __init__(self, B: ResolventMap, dX: Linear) -> None:
        self.B, self.dX = B, dX

    def at(self, k: int) -> ResolventTangent:
        return ResolventTangent(self.B.at(k), self.dX)

    def add(self, x: np.ndarray, out: np.ndarray) -> None:
        R, d = self.B.X, self.B.d
        x = R.times(x)
        x = self.dX.times(x) if d is None else self.dX.times(x * d) / d
        out += R.times(x) * (R.gamma / self.B.s)


class Factored:
    """A gamma with its factors and the range of R.

    Attributes:
        n_measuring: solves that the range took.
    """

    def __init__(self, R: Resolvent, facts: Facts, span: float) -> None:
        self.R, self.facts, self.gamma, self.span = R, facts, R.gamma, span
        self.wider, self.n_widenings = WIDER, 0
        self.newton: Newton | None = None
        self.most = 1 / (1 - self.gamma * facts.right) if np.isfinite(facts.right) else np.inf
        if self.most <= 0:
            raise Refused(
                f"1 / gamma = {1 / self.gamma:.3g} is not to the right of Xi, whose right end is {facts.right:.3g}"
            )
        self.low = 1 / (1 - self.gamma * facts.left) if np.isfinite(facts.left) else 0.0
        if facts.is_hermitian:
            # to 1 / span, so that e^(u t), which coefficients are compared with, is right to a factor e
            least, value, error = lanczos(R, N_LANCZOS, MOST_LANCZOS, 1 / span, self.most)
            if least < -EPS * R.n * value:
                raise Refused(f"1 / gamma = {1 / self.gamma:.3g} lies within the spectrum of Xi")
            self.right = min(value + error, self.most)
            self.low = min(self.low, 0.5 * self.right)
        else:
            self.H = arnoldi(R, N_ARNOLDI)
            self._measure_region()
        self.n_measuring = R.n_solves

    def _measure_region(self) -> None:
        K = region(self.H, self.most, self.wider)
        if K is None:
            raise Refused("1 / gamma is not to the right of the numerical range of Xi")
        self.K, self.right = K, K.right
        self.newton = None if is_flat(K) else Newton(K)
        self.low = 0.0

    def widen(self) -> None:
        self.n_widenings += 1
        if self.facts.is_hermitian:
            self.right = min(self.right * (1 + 2**self.n_widenings / self.span), self.most)
            self.low *= 0.5
        else:
            self.wider *= 4
            self._measure_region()

    @property
    def end(self) -> float:
        """The right end of Xi that the range of R stands for."""
        return (1 - 1 / self.right) / self.gamma

    @property
    def words(self) -> str:
        if self.newton is None:
            return f"R on [{self.low:.3g}, {self.right:.3g}]"
        return f"R in a hull from 0 to {self.right:.3g} of height {self.K.height:.2g}"


class ResolventExpansion:
    """Polynomials in R, and the coefficients of the exponential and its integrals in them: as `sweep` needs it.

    Attributes:
        error: of polynomials of MOST_TERMS terms, relative to the largest value of the function.
    """

    norm = 2.0
    n_terms = 40  # about

    def __init__(self, factored: Factored, h: float, size: float) -> None:
        self.factored, self.h, self.d = factored, h, factored.facts.d
        self.u, self.size = factored.end, size
        self.is_normal = factored.facts.is_hermitian
        self.error = 0.0
        newton = factored.newton
        self.newton = newton
        length = factored.right - factored.low
        self.ellipse = Ellipse(factored.low + length / 2, length / 2, 0.0)
        self.length = length
        if newton is None:
            self.B = ResolventMap(factored.R, self.ellipse.c, self.ellipse.rho.real, self.d)
        else:
            self.B = NewtonMap(factored.R, newton, self.d)

    def within(self, span: slice) -> ResolventExpansion:
        raise NotImplementedError("R reaches every state")

    @property
    def tau(self) -> float | np.ndarray:
        return self.ellipse.tau if self.newton is None else np.array(self.newton.tau)

    def coefficients(self, kind: str, t: np.ndarray, w: complex) -> np.ndarray:
        w = complex(w)
        w = w if w.imag else w.real
        gamma = self.factored.gamma
        if self.newton is None:

            def part(take: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
                return faber(self.ellipse, lambda r: take(resolved(kind, r.real, t, w, gamma)), 40, True)

            # on an interval the real and the imaginary part are functions with real coefficients
            return joined([part(np.real), part(np.imag)] if isinstance(w, complex) else [part(np.real)])
        z = self.newton.z
        values = resolved(kind, z, t, w, gamma)
        parts = [values]
        if self.newton.K.is_symmetric and isinstance(w, complex):  # two functions, conjugate at conjugate points
            other = resolved(kind, z, t, w.conjugate(), gamma)
            parts = [(values + other) / 2, (values - other) / 2j]
        pairs = [self.newton.approximations(part, MOST_TERMS) for part in parts]
        self.error = max(self.error, *(error for _, error in pairs))
        return joined([C for C, _ in pairs])

    def weights(self, n_terms: int) -> np.ndarray:
        return weights(n_terms, self.factored.right, self.length, self.h / self.factored.gamma)


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Coefficients of one function, or of the real and the imaginary one of two."""
    if len(parts) == 1:
        return parts[0]
    n = max(x.shape[1] for x in parts)
    first, second = (np.pad(x, ((0, 0), (0, n - x.shape[1]))) for x in parts)
    return first + 1j * second


def resolved(kind: str, r: np.ndarray, t: np.ndarray, w: complex, gamma: float) -> np.ndarray:
    """f(t, x) of a term at x = (1 - 1 / r) / gamma, in the precision of r: (T, P)."""
    if r.dtype.kind != "c":
        r = np.maximum(r, 0)  # rounding of the last point
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        x = np.where(r == 0, FAR, (1 - 1 / np.where(r == 0, 1, r)) / gamma)
        return function(kind, x, t.astype(r.real.dtype), w)


def weights(n_terms: int, right: float, length: float, span: float) -> np.ndarray:
    """How much more than the states a term changes gradients with respect to Xi.

    These are divided differences in x: at most gamma r^2 times the largest derivative in r, which is 2 k^2 / length for
    F_k; the gradient itself is of the order of h = span gamma.
    """
    return np.maximum(1.0, np.arange(n_terms) ** 2 * 2 * right**2 / (length * span))


class Group:
    """Times that share a gamma: where `sweep` gets its expansions from.

    Attributes:
        error: of the longest polynomials used, see `ResolventExpansion`.
    """

    def __init__(self, series: RationalSeries, factored: Factored, t_max: float) -> None:
        self.factored, self.step = factored, t_max
        self.tol, self.wants_gradient = SHARE * series.rtol, series.wants_gradient
        self.n_widenings = 0
        self.expansions: list[ResolventExpansion] = []

    @property
    def error(self) -> float:
        return max((x.error for x in self.expansions), default=0.0)

    def expansion(self, h: float) -> ResolventExpansion:
        """With the gamma of the group, also for shorter pieces of it, which need few terms more."""
        # pieces shorter than a part of the whole are no remedy for decay
        self.expansions.append(ResolventExpansion(self.factored, h, GIVEN_UP * MOST_PIECES / self.step))
        return self.expansions[-1]

    def widen(self) -> bool:
        if self.n_widenings == N_WIDENINGS:
            return False
        self.n_widenings += 1
        self.factored.widen()
        return True


class RationalSeries:
    """Factors and ranges by gamma, kept for later calls, and the groups of times.

    Args:
        factor: gives R for a gamma. gamma: the only one to use; None: chosen by the times.
        rtol, wants_gradient: as of `methods.large.Task`.
    """

    def __init__(
        self,
        factor: Callable[[float], Resolvent],
        facts: Facts,
        rtol: float,
        wants_gradient: bool,
        gamma: float | None = None,
    ) -> None:
        self.factor, self.facts, self.gamma = factor, facts, gamma
        self.rtol, self.wants_gradient = rtol, wants_gradient
        self.effort = Effort(rtol, wants_gradient, facts.is_hermitian)
        self.known: list[Factored] = []

    def factored_for(self, t_max: float, ratio: float) -> Factored:
        """That of the best gamma for times from t_max / ratio to t_max, or one at hand that saves a factorisation."""
        if self.gamma is not None:
            gamma, terms = self.gamma, MOST_TERMS
        else:
            span, terms = self.effort.best(ratio)
            right = self.facts.right if np.isfinite(self.facts.right) else 0.0
            gamma = 1 / (span / t_max + max(0.0, right))

        def more(known: Factored) -> int:
            spans = (t_max / known.gamma, t_max / ratio / known.gamma)
            return max(self.effort.terms(rounded(s)) for s in spans) - terms

        best = min(self.known, key=more, default=None)
        if best is None or more(best) > FACTOR_IN_SOLVES:
            best = Factored(self.factor(gamma), self.facts, t_max / gamma)
            self.known.append(best)
        return best

    def check(self, t_max: float, ratio: float) -> None:
        """Factor for times up to t_max, and see that the series are short enough.

        Raises:
            Refused: they are not, or there is no range of R.
        """
        factored = self.factored_for(t_max, ratio)
        expansion = ResolventExpansion(factored, t_max, 0.0)
        C = np.abs(expansion.coefficients("exp", np.array([t_max / ratio, t_max]), 0.0))
        if expansion.error > self.rtol:
            raise Refused(
                f"polynomials of {C.shape[1]} terms of R are off by {expansion.error:.1g}: {factored.words}; "
                "waves of Xi turn too often"
            )

    def split(self, t: np.ndarray) -> list[tuple[float, float]]:
        """Least and largest time of each group, for times > 0: as many groups as cost least."""
        low, high = float(t.min()), float(t.max())
        if self.gamma is not None:
            return [(low, high)]
        choices = []
        for n_groups in range(1, MOST_GROUPS + 1):
            edges = np.geomspace(low, high, n_groups + 1)
            label = np.searchsorted(edges[1:-1], t, "left")
            inner = [t[label == i] for i in range(n_groups)]
            spans = [(float(x.min()), float(x.max())) for x in inner if len(x)]
            terms = [self.effort.best(b / a)[1] for a, b in spans]
            solves = sum(terms) * (2 if self.wants_gradient else 1)
            choices.append((FACTOR_IN_SOLVES * len(spans) + solves, n_groups, spans))
            if high <= 2 * low:
                break
        return min(choices)[2]

    def groups(
        self, terms: Any, t: np.ndarray, watch: Callable[[float], None] | None
    ) -> list[tuple[np.ndarray, Group, Sweep]]:
        """Groups of times: masks of them in t (1 or R, T), and what evaluates them; other times are 0 in it."""
        positive = np.unique(t[t > 0])
        found = []
        spans = self.split(positive) if len(positive) else [(0.0, 0.0)]
        for i, (a, b) in enumerate(spans):
            mask = (t >= a) & (t <= b)
            if i == 0:
                mask |= t == 0
            # where all times are 0 there is no solve, and any factors do
            source = Group(self, self.factored_for(b, b / a), b) if b > 0 else Group(self, self.known[0], 1.0)
            share = None if watch is None else _share(watch, i, len(spans))
            found.append((mask, source, Sweep(source, terms, np.where(mask, t, 0.0), share)))
        return found


class Effort(NamedTuple):
    """How many terms series of e^(t x) need."""

    rtol: float
    wants_gradient: bool
    is_hermitian: bool

    def terms(self, span: float) -> int:
        """At t / gamma = span, for Xi of any stiffness and right end 0. Where Xi is not Hermitian, as was seen for
        ranges of R of heights from 0.01 to 0.4.
        """
        if not self.is_hermitian:
            return round(max(30 + 100 / span**0.8, 15 + 2.6 * span**0.6) * max(0.5, -math.log10(self.rtol) / 10))
        return _terms(self, span)

    def best(self, ratio: float) -> tuple[float, int]:
        """t_max / gamma for times of this ratio of the largest to the least, and the terms that it needs."""
        return _best(self, rounded(ratio))


@lru_cache(maxsize=512)
def _terms(effort: Effort, span: float) -> int:
    C = np.abs(faber(Ellipse(0.5, 0.5, 0.0), lambda r: resolved("exp", r, np.array([span]), 0.0, 1.0), 40, True)[0])
    if effort.wants_gradient:
        C = C * weights(len(C), 1.0, 1.0, span)
    return int((np.cumsum(C[::-1])[::-1] > SHARE * effort.rtol).sum())


@lru_cache(maxsize=512)
def _best(effort: Effort, ratio: float) -> tuple[float, int]:
    terms, span = min((max(effort.terms(s), effort.terms(s / ratio)), s) for s in SPANS)
    return span, terms


def rounded(ratio: float) -> float:
    """To a power of 2^(1/4) that is not less, so that caches find it again."""
    return float(2 ** (np.ceil(4 * np.log2(ratio)) / 4))


def _share(watch: Callable[[float], None], i: int, n: int) -> Callable[[float], None]:
    return lambda done: watch((i + done) / n)
