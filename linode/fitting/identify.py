"""The choice of the fit for a question: by rates, by states, or by states of the strongest directions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import OptionError, ShapeError
from .by_rates import MakeFactors, fit_by_rates, strongest
from .by_states import fit_by_states, is_identity, typical_rate
from .data import Data
from .estimate import Estimate
from .products import Array
from .progress import Report
from .rates import Factors, ImaginaryFactors, PairedFactors, StableFactors
from .states import explaining, observation_matrix, observations_of, states_of
from .structures import Modal, make_structure
from .unknowns import Unknowns, free_matrices, make_unknowns

MOST_JOINT = 400  # entries of C up to which it is fitted together with Xi where values are missing; by hand
TAIL = 0.2  # the last part of the times, by which stable="auto" compares; documented in `fit`
LONGEST_DELAY = 0.2  # an unknown delay, of the longest trajectory; documented in `fit`
NO_START = "no start of the fit has a finite cost; check the units of t, and the structure"


@dataclass(frozen=True)
class Question:
    """Checked data and options of `linode.fit`.

    known: values of B, b, C, D, z0 (K, n) and delay, NaN where they are free; those of `make_unknowns` for others.
    """

    data: Data
    n: int
    structure: Any = None
    stable: bool | str = False
    eigenvalues: str | float | None = None  # "imaginary", "pairs", or the largest real part
    known: dict[str, Array] = field(default_factory=dict)
    free_b: bool = False  # whether all of b is free, for any number of states

    def unknowns(self, structure: Any) -> Unknowns:
        data, longest = self.data, LONGEST_DELAY * self.data.span
        known = {"b": np.full(structure.n, np.nan), **self.known} if self.free_b else self.known
        return make_unknowns(structure, data.K, data.p, data.m, longest, **known)


def identify(question: Question, report: Report) -> Estimate:
    """The best fit that answers the question.

    Raises:
        ShapeError: fewer values than unknowns.
    """
    if question.stable == "auto":
        return _by_tail(question, report)
    data, n, stable = question.data, question.n, bool(question.stable)
    unknowns, kind = question.unknowns(free_matrices(n)), kind_of(question)
    if question.structure is None:
        check_enough(data, unknowns)
        found = _by_rates(data, unknowns, kind, report)
        if found is not None:
            return found
    structure = make_structure(question.structure, n, stable, typical_rate(data))
    if question.structure is None and question.eigenvalues is not None:
        structure = Modal(kind(n, data.span))
    if structure.n != n:
        raise ShapeError(f"structure makes Xi {structure.n} x {structure.n}, but there are {n} states")
    unknowns = question.unknowns(structure)
    if unknowns.is_free_C and n < data.p:
        return _of_strongest(data, unknowns, report)
    if "C" not in question.known and "C" not in structure.names and n == data.p:
        unknowns = replace(unknowns, C=np.eye(n))  # the channels are the states
    return _found(data, unknowns, report)


def kind_of(question: Question) -> MakeFactors:
    """What the eigenvalues may be."""
    asked = question.eigenvalues
    if isinstance(asked, str):
        return {"imaginary": ImaginaryFactors, "pairs": PairedFactors}[asked]
    if asked is not None:
        return partial(StableFactors, bound=asked)
    return StableFactors if question.stable else Factors


def _found(data: Data, unknowns: Unknowns, report: Report) -> Estimate:
    found = fit_by_states(data, unknowns, report, lambda: free_fit(data, unknowns, report))
    if found is None:
        raise OptionError(NO_START)
    return found


def free_fit(data: Data, unknowns: Unknowns, report: Report) -> Estimate | None:
    """The fit of as many states without a structure, whose states are in any basis; None where there is none."""
    free = unknowns.without_structure()
    try:
        check_enough(data, free)
        found = _by_rates(data, free, Factors, report) if free.n > data.p or data.K * data.m == 0 else None
        if found is None and free.n == data.p:
            free = replace(free, C=np.eye(free.n))
        if found is None and free.n < data.p:
            return _of_strongest(data, free, report)
        return found if found is not None else fit_by_states(data, free, report)
    except (ShapeError, OptionError):
        return None


def _by_rates(data: Data, unknowns: Unknowns, kind: MakeFactors, report: Report) -> Estimate | None:
    """The fit by eigenvalues: one trajectory without inputs, of which nothing is known but C, or no channel's state."""
    C, b = unknowns.C, np.isnan(unknowns.b)
    is_plain = data.m == 0 and data.K == 1 and unknowns.free_z0.all() and (b.all() or not unknowns.has_b)
    is_known = unknowns.knows("C") and _is_wide(C)
    if not is_plain or not (is_known or is_identity(C) or unknowns.is_free_C):
        return None
    return fit_by_rates(data, unknowns.n, C if is_known else None, bool(b.all()), kind, report)


