"""Minimisation from several starts, until two of them end in the same minimum.

Constants without an origin of their own were chosen by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Protocol

import numpy as np

from .estimate import Start, agreed
from .levenberg import Minimum, Model, minimise
from .products import Array, sum_of_squares
from .progress import Report, Step

FIRST_STEPS, ALL_STEPS = 30, 150  # steps of a start: in its first run, and when no other starts are left
MOST_STARTS = 8  # that are run
MOST_CHARTS = 4  # changes of coordinates in one run
NOISY = 0.01  # cost / sum of squares of the data above which one more start is run, as noise may hide a weak mode
NEARLY_EXACT = 1e-12  # cost / sum of squares of the data below which errors that remain hide no better minimum
ROUGH, FINE = 1e-6, 1e-10  # relative decrease of the cost that a step must promise: in the race, in the last run
SPIKE = 4.0  # cost penalty for each mode that fits a single sample, in units of the noise in one sample
LEAST_SEEN = 0.5  # a mode fits a single sample if its sum of squares after that sample is less than half of it
SAME = 1e-5  # relative difference of costs below which a converged minimum is taken before one that is not
ZERO = 1e-26  # cost / sum of squares of the data, about 50 eps^2, that rounding alone leaves


class Runner(Model, Protocol):
    """A model as a race needs it."""

    least_starts: int  # number of starts that are run even if two agree before
    enough: float  # a cost that no other minimum can undercut by more than noise

    @property
    def bounds(self) -> tuple[Array, Array] | None:
        """Lowest and highest theta."""

    def leaves_noise(self, theta: Array) -> bool:
        """Whether residuals look like noise (see `residuals.is_noise`)."""

    def n_spikes(self, theta: Array) -> int:
        """How many eigenvalues affect one sample only (see `count_spikes`)."""

    def rechart(self, theta: Array) -> Array:
        """theta of the same system in other coordinates, better conditioned for the next steps."""


def race(
    model: Runner, starts: Iterable[tuple[str, Array]], weights: Array, y: Array, report: Report
) -> tuple[Minimum | None, tuple[Start, ...]]:
    """The best minimum, or None if no start has a finite cost; and the result of each start.

    Starts are made one by one. Stop when two agree (two of three where noise is strong), unless residuals are
    correlated, of data that are not nearly exact, or a mode fits one sample; at once where the cost is `model.enough`.
    A start that needs more than FIRST_STEPS continues after all others. The minimum with the lowest cost is the best,
    after a penalty for each mode that fits one sample: such a mode removes the noise of that sample from the cost,
    whatever the true system is.
    weights, y: of the data (*, channels).
    """
    total, n_values = sum_of_squares(y), max(1, int(np.count_nonzero(weights)))
    spike = SPIKE * weights.shape[-1] / n_values
    ended: list[tuple[str, Minimum, int]] = []
    waiting: list[tuple[str, Minimum]] = []

    def run(name: str, theta: Array, max_steps: int, before: int = 0) -> bool:
        """Whether the race is over."""
        found = charted(model, theta, max_steps, ZERO * total, report(name))
        if not np.isfinite(found.cost):
            return False
        found = replace(found, n_steps=found.n_steps + before)
        if not found.converged and max_steps == FIRST_STEPS:
            waiting.append((name, found))
            return False
        ended.append((name, found, model.n_spikes(found.theta)))
        lowest = min(x.cost for x in (*(x for _, x, _ in ended), *(x for _, x in waiting)))
        if lowest <= max(ZERO * total, model.enough) and lowest == min(x.cost for _, x, _ in ended):
            return True
        needed = model.least_starts + (lowest > NOISY * total)
        if not agreed([x.cost for _, x, _ in ended if x.converged]) or len(ended) + len(waiting) < needed:
            return False
        _, best, n_spikes = min(ended, key=lambda x: x[1].cost)
        if best.cost > lowest * (1 + SAME):
            return False
        is_noise = best.cost <= NEARLY_EXACT * total or model.leaves_noise(best.theta)
        return max_steps > FIRST_STEPS or (n_spikes == 0 and is_noise)

    def finish(entry: tuple[str, Minimum]) -> bool:
        """As `run`, for a start that waits."""
        waiting[:] = [x for x in waiting if x is not entry]
        return run(entry[0], entry[1].theta, ALL_STEPS, entry[1].n_steps)

    def chosen() -> Minimum | None:
        every = ended + [(name, x, model.n_spikes(x.theta)) for name, x in waiting]
        judged = [(x.cost * (1 + spike * n_spikes), x) for _, x, n_spikes in every]
        lowest = min((cost for cost, _ in judged), default=np.inf)
        near = [x for cost, x in judged if cost <= lowest * (1 + SAME)]
        return min(near, key=lambda x: (not x.converged, x.cost), default=None)

    over = False
    for name, theta in islice(starts, MOST_STARTS):
        over = run(name, theta, FIRST_STEPS)
        if over:
            break
    while waiting and not over:
        over = finish(min(waiting, key=lambda x: x[1].cost))
    best = chosen()
    while waiting and best is not None and any(x is best for _, x in waiting):
        finish(next(entry for entry in waiting if entry[1] is best))
        best = chosen()
    every = [(name, x) for name, x, _ in ended] + waiting
    if best is not None:
        polished = charted(model, best.theta, ALL_STEPS, ZERO * total, report("polish"), FINE)
        best = polished if np.isfinite(polished.cost) else best
    return best, tuple(Start(name, x.cost, x.n_steps, x.converged) for name, x in every)


def charted(
    model: Runner, theta: Array, max_steps: int, floor: float, report: Step | None, tol: float = ROUGH
) -> Minimum:
    """A minimisation that continues in other coordinates while `rechart` changes theta at its end."""
    n_steps = 0
    for _ in range(MOST_CHARTS):
        found = minimise(model, theta, max_steps=max_steps, tol=tol, floor=floor, report=report, bounds=model.bounds)
        n_steps += found.n_steps
        theta = model.rechart(found.theta) if np.isfinite(found.cost) else found.theta
        if np.allclose(theta, found.theta, rtol=1e-6, atol=0):
            break
    return replace(found, n_steps=n_steps)


def count_spikes(lam: Array, t: Array, seen: Array) -> int:
    """How many modes fit a single sample: decayed by the second of every trajectory, or large at the last only.

    t, seen (K, T): times, and whether there is a value.
    """
    first = np.where(seen, t, np.inf).min(1, keepdims=True)
    last = np.where(seen, t, -np.inf).max(1, keepdims=True)
    rates = lam.real[:, None, None]
    since = np.where(rates < 0, t - first, last - t)
    with np.errstate(under="ignore"):
        size = np.exp(-2 * np.abs(rates) * np.maximum(since, 0.0)) * (seen & (since > 0))
    return int((size.sum(-1).max(-1, initial=0.0) < LEAST_SEEN).sum())
