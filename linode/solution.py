"""The result of `LinearODE.solve`: the trajectory with its status, error estimate and statistics."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any


class Status(Enum):
    """A numerical outcome; its text is the advice. `Status.OK` is the only one that is truthy.

    Example:
        >>> import linode
        >>> status = linode.LinearODE([[1.0]], [1.0]).solve([1000.0]).status
        >>> status.name, bool(status)
        ('OVERFLOW', False)
    """

    OK = "the estimated error of the trajectory is small"
    OVERFLOW = (
        "the trajectory grows past the largest float; entries that do are inf. "
        "Use shorter times, or subtract the growth rate from Xi's diagonal and keep it apart"
    )
    ILL_CONDITIONED = (
        "rounding has changed leading digits of the trajectory: error_estimate says how many are left. "
        "Check the units of Xi and t, or use shorter times"
    )
    UNRESOLVED_INPUT = (
        "the input is a function that was sampled, and z(t) changes where it is sampled more densely. Pass "
        "linode.Smooth(u, m, breaks=..., max_evaluations=...), or a hold of samples where the function is not smooth"
    )

    def __bool__(self) -> bool:
        return self is Status.OK

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


@dataclass(frozen=True)
class Stats:
    """What the evaluation did.

    Attributes:
        n: number of states. n_systems, n_times: numbers of matrices and times. reason: why this method was chosen.
        rejected: methods that were not chosen, each with its reason. details: figures of the decomposition by name.

    Example:
        >>> import linode
        >>> stats = linode.LinearODE([[-1.0]], [1.0]).solve([0.0, 1.0]).stats
        >>> stats.n, stats.n_systems, stats.n_times, stats.reason
        (1, 1, 2, 'Xi is diagonal')
    """

    n: int
    n_systems: int
    n_times: int
    reason: str
    rejected: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Solution:
    """A trajectory with its accuracy.

    Attributes:
        t: times as given. z: (*batch, T, n), the same numbers as `ode(t)`. method: name of the method used.
        status: truthy if it is OK, else its text is advice.
        error_estimate: (*batch,), of the error of z in its norm over all times, relative to that norm: what rounding
            did to this answer, found by a second one in other arithmetic, and what sampling of an input adds. Errors of
            Xi are not in it: they act by `condition`.
        condition: relative condition number of z(t) with respect to Xi, (*batch,); computed when first asked for.
        stats: a `Stats`; put together when first asked for.

    Example:
        >>> import linode
        >>> solution = linode.LinearODE([[-1.0, 0.0], [0.0, -2.0]], [1.0, 0.0]).solve([0.0, 1.0])
        >>> solution.z.shape, solution.method, bool(solution.status), float(solution.error_estimate) < 1e-15
        ((2, 2), 'eig', True, True)
        >>> round(float(solution.condition), 3)
        0.772
    """

    t: Any
    z: Any
    method: str
    status: Status
    error_estimate: Any
    _condition: Callable[[], Any] = field(repr=False, compare=False)
    _stats: Callable[[], Stats] = field(repr=False, compare=False)

    @cached_property
    def condition(self) -> Any:
        """Relative condition number of z(t) with respect to Xi, (*batch,), see `LinearODE.condition`."""
        return self._condition()

    @cached_property
    def stats(self) -> Stats:
        """What the evaluation did."""
        return self._stats()

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """The states over time; see `linode.plotting.plot_trajectories`. Needs matplotlib."""
        return importlib.import_module("linode.plotting").plot_trajectories(self.t, self.z, ax=ax, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        own = self.t, self.z, self.method, self.status, self.error_estimate
        return _restored, (*own, self.condition, self.stats)


def _restored(*values: Any) -> Solution:
    t, z, method, status, error_estimate, condition, stats = values
    return Solution(t, z, method, status, error_estimate, lambda: condition, lambda: stats)
