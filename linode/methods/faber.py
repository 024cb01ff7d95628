"""Faber series on an ellipse round the numerical range: products with Xi, one recurrence for all times.

Use for large Xi of which products are cheap: sparse matrices and operators. Diffusion costs about the root of |Xi| t
products, transport |Xi| t times half the height of the numerical range; stiffer systems are for `rational`.
Plan: the region, a few passes over the entries. Evaluate: the products, and a product of matrices for many times.
Source: Novati (2003), Numer. Linear Algebra Appl. 10, 247; Beckermann & Reichel (2009), SIAM J. Numer. Anal. 47, 3849;
Tal-Ezer & Kosloff (1984), J. Chem. Phys. 81, 3967.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..large.coefficients import Ellipse, faber, function
from ..large.linear import Linear, Mapped, Matrix
from ..large.region import WORTH, Region, regions, sharpened
from ..large.sweep import Record, Sweep
from .costs import SECONDS_PER_ENTRY, SECONDS_PER_FLOP
from .large import Answer, LargeMethod, LargePlan, Pullback, Task, Term, Watch, register_large

LEAST_RTOL = 1e-13  # what is asked for below is asked for in vain
OVERSHOOT_DIGITS = 30 * 2.0**-53  # of the largest coefficient: what rounding leaves
MOST_WIDENINGS = 12
FIRST_WIDENING = 0.01  # of the size of the region; doubled each time
SECONDS_PER_PRODUCT_ENTRY = 6e-10  # of an entry of Xi, with its share of vectors
MOST_EXPONENT = 600.0  # of e^(h x) within a step
ENTRIES_OF_FUNCTION = 10  # a row, for products whose price is not known


class FaberExpansion:
    """The polynomials of one ellipse, and the coefficients of the exponential and its integrals in them."""

    def __init__(self, A: Linear, region: Region, ellipse: Ellipse, h: float, n_terms: int) -> None:
        self.ellipse, self.h, self.n_terms = ellipse, h, n_terms
        self.B: Mapped = A.mapped(ellipse.c, ellipse.rho, region.d)
        self.tau, self.u, self.norm, self.d = ellipse.tau, region.right, region.norm, region.d
        self.size = max(ellipse.a, ellipse.b)
        self.is_normal = region.is_flat

    def coefficients(self, kind: str, t: np.ndarray, w: complex) -> np.ndarray:
        w = complex(w)
        return faber(self.ellipse, lambda x: function(kind, x, t, w if w.imag else w.real), self.n_terms, not w.imag)

    def within(self, span: slice) -> FaberExpansion:
        other = copy.copy(self)
        other.B = self.B.within(span)
        other.d = None if self.d is None else self.d[span]
        return other

    def weights(self, n_terms: int) -> np.ndarray:
        # the derivative of F_k is up to k^2 / size; that of the exponential h
        return np.maximum(1.0, np.arange(n_terms) ** 2 / max(2 * self.size * self.h, 1e-300))


class FaberPlan(LargePlan):
    """A region and a number of steps. Evaluations widen the region, or shorten steps, where they find they must."""

    method = "faber"

    def __init__(self, A: Linear, region: Region, task: Task, n_steps: int, n_terms: int, u: float) -> None:
        self.A, self.region, self.task = A, region, task
        self.n_steps, self.n_terms, self.u = n_steps, n_terms, u
        self.step = task.t_max / n_steps if task.t_max > 0 else 1.0
        self.tol = step_tolerance(task.rtol, n_steps)
        self.wants_gradient = task.wants_gradient
        self.n_widenings = 0
        self.expansions: dict[float, FaberExpansion] = {}
        self.figures: dict[str, Any] = {}

    @property
    def reason(self) -> str:
        return f"{self.n_steps} steps of some {self.n_terms} products; {self.region.words}"

    @property
    def details(self) -> dict[str, Any]:
        ellipse = self.expansion(self.step).ellipse
        return {
            "steps": self.n_steps,
            "degree": self.n_terms,
            "region": f"{self.region.words}: centre {ellipse.c:.4g}, half axes {ellipse.a:.4g} and {ellipse.b:.4g}",
            "symmetrised": self.region.d is not None,
            "widened": self.n_widenings,
            **self.figures,
        }

    def expansion(self, h: float) -> FaberExpansion:
        found = self.expansions.get(h)
        if found is None:
            (ellipse,), terms = self.region.best(np.array([h]), self.u, self.tol, budget(self.tol))
            n_terms = int(terms[0]) if np.isfinite(terms[0]) else 64
            found = self.expansions[h] = FaberExpansion(self.A, self.region, ellipse, h, n_terms)
        return found

    def widen(self) -> bool:
        if self.n_widenings == MOST_WIDENINGS:
            return False
        self.region = self.region.widened(FIRST_WIDENING * 2**self.n_widenings)
        self.n_widenings += 1
        self.u = min(self.u, self.region.right)
        self.expansions.clear()
        return True

    def record(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None = None) -> tuple[Answer, Pullback]:
        sweep = Sweep(self, terms, t, watch)
        record = self._states(sweep, keep=True)

        def pullback(g: np.ndarray) -> tuple[Any, list[np.ndarray]]:
            first, last = self.A.n_products, self.A.n_transposed
            sampler = self.A.sampler()
            found = sweep.reverse(record, g, sampler)
            self.figures["n_transposed"] = self.A.n_transposed - last
            self.figures["n_products_of_reverse"] = self.A.n_products - first
            return sampler.total(), found

        return Answer(record.z, record.error, record.trouble), pullback

    def _states(self, sweep: Sweep, keep: bool) -> Record:
        first = self.A.n_products
        record = sweep.states(keep)
        self.figures = {
            "n_products": self.A.n_products - first,
            "n_transposed": 0,
            "growth": record.growth,
            "n_pieces": record.n_pieces,
            "window": record.n_states,
        }
        return record

    def states(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None = None) -> Answer:
        record = self._states(Sweep(self, terms, t, watch), keep=False)
        return Answer(record.z, record.error, record.trouble)

    def vjp(
        self, terms: Sequence[Term], t: np.ndarray, g: np.ndarray, watch: Watch | None = None
    ) -> tuple[Any, list[np.ndarray]]:
        return self.record(terms, t, watch)[1](g)

    def jvp(
        self, terms: Sequence[Term], t: np.ndarray, dXi: Any, dvectors: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        sweep = Sweep(self, terms, t, None)
        record = self._states(sweep, keep=True)
        return record.z, sweep.tangent(record, None if dXi is None else self.A.tangent(dXi), dvectors)


def step_tolerance(rtol: float, n_steps: int) -> float:
    """Of each of so many steps, whose errors add up."""
    return max(rtol, LEAST_RTOL) / (2 * math.sqrt(n_steps))


def budget(tol: float) -> float:
    """The exponent by which an ellipse may pass the right end: rounding grows as much."""
    return max(math.log(tol / OVERSHOOT_DIGITS), 0.5)


@register_large
@dataclass(frozen=True)
class Faber(LargeMethod):
    """Faber series on an ellipse round the numerical range of Xi.

    Example:
        >>> import linode
        >>> linode.methods.Faber().name
        'faber'
    """

    name: ClassVar[str] = "faber"
    summary: ClassVar[str] = "series on an ellipse round the numerical range; large Xi, products only"

    def plan_large(self, A: Linear, task: Task) -> FaberPlan:
        found = regions(A)
        u = min(region.right for region in found)
        region, n_steps, n_terms = cheapest(found, A, task, u)
        if region.is_flat and not region.is_guess and isinstance(A, Matrix) and n_steps * n_terms > WORTH:
            is_real = region.left < region.right
            if is_real:
                B = A.mapped(0.0, 1.0, region.d)

                def times(x: np.ndarray) -> np.ndarray:
                    out = np.zeros_like(x)
                    B.add(x, out)
                    return out

                better, _ = sharpened(region, times, A.n, A.dtype)
                if better is not region:
                    u = min(u, better.right)
                    region, n_steps, n_terms = cheapest([better], A, task, u)
        return FaberPlan(A, region, task, n_steps, n_terms, u)

    def cost_large(self, A: Linear, task: Task) -> tuple[float, str]:
        return self.offer(A, task)[:2]

    def offer(self, A: Linear, task: Task) -> tuple[float, str, Callable[[], LargePlan]]:
        plan = self.plan_large(A, task)
        seconds = cost(A, task, plan.n_steps, plan.n_terms)
        return seconds * (4 if task.wants_gradient else 1), plan.reason, lambda: plan


def prices(A: Linear, task: Task) -> tuple[float, float]:
    """Seconds of a product, and of adding a term to the states of one time."""
    n_entries = len(A.data) if isinstance(A, Matrix) else ENTRIES_OF_FUNCTION * A.n
    parts = 2 if A.dtype.kind == "c" else 1
    columns = max(task.n_columns, 1)
    product = parts * columns * (n_entries * SECONDS_PER_PRODUCT_ENTRY + 2 * A.n * SECONDS_PER_ENTRY)
    return product, parts**2 * columns * A.n * 2 * SECONDS_PER_FLOP


def cost(A: Linear, task: Task, n_steps: int, n_terms: float) -> float:
    product, term = prices(A, task)
    return n_terms * (n_steps * product + task.n_times * term)


def cheapest(found: Sequence[Region], A: Linear, task: Task, u: float) -> tuple[Region, int, int]:
    """Region, number of steps and terms of a step whose products and sums cost least."""
    product, term = prices(A, task)
    t_max = task.t_max if task.t_max > 0 else 1.0
    best: tuple[float, Region, int, int] | None = None
    for region in found:
        most = max(region.size * t_max, 1.0)
        steps = np.unique(np.geomspace(1, 4 * most + 16, 64).astype(int))
        least = math.ceil(max(region.right, 0.0) * t_max / MOST_EXPONENT)
        steps = np.unique(np.maximum(steps, least))
        # the tolerance of a step depends on their number so little that that of one in the middle serves
        tol = step_tolerance(task.rtol, 8)
        _, terms = region.best(t_max / steps, u, tol, budget(tol))
        seconds = terms * (steps * product + task.n_times * term)
        i = int(np.argmin(seconds))
        if best is None or seconds[i] < best[0]:
            best = float(seconds[i]), region, int(steps[i]), int(terms[i]) if np.isfinite(terms[i]) else 64
    assert best is not None
    return best[1:]