def _is_wide(C: Array) -> bool:
    """Whether C has full row rank and sees a part of the states."""
    return C.shape[0] < C.shape[1] and bool(np.linalg.matrix_rank(C) == len(C))


def check_enough(data: Data, unknowns: Unknowns) -> None:
    """Raise where z holds fewer values than there are unknowns that any data of this size determine."""
    n, p = unknowns.n, data.p
    seen, own = min(p, n), int(np.count_nonzero(unknowns.free_z0[:, :1]))
    least = n * (seen + own) + len(unknowns.free("B")) + min(len(unknowns.free("b")), seen)
    values = data.n_values if p <= n else n * int(np.count_nonzero(data.w.any(-1)))
    if values < least:
        raise ShapeError(
            f"z holds {values} values, fewer than the {least} unknowns of {n} states; "
            f"give more samples, or ask for fewer states by rank"
        )


def _of_strongest(data: Data, unknowns: Unknowns, report: Report) -> Estimate:
    """Fewer states than channels, C unknown: a fit of the strongest directions, then of C and D on all channels.

    Without a structure the states are those directions; else C of the directions is unknown.
    """
    n, m = unknowns.n, data.m
    seen, D = data.w > 0, unknowns.D
    knows_D = "D" in unknowns.structure.names or (bool((D != 0).any()) and not np.isnan(D).all())
    # the directions use complete rows only, and know nothing of single channels
    if knows_D or (not seen[data.is_time].all() and data.p * n <= MOST_JOINT):
        found = fit_by_states(data, unknowns, report)
        if found is not None:
            return found
    noise = data.w.max((0, 1))  # 1 / sigma: channels are scaled to units of their noise
    scaled = replace(data, y=data.y * noise, w=seen.astype(float))
    has_D = bool((unknowns.D != 0).any())
    reduced = scaled.mapped(strongest(scaled, n))
    C = np.full((n, n), np.nan) if unknowns.structure.is_given or not unknowns.free_z0.all() else np.eye(n)
    D = np.full((n, m), np.nan) if has_D else np.zeros((n, m))
    found = _found(reduced, replace(unknowns, C=C, D=D), report)
    return refitted(found, data, unknowns)


def refitted(found: Estimate, data: Data, unknowns: Unknowns) -> Estimate:
    """The estimate with C, D and a constant fitted to all channels by linear least squares."""
    n, m, has_D = len(found.Xi), data.m, bool((unknowns.D != 0).any())
    X = explaining(states_of(found, data), data, found.delay, has_D, unknowns.has_b)
    C, cost, _ = observation_matrix(X, data)
    before = n * n + len(found.unknowns.free("D"))  # of C and D in the directions, or of the basis that these choose
    return replace(
        found,
        C=C[:, :n],
        D=C[:, n : n + m] if has_D else np.zeros((data.p, m)),
        offset=C[:, -1] if unknowns.has_b else None,
        cost=cost,
        n_unknowns=found.n_unknowns + C.size - before,
        changes=found.changes if unknowns.structure.is_given else ("Xi",),
        other_variances={name: x for name, x in found.other_variances.items() if name not in ("C", "D")},
        C_is_refitted=True,
    )


def _by_tail(question: Question, report: Report) -> Estimate:
    """The free fit if it is stable, or predicts the last times better than a stable fit; else the stable one."""
    free = identify(replace(question, stable=False), report)
    if np.linalg.eigvals(free.Xi).real.max() <= 0:
        return free
    errors = [tail_error(replace(question, stable=stable), TAIL, report) for stable in (False, True)]
    return free if errors[0] <= errors[1] else identify(replace(question, stable=True), report)


def tail_error(question: Question, part: float, report: Report) -> float:
    """Sum of squares of the errors with which a fit of the first times predicts the last part of them."""
    data = question.data
    keep = np.maximum((data.counts * (1 - part)).astype(int), 2)
    early = np.arange(data.t.shape[1]) < keep[:, None]
    head = replace(data, w=data.w * early[..., None], y=data.y * early[..., None])
    try:
        found = identify(replace(question, data=head), report)
    except (ShapeError, OptionError):
        return np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        error = float((((data.y - observations_of(found, data)) * data.w * ~early[..., None]) ** 2).sum())
    return error if np.isfinite(error) else np.inf
