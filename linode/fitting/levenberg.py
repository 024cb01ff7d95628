"""Levenberg-Marquardt on a least-squares problem that is given by its Gram matrix and gradient.

Source: Madsen, Nielsen & Tingleff (2004), Methods for non-linear least squares problems, algorithm 3.16 (damping by the
ratio of gains); Marquardt (1963) and More (1978), section 6 (units from the largest diagonal that was seen).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import lapack

from .products import Array

FIRST_DAMPING = 1e-3  # of a unit diagonal: the tau that Madsen et al. advise for a start that is not close
MOST_DAMPING = 1e12  # for which a step is some 1e-12 of the gradient, and the gain is mostly rounding
LEAST_GAIN = 1e-3  # actual over promised decrease from which on a step is taken; by hand
ROUNDED = 1e-6  # of the cost: a smaller promise that is not kept counts as convergence; by hand
EPS = float(np.finfo(np.float64).eps)


class Model(Protocol):
    """A sum of squared residuals as a function of theta (k,)."""

    def cost(self, theta: Array) -> float:
        """Sum of squared residuals; infinite where the model is not finite."""

    def linearise(self, theta: Array) -> tuple[float, Array, Array]:
        """Cost, J^T J (k, k) and J^T r (k,)."""


@dataclass(frozen=True)
class Minimum:
    """The end of a minimisation."""

    theta: Array
    cost: float
    n_steps: int
    converged: bool
    gram: Array  # J^T J at theta


@np.errstate(all="ignore")  # values that are not finite are refused
def minimise(
    model: Model,
    theta: Array,
    *,
    max_steps: int = 200,
    tol: float = 1e-10,
    floor: float = 0.0,
    report: Callable[[int, float], None] | None = None,
    bounds: tuple[Array, Array] | None = None,
) -> Minimum:
    """Steps from theta until one promises to lower the cost by less than tol of it, or the cost is below the floor.

    bounds: (lowest, highest), each (k,); a parameter at a bound whose step would pass it is held for that step.
    """
    theta = np.array(theta, float)
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    theta = np.clip(theta, low, high)
    cost, gram, gradient = model.linearise(theta)
    if not np.isfinite(cost) or not np.isfinite(gram).all():
        return Minimum(theta, np.inf, 0, False, gram)
    units, damping, factor = np.zeros(len(theta)), FIRST_DAMPING, 2.0
    for step in range(max_steps):
        if report is not None:
            report(step, cost)
        units = np.maximum(units, np.sqrt(np.maximum(np.diag(gram), 0.0)))  # rounding may make it negative
        scale = np.where(units > 0, units, 1.0)
        A, g = gram / np.outer(scale, scale), gradient / scale
        if bounds is not None:
            held = ((theta <= low) & (g > 0)) | ((theta >= high) & (g < 0))
            A, g = A * ~held * ~held[:, None], g * ~held
        while True:
            delta = damped_solution(A, g, damping)
            promise = float(delta @ (damping * delta - g))  # decrease of the cost in the linear model
            if cost <= floor or promise <= tol * cost:
                return Minimum(theta, cost, step, True, gram)
            trial = np.clip(theta + delta / scale, low, high)
            trial_cost = model.cost(trial)
            gain = (cost - trial_cost) / promise
            if gain > LEAST_GAIN:
                break
            damping, factor = damping * factor, 2 * factor
            if damping > MOST_DAMPING:  # a decrease, if there is one, is below rounding
                return Minimum(theta, cost, step, promise <= ROUNDED * cost, gram)
        theta = trial
        damping, factor = damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
        cost, gram, gradient = model.linearise(theta)
        if not np.isfinite(gram).all():
            return Minimum(theta, np.inf, step, False, gram)
    return Minimum(theta, cost, max_steps, False, gram)


def damped_solution(A: Array, g: Array, damping: float) -> Array:
    """-(A + damping I)^-1 g, for A with unit diagonal."""
    _, delta, info = lapack.dposv(A + damping * np.eye(len(A)), -g)
    if info:  # rounding made A indefinite
        damping = max(damping, 1e3 * EPS * len(A))  # well above the rounding of eigenvalues, n eps
        w, V = np.linalg.eigh(A)
        delta = -V @ ((V.T @ g) / (np.maximum(w, 0) + damping))
    return delta
