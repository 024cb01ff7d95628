"""What a method for large Xi is: one that needs products with Xi and no entries of exp(Xi t).

Arrays are NumPy's, float64 or complex128: z0 and the vectors of terms (n, R), one column a trajectory; times t (T,)
that all trajectories share as (1, T), or (R, T); states and their cotangents (R, T, n). Times are not negative: the
engine turns the others round. See `base` for methods that are given all entries of Xi.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..large.linear import Linear

Watch = Callable[[float], None]  # is told the part of the work that is done, between blocks of products


class Task(NamedTuple):
    """What will be asked of a plan."""

    t_max: float
    n_times: int
    n_columns: int
    rtol: float  # of every z(t_i), relative to |z(t_i)|, and of the gradients
    wants_gradient: bool


class Term(NamedTuple):
    """One of the terms f(t, Xi) v whose sum is z(t): "exp" is e^(t x), "phi1" the integral of e^(s x) for s from 0 to t,
    "harmonic" the integral of e^((t - s) x) e^(s w).
    """

    vector: np.ndarray  # (n, R)
    kind: str = "exp"
    w: complex = 0.0


class Answer(NamedTuple):
    """States with their relative errors, as estimated."""

    z: np.ndarray  # (R, T, n)
    error: np.ndarray  # (R,)
    trouble: str | None = None  # the name of a `Status` other than OK


class LargePlan(ABC):
    """How Xi is evaluated: region, degree and steps, or a factorisation."""

    method: str
    reason: str
    rejected: tuple[str, ...] = ()
    is_accepted: bool = True
    t_most: float = np.inf

    @property
    def details(self) -> dict[str, Any]:
        """Figures of the plan and of its last evaluation: counts are the same at every run."""
        return {}

    @abstractmethod
    def states(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None = None) -> Answer:
        """z(t_i), the sum of all terms."""

    @abstractmethod
    def vjp(
        self, terms: Sequence[Term], t: np.ndarray, g: np.ndarray, watch: Watch | None = None
    ) -> tuple[Any, list[np.ndarray]]:
        """Gradients of sum Re<g, z>: with respect to Xi, as `Sampler.total` gives it, and to the vector of each term."""

    @abstractmethod
    def jvp(
        self, terms: Sequence[Term], t: np.ndarray, dXi: Any, dvectors: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """z and its derivative along (dXi, dvectors), both (R, T, n); dXi in the shape of `Sampler.total`, or None."""


class LargeMethod(ABC):
    """A way to evaluate exp(Xi t) z0 by products with Xi."""

    @abstractmethod
    def plan_large(self, A: Linear, task: Task) -> LargePlan:
        """The plan; `is_accepted` is false, with the reason, where the method cannot serve."""

    @abstractmethod
    def cost_large(self, A: Linear, task: Task) -> tuple[float, str]:
        """Estimated seconds of a plan and one evaluation (with gradient where it is wanted), and why, in words."""
