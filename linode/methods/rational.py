"""Polynomials in R = (I - gamma Xi)^-1: solves with sparse factors, a few dozen however stiff Xi is.

Use for stiff sparse Xi that can be factored, as of diffusion on lines, planes and triangulations, and for operators
that come with a function for R. Xi of which waves are the larger part are for `faber`.
Plan: whether Xi can be factored (see `large.factor`), the factors, and 8 to 24 solves for the range of R. Evaluate: 20
to 60 solves for all times within a factor 150; as many with R^H for the gradient.
Source: van den Eshof and Hochbruck (2006), SIAM J. Sci. Comput. 27(4), 1438; Caliari, Kandolf and Zivcovich (2018), BIT
58, 907.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse import csr_array

from ..errors import OptionError
from ..large.factor import LARGEST_RESIDUAL, Factors, GivenSolve, Profile, Resolvent, profile
from ..large.linear import Functions, Linear, Matrix
from ..large.rational import EPS, N_ARNOLDI, N_LANCZOS, Effort, Facts, RationalSeries, Refused
from ..large.region import regions
from ..large.sweep import Record, Sweep
from .costs import SECONDS_PER_FLOP
from .large import Answer, LargeMethod, LargePlan, Pullback, Task, Term, Watch, register_large

MOST_RATIO = 50.0  # of the largest time to the least, for which a plan is made that does not know the times
MOST_GROWTH = 200.0  # exponent u t_max up to which R serves: gamma must be less than 1 / u
# of factors, by `scipy.sparse.linalg.splu` 1.17 on AMD EPYC, one thread: lines, grids of 100^2 to 300^2 and of 16^3 to
# 22^3, triangulations of 2e4 and 1e5 points
FILL = 4.0  # entries of the factors over n and the root of the mean width of the profile; 2 to 15 were seen
SECONDS_PER_FACTOR_ENTRY = 7e-8  # of a factorisation: 5.5e-8 to 1.5e-7
SECONDS_PER_SOLVE_ENTRY = 1.7e-9  # of a solve
SECONDS_PER_SOLVE_ROW = 8e-9  # of a solve beside
SECONDS_PER_PROFILE_ENTRY = 4e-8  # an entry of Xi, of its order by reverse Cuthill-McKee
SECONDS_PER_PRODUCT_ENTRY = 6e-10  # an entry of Xi or of a vector, of a product
PRODUCTS_INSTEAD = 5000  # of `faber`, from which on Xi that is not Hermitian may be factored


class RationalPlan(LargePlan):
    """Factors, kept by gamma. What is asked for at times that they do not serve makes others."""

    method = "rational"

    def __init__(self, A: Linear, series: RationalSeries, about: str) -> None:
        self.A, self.series, self.about = A, series, about
        self.figures: dict[str, Any] = {}

    @property
    def reason(self) -> str:
        return f"stiff, and {self.about}; {self.series.known[0].words}"

    @property
    def details(self) -> dict[str, Any]:
        known = self.series.known
        return {
            "region": known[0].words,
            "gamma": tuple(x.gamma for x in known),
            "fill": max(x.R.fill for x in known),
            "symmetrised": self.series.facts.d is not None,
            "n_measuring": sum(x.n_measuring for x in known),
            **self.figures,
        }

    def _counts(self) -> tuple[int, int]:
        return sum(x.R.n_solves for x in self.series.known), sum(x.R.n_transposed for x in self.series.known)

    def _states(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None, keep: bool) -> Evaluated:
        known, (before, _) = len(self.series.known), self._counts()
        parts, z = [], None
        error, trouble = np.zeros(terms[0].vector.shape[1]), None
        growth, steps = 0.0, 0
        for mask, source, sweep in self.series.groups(terms, t, watch):
            record = sweep.states(keep)
            z = record.z if z is None else np.where(mask[..., None], record.z, z)
            error = np.maximum(error, record.error + source.error)
            trouble = trouble or record.trouble
            if trouble is None and source.error > self.series.rtol:
                trouble = "NOT_CONVERGED"
            growth, steps = max(growth, record.growth), steps + record.n_pieces
            parts.append((mask, sweep, record))
        assert z is not None
        error += EPS * self.series.facts.norm * float(t.max(initial=0.0))
        measuring = sum(x.n_measuring for x in self.series.known[known:])
        n_solves = self._counts()[0] - before - measuring
        self.figures = {
            "n_solves": n_solves,
            "n_transposed": 0,
            "steps": steps,
            "degree": math.ceil(n_solves / (steps * len(terms))) if steps else 0,
            "growth": growth,
        }
        return Evaluated(parts, Answer(z, error, trouble))

    def states(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None = None) -> Answer:
        return self._states(terms, t, watch, keep=False).answer

    def record(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None = None) -> tuple[Answer, Pullback]:
        found = self._states(terms, t, watch, keep=True)

        def pullback(g: np.ndarray) -> tuple[Any, list[np.ndarray]]:
            _, before = self._counts()
            sampler = self.A.sampler()
            total: list[np.ndarray] | None = None
            for mask, sweep, record in found.parts:
                own = sweep.reverse(record, np.where(mask[..., None], g, 0), sampler)
                total = own if total is None else [x + y for x, y in zip(total, own)]
            assert total is not None
            self.figures["n_transposed"] = self._counts()[1] - before
            return sampler.total(), total

        return found.answer, pullback

    def vjp(
        self, terms: Sequence[Term], t: np.ndarray, g: np.ndarray, watch: Watch | None = None
    ) -> tuple[Any, list[np.ndarray]]:
        return self.record(terms, t, watch)[1](g)

    def jvp(
        self, terms: Sequence[Term], t: np.ndarray, dXi: Any, dvectors: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        found = self._states(terms, t, None, keep=True)
        change = None if dXi is None else self.A.tangent(dXi)
        dz = np.zeros_like(found.answer.z)
        for mask, sweep, record in found.parts:
            dz = np.where(mask[..., None], sweep.tangent(record, change, dvectors), dz)
        return found.answer.z, dz


@dataclass
class Evaluated:
    """Groups of times with their sweeps, and all states."""

    parts: list[tuple[np.ndarray, Sweep, Record]]
    answer: Answer


class Refusal(LargePlan):
    """Why there is no plan."""

    is_accepted = False

    def __init__(self, method: str, why: str) -> None:
        self.method, self.why = method, why

    @property
    def reason(self) -> str:
        return self.why

    def states(self, *_: Any, **__: Any) -> Answer:
        raise TypeError(f"{self.method} was refused: {self.why}")

    vjp = jvp = states  # type: ignore[assignment]


@register_large
@dataclass(frozen=True)
class Rational(LargeMethod):
    """Polynomials in (I - gamma Xi)^-1; for stiff sparse Xi that can be factored, or operators with `solve`.

    Args:
        gamma: a time, the only one to use; None: chosen by the times, one for each factor 150 by which they spread.

    Raises:
        OptionError: gamma is not a finite number above 0.

    Example:
        >>> import linode
        >>> linode.methods.Rational(gamma=0.1).name
        'rational'
    """

    gamma: float | None = None
    name: ClassVar[str] = "rational"
    summary: ClassVar[str] = "polynomials in (I - gamma Xi)^-1; large stiff Xi that can be factored"

    def __post_init__(self) -> None:
        gamma = self.gamma
        is_number = isinstance(gamma, (int, float)) and not isinstance(gamma, bool)
        if gamma is not None and not (is_number and 0 < gamma < math.inf):
            raise OptionError(f"gamma must be a finite number above 0 or None, got {gamma!r}")

    def plan_large(self, A: Linear, task: Task) -> LargePlan:
        if isinstance(A, Functions) and A.solve is None:
            return Refusal(self.name, "Xi is an operator without a function for (I - gamma Xi)^-1: give it `solve`")
        if isinstance(A, Functions) and task.wants_gradient and A.rsolve is None:
            return Refusal(self.name, "the operator has no function for (I - gamma Xi^H)^-1: give it `rsolve`")
        if not isinstance(A, (Matrix, Functions)):
            return Refusal(self.name, "Xi has no entries to factor")
        facts = facts_of(A)
        if facts is None:
            return Refusal(self.name, "Xi is skew-Hermitian: its waves do not decay, and series in R do not converge")
        if math.isfinite(facts.right) and facts.right * task.t_max > MOST_GROWTH:
            return Refusal(
                self.name,
                f"states may grow by e^({facts.right * task.t_max:.3g}), by the right end {facts.right:.3g} of the "
                "numerical range of Xi: R would have to be near Xi^-1",
            )
        if isinstance(A, Matrix):
            found = profile_of(A)
            if found.refusal:
                return Refusal(self.name, found.refusal)
            scaled = entries(A, facts.d)
            about = f"its profile has {found.entries:.2g} entries"
        else:
            about = "the operator gives (I - gamma Xi)^-1"

        def factor(gamma: float) -> Resolvent:
            R: Resolvent = Factors(scaled, gamma) if isinstance(A, Matrix) else GivenSolve(A, gamma)
            if not R.residual <= max(LARGEST_RESIDUAL, task.rtol):
                raise Refused(f"solves with I - gamma Xi are inaccurate: one leaves a residual of {R.residual:.1g}")
            return R

        series = RationalSeries(factor, facts, task.rtol, task.wants_gradient, self.gamma)
        try:
            series.check(task.t_max if task.t_max > 0 else 1.0, likely_ratio(task))
        except Refused as refusal:
            return Refusal(self.name, str(refusal))
        return RationalPlan(A, series, about)

    def cost_large(self, A: Linear, task: Task) -> tuple[float, str]:
        """A factorisation and its solves; without looking at the pattern where products must be cheaper."""
        if not isinstance(A, Matrix):
            n_solves = number_of_solves(task, is_hermitian=isinstance(A, Functions) and A.is_hermitian)
            return n_solves * A.n * SECONDS_PER_SOLVE_ROW, f"{n_solves} solves by the operator's function"
        most = most_seconds_of_products(A, task)
        order = len(A.data) * SECONDS_PER_PROFILE_ENTRY
        if order + seconds(A, task, 1.0, True)[0] > most:
            return 2 * max(order, most), "not stiff enough for a factorisation to pay"
        found = profile_of(A)
        if found.refusal:
            return math.inf, found.refusal
        facts = facts_of(A)
        if facts is None:
            return math.inf, "Xi is skew-Hermitian"
        cost, n_solves = seconds(A, task, max(1.0, found.entries / A.n), facts.is_hermitian)
        words = f"a factorisation and {n_solves} solves; its profile has {found.entries:.2g} entries"
        if not facts.is_hermitian:  # how many terms a range needs that is not real is seen too late
            cost = max(cost, PRODUCTS_INSTEAD * seconds_of_product(A, task))
            words += f"; not Hermitian, so only instead of some {PRODUCTS_INSTEAD} products"
        return order + cost, words


_FACTS: WeakKeyDictionary[Linear, Facts | None] = WeakKeyDictionary()
_PROFILES: WeakKeyDictionary[Linear, Profile] = WeakKeyDictionary()


def facts_of(A: Linear) -> Facts | None:
    """Of the numerical range of Xi, found once; None where it is skew-Hermitian."""
    if A not in _FACTS:
        _FACTS[A] = _facts(A)
    return _FACTS[A]


def _facts(A: Linear) -> Facts | None:
    found = [x for x in regions(A) if x.norm == 2]
    norm = max((float(np.abs(x.support).max()) for x in found), default=0.0)
    for x in found:
        if x.is_flat:
            ends = [float(x.support[np.argmin(np.abs(x.theta - angle))]) for angle in (math.pi / 2, 1.5 * math.pi)]
            if max(map(abs, ends)) > 1e-9 * norm:
                return None
            if not x.is_guess:
                return Facts(x.right, x.left, norm, True, x.d)
            # a guess by products is wider than what it saw, by too much for gamma
            right = 0.0 if isinstance(A, Functions) and A.is_dissipative else math.inf
            return Facts(right, -math.inf, norm, True, x.d)
    right = min((x.right for x in found if not x.is_guess), default=math.inf)
    if isinstance(A, Functions) and A.is_dissipative:
        right = min(right, 0.0)
    return Facts(right, -math.inf, norm, False)


def entries(A: Matrix, d: np.ndarray | None) -> csr_array:
    """The entries of D^-1 Xi D."""
    data = A.data if d is None else A.data * (d[A.pattern.indices] / d[A.pattern.rows])
    return csr_array((data, A.pattern.indices, A.pattern.indptr), shape=(A.n, A.n))


def profile_of(A: Matrix) -> Profile:
    """Found once."""
    if A not in _PROFILES:
        _PROFILES[A] = profile(entries(A, None))
    return _PROFILES[A]


def likely_ratio(task: Task) -> float:
    """Of the largest time to the least, of equidistant times."""
    return min(MOST_RATIO, float(max(task.n_times, 1)))


def number_of_solves(task: Task, is_hermitian: bool) -> int:
    """To measure the range of R and for the series, and as many with R^H for a gradient."""
    _, terms = Effort(task.rtol, task.wants_gradient, is_hermitian).best(likely_ratio(task))
    return (N_LANCZOS if is_hermitian else N_ARNOLDI) + terms * (2 if task.wants_gradient else 1)


def seconds(A: Matrix, task: Task, width: float, is_hermitian: bool) -> tuple[float, int]:
    """Of a factorisation and what is done with it, for a profile of this mean width; and how many solves."""
    fill = FILL * A.n * math.sqrt(width)
    n_solves = number_of_solves(task, is_hermitian)
    parts = 3 if A.dtype.kind == "c" else 1
    solve = task.n_columns * (fill * SECONDS_PER_SOLVE_ENTRY + A.n * SECONDS_PER_SOLVE_ROW)
    sums = n_solves * task.n_times * task.n_columns * A.n * 2 * SECONDS_PER_FLOP
    return parts * (fill * SECONDS_PER_FACTOR_ENTRY + n_solves * solve + sums), n_solves


def seconds_of_product(A: Matrix, task: Task) -> float:
    """Of a product with Xi, and of what a gradient needs beside it."""
    parts = 3 if A.dtype.kind == "c" else 1
    factor = 3 if task.wants_gradient else 1
    return parts * factor * task.n_columns * (len(A.data) + A.n) * SECONDS_PER_PRODUCT_ENTRY


def most_seconds_of_products(A: Matrix, task: Task) -> float:
    """What products with Xi cost at most where `faber` takes them: some |Xi| t of them, or 40."""
    norm = float(np.bincount(A.pattern.indices, np.abs(A.data), A.n).max(initial=0.0)) if len(A.data) else 0.0
    return (40 + norm * task.t_max) * seconds_of_product(A, task)
