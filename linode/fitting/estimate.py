"""What a fit found, as arrays: `FitResult` presents it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .products import Array
from .rates import Factors
from .unknowns import System, Unknowns

AGREE = 1e-4  # relative difference of costs up to which two starts count as in one minimum; by hand


class FitStatus(Enum):
    """How a fit ended; its text is the advice. `FitStatus.OK` is the only one that is truthy.

    Example:
        >>> import linode
        >>> result = linode.fit([0.0, 1.0], [1.0, 0.5])  # two values, two unknowns
        >>> result.status.name, bool(result)
        ('NO_FREEDOM', False)
    """

    OK = "the fit converged, and the data determine all that was asked for"
    NOT_CONVERGED = (
        "no start came to rest in a minimum; errors mean little. Ask for fewer states (rank), or for stable=True"
    )
    NOT_IDENTIFIABLE = (
        "some unknowns are not determined by these data, and their values and errors mean nothing; the message names "
        "them. Ask for fewer states (rank), give a structure, or add trajectories"
    )
    MISFIT = (
        "the model leaves more than white noise, so that errors and bands are too small, and forecasts worse than they "
        "say. Ask for more states (rank), a bias or inputs, check sigma; a system that is disturbed all the time needs "
        "a Kalman filter"
    )
    UNCONFIRMED = (
        "starts ended in different minima, so that a better one may have been missed, and errors mean little. Ask for "
        "fewer states (rank), or give a structure with a start"
    )
    NO_FREEDOM = "there are as many unknowns as values: the fit is exact, and there is nothing to judge errors by"

    def __bool__(self) -> bool:
        return self is FitStatus.OK

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


@dataclass(frozen=True)
class Start:
    """One start of a fit: how it was made, its final cost, the number of steps, and whether it converged."""

    name: str
    cost: float
    n_steps: int
    converged: bool


@dataclass(frozen=True)
class Estimate(System):
    """A system that was fitted, with its cost and covariance.

    unknowns: what was free. covariance: of Xi, B and b, row by row, one after the other, for noise of weight 1 (not yet
    times sigma^2). other_variances: of the entries of C, D and z0, and of the delay, by name, where they were unknown.
    n_unknowns: unknowns that the data determine. changes: names of the parts that the data determine up to a change of
    basis of the states.
    null: directions, (k, size of covariance), each of length 1, that the data do not determine, without those changes.
    null_names: names of the entries of null, where they are not those of Xi, B and b.
    at_bounds: names of the parameters that are at a bound, and the bound.
    point, point_covariance: theta of all unknowns, where these were fitted together.
    C_is_refitted: C and D were fitted after them.
    is_confirmed: the cost is that of the fit without the structure, within noise.
    offset: (p,), constant part of the observations that no state explains, y = C z + offset; None: there is none.
    rates: factors of the eigenvalues, their theta and its covariance, where the eigenvalues were fitted.
    theta: parameters of a structure, and their variances.
    """

    unknowns: Unknowns
    cost: float
    converged: bool
    starts: tuple[Start, ...]
    covariance: Array
    n_unknowns: int
    null: Array
    changes: tuple[str, ...] = ()
    other_variances: dict[str, Array] = field(default_factory=dict)
    null_names: tuple[str, ...] = ()
    at_bounds: tuple[tuple[str, float], ...] = ()
    point: Array | None = None
    point_covariance: Array | None = None
    C_is_refitted: bool = False
    is_confirmed: bool = False
    offset: Array | None = None
    rates: tuple[Factors, Array, Array] | None = None
    theta: Array | None = None
    theta_variances: Array | None = None


def agreed(costs: list[float]) -> bool:
    """Whether the two lowest costs are equal within AGREE."""
    best = sorted(costs)[:2]
    return len(best) == 2 and best[1] - best[0] <= AGREE * best[0]
