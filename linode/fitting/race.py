"""Minimisation from several starts, until two of them end in the same minimum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .estimate import Start, agreed
from .levenberg import Minimum, Model, minimise
from .progress import Report

Array = NDArray[Any]
FIRST_STEPS, ALL_STEPS = 30, 300  # of a start: at first, and when no others are left
MOST_STARTS = 8
LEAST_CHANGE = 1.2  # of residuals from time to time, squared, relative to their squares
SAME = 1e-7  # relative difference of costs that means nothing: one that converged is taken
ZERO = 1e-26  # of the data's sum of squares: nothing is left


def race(
    model: Model,
    starts: Iterable[tuple[str, Array]],
    total: float,
    report: Report,
    bounds: tuple[Array, Array] | None = None,
    is_plausible: Callable[[Array], bool] = lambda theta: True,
) -> tuple[Minimum | None, tuple[Start, ...]]:
    """The lowest minimum, None where no start has a finite cost, and what became of each start.

    Starts come lazily. What needs many steps waits until the others have had theirs. total: the data's sum of squares.
    Where what two agree on is not plausible, the others are asked too.
    """
    ended: list[tuple[str, Minimum]] = []
    waiting: list[tuple[str, Minimum]] = []

    def run(name: str, theta: Array, max_steps: int, before: int = 0) -> bool:
        """Whether the race is over."""
        found = minimise(model, theta, max_steps=max_steps, floor=ZERO * total, report=report(name), bounds=bounds)
        if not np.isfinite(found.cost):
            return False
        found = replace(found, n_steps=found.n_steps + before)
        if not found.converged and max_steps == FIRST_STEPS:
            waiting.append((name, found))
            return False
        ended.append((name, found))
        lowest = min(x.cost for _, x in ended + waiting)
        costs = [x.cost for _, x in ended if x.converged]
        if lowest <= ZERO * total:
            return True
        return (
            agreed(costs)
            and min(costs) <= lowest * (1 + SAME)
            and (max_steps > FIRST_STEPS or is_plausible(found.theta))
        )

    over = False
    for name, theta in islice(starts, MOST_STARTS):
        over = run(name, theta, FIRST_STEPS)
        if over:
            break
    while waiting and not over:
        waiting.sort(key=lambda x: x[1].cost)
        name, found = waiting.pop(0)
        over = run(name, found.theta, ALL_STEPS, found.n_steps)
    every = ended + waiting
    if not every:
        return None, ()
    lowest = min(found.cost for _, found in every)
    best = min((x for _, x in every if x.cost <= lowest * (1 + SAME)), key=lambda x: (not x.converged, x.cost))
    return best, tuple(Start(name, x.cost, x.n_steps, x.converged) for name, x in every)


def is_noise(r: Array, seen: Array) -> bool:
    """Whether residuals r (K, T, p) change from time to time as noise does, and as what a fit has missed does not.

    Source: the ratio of Durbin & Watson (1950), Biometrika 37, 409, which is near 2 for noise.
    """
    both = seen[:, 1:] & seen[:, :-1]
    changes = np.square(np.diff(r, axis=1) * both).sum()
    return bool(changes >= LEAST_CHANGE * np.square(r).sum())
