"""What a method for large Xi is: one that needs products with Xi and no entries of exp(Xi t).

Arrays are NumPy's, float64 or complex128: z0 and the vectors of terms (n, R), one column a trajectory; times t (T,)
that all trajectories share as (1, T), or (R, T); states and their cotangents (R, T, n). Times are not negative: the
engine turns the others round. See `base` for methods that are given all entries of Xi.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:  # scipy.sparse comes with it
    from ..large.linear import Linear

Pullback = Callable[[np.ndarray], tuple[Any, list[np.ndarray]]]  # g (R, T, n) to what `LargePlan.vjp` gives
Watch = Callable[[float], None]  # is told the part of the work that is done, between blocks of products


class Task(NamedTuple):
    """What will be asked of a plan."""

    t_max: float
    n_times: int
    n_columns: int
    rtol: float  # of every z(t_i), relative to |z(t_i)|, and of the gradients
    wants_gradient: bool


class Term(NamedTuple):
    """One of the terms f(t, Xi) v whose sum is z(t).

    "exp" is e^(t x), "phi1" the integral of e^(s x) for s from 0 to t, "harmonic" that of e^((t - s) x) e^(s w).
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
    rejected: tuple[str, ...] = ()
    is_accepted: bool = True
    t_most: float = np.inf

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why, in words."""

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
        """Gradients of sum Re<g, z>: to Xi, as `Sampler.total` gives it, and to the vector of each term."""

    def record(self, terms: Sequence[Term], t: np.ndarray, watch: Watch | None = None) -> tuple[Answer, Pullback]:
        """The states, and the function of g that gives the gradients: it may keep what it needs again."""
        return self.states(terms, t, watch), lambda g: self.vjp(terms, t, g, watch)

    @abstractmethod
    def jvp(
        self, terms: Sequence[Term], t: np.ndarray, dXi: Any, dvectors: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """z and its derivative along (dXi, dvectors), both (R, T, n); dXi in the shape of `Sampler.total`, or None."""


@dataclass(frozen=True)
class LargeMethod(ABC):
    """A way to evaluate exp(Xi t) z0 by products with Xi; options are fields, as of `Method`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()  # names of the fields, filled in by `register_large`

    @property
    def key(self) -> str:
        """Name and options as a literal."""
        return repr((self.name, {option: getattr(self, option) for option in self.options}))

    @abstractmethod
    def plan_large(self, A: Linear, task: Task) -> LargePlan:
        """The plan; `is_accepted` is false, with the reason, where the method cannot serve."""

    @abstractmethod
    def cost_large(self, A: Linear, task: Task) -> tuple[float, str]:
        """Estimated seconds of a plan and one evaluation (with gradient where it is wanted), and why, in words."""

    def offer(self, A: Linear, task: Task) -> tuple[float, str, Callable[[], LargePlan]]:
        """What `cost_large` gives, and what makes the plan: a method whose cost comes from a plan keeps it."""
        return *self.cost_large(A, task), lambda: self.plan_large(A, task)


_REGISTRY: dict[str, type[LargeMethod]] = {}
later: list[Callable[[], Any]] = []  # imports of files that register methods, made when the registry is asked for
MethodType = TypeVar("MethodType", bound=type[LargeMethod])


def register_large(method: MethodType) -> MethodType:
    """Class decorator, outermost: make a method for large Xi known under its name."""
    method.options = tuple(option.name for option in fields(method))
    _REGISTRY[method.name] = method
    return method


def large_registry() -> dict[str, type[LargeMethod]]:
    """Every method for large Xi by name.

    Example:
        >>> import linode
        >>> "faber" in linode.methods.large_registry()
        True
    """
    while later:
        later.pop(0)()
    return dict(_REGISTRY)
