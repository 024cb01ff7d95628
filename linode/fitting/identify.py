"""The choice of the fit for a question: by rates, by states, or by states of the strongest directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import OptionError, ShapeError
from .by_rates import fit_by_rates, strongest
from .by_states import fit_by_states, is_identity, typical_rate
from .data import Data
from .estimate import Estimate
from .products import Array
from .progress import Report
from .states import observation_matrix, observations_of, states_of
from .structures import Structure, make_structure

MOST_JOINT = 400  # entries of C up to which it is fitted together with Xi where values are missing; by hand
TAIL = 0.2  # the last part of the times, by which stable="auto" compares; documented in `fit`


@dataclass(frozen=True)
class Question:
    """Checked data and options of `linode.fit`."""

    data: Data
    n: int
    C: Array | None  # (p, n), if it is known
    bias: bool
    structure: Any
    stable: bool | str
    z0: Array | None  # (K, n), if it is known


def identify(question: Question, report: Report) -> Estimate:
    """The best fit that answers the question.

    Raises:
        ShapeError: fewer values than unknowns.
    """
    if question.stable == "auto":
        return _by_tail(question, report)
    data, n, C, bias = question.data, question.n, question.C, question.bias
    stable = bool(question.stable)
    has_states = C is None and n == data.p  # the channels are the states
    is_plain = question.structure is None and data.m == 0 and question.z0 is None and data.K == 1
    if question.structure is None:
        check_enough(question)
    if is_plain and (C is None or is_identity(C) or (len(C) < n and np.linalg.matrix_rank(C) == len(C))):
        found = fit_by_rates(data, n, None if is_identity(C) else C, bias, stable, report)
        if found is not None:
            return found
    structure = make_structure(question.structure, n, stable, typical_rate(data))
    if structure.n != n:
        raise ShapeError(f"structure makes Xi {structure.n} x {structure.n}, but there are {n} states")
    if has_states:
        C = np.eye(n)
    if C is None and n < data.p:
        return _of_strongest(question, structure, report)
    found = fit_by_states(data, structure, C, bias, question.z0, report)
    if found is None:
        raise OptionError("no start of the fit has a finite cost; check the units of t, and the structure")
    return found


def check_enough(question: Question) -> None:
    """Raise where z holds fewer values than there are unknowns that any data of this size determine."""
    data, n, p = question.data, question.n, question.data.p
    seen, own = min(p, n), 0 if question.z0 is not None else data.K
    unknowns = n * (seen + data.m + own) + question.bias * seen
    values = data.n_values if p <= n else n * int(np.count_nonzero(data.w.any(-1)))
    if values < unknowns:
        raise ShapeError(
            f"z holds {values} values, fewer than the {unknowns} unknowns of {n} states; "
            f"give more samples, or ask for fewer states by rank"
        )


def _of_strongest(question: Question, structure: Structure, report: Report) -> Estimate:
    """Fewer states than channels: a fit of the strongest directions, then of C on all channels."""
    data, n = question.data, question.n
    seen = data.w > 0
    if not seen[data.is_time].all() and data.p * n <= MOST_JOINT:  # the directions use complete rows only
        found = fit_by_states(data, structure, None, question.bias, None, report)
        if found is not None:
            return found
    noise = data.w.max((0, 1))  # 1 / sigma: channels are scaled to units of their noise
    scaled = replace(data, y=data.y * noise, w=seen.astype(float))
    found = fit_by_states(scaled.mapped(strongest(scaled, n)), structure, np.eye(n), question.bias, None, report)
    if found is None:
        raise OptionError("no start of the fit has a finite cost; check the units of t")
    return refitted(found, data, question.bias)


def refitted(found: Estimate, data: Data, bias: bool) -> Estimate:
    """The estimate with C fitted to all channels by linear least squares."""
    n = len(found.Xi)
    C, cost, _ = observation_matrix(states_of(found, data, bias), data, bias)
    return replace(
        found,
        C=C[:, :n],
        offset=C[:, n] if bias else None,
        cost=cost,
        n_unknowns=found.n_unknowns + C.size - n * n,
        is_realisation=True,
        C_is_refitted=True,
    )


def _by_tail(question: Question, report: Report) -> Estimate:
    """The free fit if it is stable, or predicts the last times better than a stable fit; else the stable one."""
    free = identify(replace(question, stable=False), report)
    if np.linalg.eigvals(free.Xi).real.max() <= 0:
        return free
    data = question.data
    keep = np.maximum((data.counts * (1 - TAIL)).astype(int), 2)
    early = np.arange(data.t.shape[1]) < keep[:, None]
    head = replace(data, w=data.w * early[..., None], y=data.y * early[..., None])
    errors = []
    for stable in (False, True):
        try:
            found = identify(replace(question, data=head, stable=stable), report)
            with np.errstate(over="ignore", invalid="ignore"):
                y = observations_of(found, data, question.bias)
                error = float((((data.y - y) * data.w * ~early[..., None]) ** 2).sum())
            errors.append(error if np.isfinite(error) else np.inf)
        except (ShapeError, OptionError):
            errors.append(np.inf)
    return free if errors[0] <= errors[1] else identify(replace(question, stable=True), report)
