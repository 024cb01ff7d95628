"""The result of `LinearODE.solve`: the trajectory with its status, error estimate and statistics."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from .display import as_numpy, checked_names, frame, html_table


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
    REGION = (
        "the region of the complex plane that was assumed to hold the numerical range of Xi is too small, so that the "
        "recurrence grows and loses digits. Give linode.Operator(..., bounds=...) or dissipative=True where it holds"
    )
    DECAY = (
        "the states decay by so much within one step that no digit of the latest is left. Ask for more times in "
        "between, or for shorter ones; states this small may as well be 0"
    )
    NOT_CONVERGED = (
        "the series did not reach the tolerance within the largest number of products. Use a larger rtol or shorter "
        "times, or another method"
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

    def to_dataframe(self, names: Sequence[str] | None = None) -> Any:
        """The states as a pandas DataFrame: a column for each state, the times as its index.

        Args:
            names: of the n columns; None: z1, z2, ...

        Returns:
            A DataFrame of T rows; for a batch, of all its trajectories below each other, with an index level for each
            dimension of the batch: "trajectory", or "batch 0", "batch 1", ...

        Raises:
            ImportError: pandas is not installed. OptionError: names are too few or too many.

        Example:
            >>> import linode
            >>> solution = linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0]).solve([0.0, 1.0, 2.0])
            >>> solution.to_dataframe(["position", "velocity"]).shape  # doctest: +SKIP
            (3, 2)
        """
        z, t = as_numpy(self.z), as_numpy(self.t)
        z = z[..., None, :] if t.ndim == 0 else z
        *batch, T, n = z.shape
        times = np.broadcast_to(t, z.shape[:-1]).reshape(-1)
        places = np.unravel_index(np.arange(z.size // n) // max(T, 1), batch) if batch else ()
        levels = ["trajectory"] if len(batch) == 1 else [f"batch {i}" for i in range(len(batch))]
        columns = dict(zip(checked_names(names, n, "z"), z.reshape(-1, n).T))
        return frame(times, columns, dict(zip(levels, places)))

    def _repr_html_(self) -> str:
        t, z = as_numpy(self.t), as_numpy(self.z)
        span = f"{t.min():g} to {t.max():g}" if t.size else "none"
        error = as_numpy(self.error_estimate)
        rows = [
            ("status", self.status),
            ("method", self.method),
            ("z", f"{z.shape}, {z.dtype}"),
            ("times", span),
            ("relative error", f"about {error.max():.1e}" if error.size else "-"),
        ]
        return html_table("Solution of a linear ODE", rows)


def _restored(*values: Any) -> Solution:
    t, z, method, status, error_estimate, condition, stats = values
    return Solution(t, z, method, status, error_estimate, lambda: condition, lambda: stats)


class Explanation(str):
    """The text of `LinearODE.explain`, which a notebook shows as a table.

    Example:
        >>> import linode
        >>> type(linode.LinearODE([[-1.0]], [1.0]).explain()).__name__
        'Explanation'
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        parts = (line.partition(": ") for line in self.splitlines())
        return html_table("Explanation", [(name, value) for name, _, value in parts])
