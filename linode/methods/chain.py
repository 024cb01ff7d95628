"""States a step apart and Taylor polynomials between them, in NumPy: small systems, one or many of them.

Use when systems are small and |Xi| t_max is moderate: nothing is factored, and as all systems have one step, a call
does one thing for all of them. Cost: some |Xi| t_max / 4 nodes with 18 n^2 multiplications, 18 n for each time, and
three times that with a gradient.
Check: a bound of what rounding does to the powers of the step, from their norms, is at most max_rounding units. What
happens is a hundredth of it, as the median over the hard cases, and never more than 300 units where it is accepted.
Sources: see `kernels.nodes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from ..kernels.arrays import MOST_STATES_OF_NUMPY, as_array, as_tensor, conj, distinct, of_kind, one_norm, real
from ..kernels.between import OwnTimes, SharedTimes
from ..kernels.nodes import N_TERMS, REACH, Nodes
from .base import HostPlan, Method, Plan, Pullback, Workload, register
from .costs import SECONDS_PER_CALL, SECONDS_PER_ENTRY, SECONDS_PER_FLOP
from .propagator import Propagator

MAX_ROUNDING = 2.0**20  # a bound of 1e-10
MOST_NODES, LARGEST = 256, 1e300
SLACK = 1.25  # a plan is good for times this much later than asked for
PART_ENTRIES = 2**19  # of terms, or of polynomials, at a time
TYPICAL = 0.4  # |A^p|^(1/p) of the shifted matrix over |Xi|_1
N_CALLS = 420  # of a step of training, Python around them included, as its time shows
SECONDS_PER_PRODUCT = SECONDS_PER_CALL / 20  # of small matrices, among many of one call
THREADS = 2.0  # what a flop costs where BLAS would use threads, beside those of torch
Array = NDArray[Any]


@register
@dataclass(frozen=True)
class Chain(Method):
    """States a step apart, Taylor polynomials between them; small systems, moderate spans.

    Options: max_rounding, the largest bound accepted of the relative error of powers of the step, in units of rounding.

    Example:
        >>> import linode
        >>> method = linode.methods.Chain(max_rounding=1e5)
        >>> linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'chain'
    """

    max_rounding: float = MAX_ROUNDING
    name: ClassVar[str] = "chain"
    summary: ClassVar[str] = "Taylor polynomials between states a step apart; small systems, moderate spans"
    needs_host: ClassVar[bool] = True
    takes_arrays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (isinstance(self.max_rounding, (int, float)) and self.max_rounding > 0):
            raise OptionError(f"max_rounding must be a positive number, got {self.max_rounding!r}")
        super().__post_init__()

    def try_plan(self, Xi: Any, work: Workload, rtol: float | None = None) -> Plan:
        A, t_max = as_array(Xi), SLACK * work.t_max
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # such bounds are refused
            nodes = Nodes(A, t_max)
            n_nodes = t_max / nodes.H + 1.5
            few = n_nodes <= MOST_NODES
            bound = nodes.rounding(int(n_nodes), self.max_rounding) if few else np.full(len(A), np.inf)
        return ChainPlan(Xi, nodes, t_max, bound, self.max_rounding)

    def plan(self, Xi: Any, rtol: float | None = None) -> Plan:
        size = float(one_norm(as_array(Xi)).max(initial=0.0))
        return self.try_plan(Xi, Workload(len(Xi), 1, 1, Xi.shape[-1], size, 1 / size if size > 0 else 1.0))

    def cost(self, work: Workload) -> float:
        n, n_nodes = work.n, TYPICAL * work.span / REACH + 1
        products = 2 * n**3 * 3 * (8 + 3 * math.log2(n_nodes + 1))
        terms = work.n_trajectories * n_nodes * 6 * N_TERMS * n**2
        per_flop = SECONDS_PER_FLOP * (THREADS if n > MOST_STATES_OF_NUMPY else 1.0)
        per_row = 6 * N_TERMS * n * per_flop + 10 * n * SECONDS_PER_ENTRY
        per_system = (70 + 2 * n_nodes) * SECONDS_PER_PRODUCT + (products + terms) * per_flop + work.n_rows * per_row
        monomials = work.n_rows * 28 * N_TERMS * SECONDS_PER_ENTRY  # as if systems shared times, but not trajectories
        return (N_CALLS + 2 * n_nodes) * SECONDS_PER_CALL + monomials + work.n_systems * per_system


class ChainPlan(HostPlan):
    """A step for Xi (S, n, n), as a tensor or an array, with a bound (S,) of its rounding, in units, up to t_most."""

    method = "chain"
    prefers_arrays = True

    def __init__(self, Xi: Any, nodes: Nodes, t_most: float, bound: Array, limit: float) -> None:
        self.given, self.nodes, self.t_most, self.bound, self.limit = Xi, nodes, t_most, bound, limit
        self.good = bound <= limit  # a NaN is not

    @property
    def reason(self) -> str:  # type: ignore[override]
        n_steps, worst = math.ceil(min(self.t_most / self.nodes.H, LARGEST)), self.bound.max()
        steps = f"{n_steps:.4g} steps of H = {self.nodes.H:.3g}"
        if n_steps > MOST_NODES:
            return f"{steps}, more than {MOST_NODES}, for times up to {self.t_most:.3g}"
        return f"{steps}, rounding {worst:.3g} {'<=' if worst <= self.limit else '>'} {self.limit:.3g} units"

    @property
    def details(self) -> dict[str, Any]:
        return {"step": self.nodes.H, "rounding": self.bound.tolist()}

    def subset(self, index: Tensor) -> Plan:
        host = index.cpu().numpy()
        return ChainPlan(self.Xi[index], self.nodes.subset(host), self.t_most, self.bound[host], self.limit)

    def evaluate(self, z0: Any, t: Any) -> Any:
        starts, times = as_array(z0), as_array(t)
        return of_kind(self._states(starts, times) if self._serves(times) else self._record(starts, times)[0], t)

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        return self.record(z0, t)[1](g, want_t)

    def record(self, z0: Any, t: Any) -> tuple[Any, Pullback]:
        z, pullback = self._record(as_array(z0), as_array(t))

        def gradients(g: Any, want_t: bool) -> tuple[Any, Any, Any]:
            S, a, dt = pullback(as_array(g), want_t)
            return of_kind(S, t), of_kind(a, t), None if dt is None else of_kind(dt, t)

        return of_kind(z, t), gradients

    def _serves(self, t: Array) -> bool:
        times = distinct(t)
        return bool(times.min() >= 0 and times.max() <= self.t_most)

    def _record(self, z0: Array, t: Array) -> tuple[Array, Pullback]:
        if self._serves(t):
            parts: list[Part] = []
            return self._states(z0, t, parts), lambda g, want_t: _gradients(z0, t, g, want_t, parts)
        return self._both_ways(z0, t) if t.min() < 0 else _by(Propagator().plan(self.Xi), z0, t)

    def _states(self, z0: Array, t: Array, kept: list[Part] | None = None) -> Array:
        z = np.empty((*t.shape, z0.shape[-1]), z0.dtype)
        for part in self._parts(z0, t):
            part.states(z[part.where])
            if kept is not None:
                kept.append(part)
        return z

    def _both_ways(self, z0: Array, t: Array) -> tuple[Array, Pullback]:
        back = t < 0
        late, early = (np.broadcast_to(np.maximum(x, 0), t.shape) for x in (distinct(t), -distinct(t)))
        (forth, pull_forth), (other, pull_other) = self._record(z0, late), _by(self.backward, z0, early)

        def pullback(g: Array, want_t: bool) -> tuple[Any, Any, Any]:
            S, a, dt = pull_forth(np.where(back[..., None], 0, g), want_t)
            S_back, a_back, dt_back = pull_other(np.where(back[..., None], g, 0), want_t)
            return S - S_back, a + a_back, dt - dt_back if want_t else None

        return np.where(back[..., None], other, forth), pullback

    @cached_property
    def backward(self) -> Plan:
        """For negative times."""
        work = Workload(len(self.good), 1, 1, self.Xi.shape[-1], np.inf, self.t_most / SLACK)
        plan = Chain(self.limit).try_plan(-as_array(self.given), work)
        return plan if plan.is_accepted else Propagator().plan(-self.Xi)

    def _parts(self, z0: Array, t: Array) -> Iterator[Part]:
        """Systems, or trajectories of one system, a share at a time."""
        (S, R, n), A = z0.shape, as_array(self.given)
        times = distinct(t)
        n_nodes = int(times.max() / self.nodes.H + 1.5)
        between: Any = SharedTimes(times[0, 0], self.nodes.H, self.nodes.shift) if times.shape[:2] == (1, 1) else None
        size = max(1, PART_ENTRIES // (N_TERMS * max(n_nodes * n, 0 if between else t.shape[2])))
        n_systems, n_trajectories = max(1, size // R), min(size, R)
        for s in _shares(S, n_systems):
            nodes = self.nodes if n_systems >= S else self.nodes.subset(s)
            for r in _shares(R, n_trajectories):
                own = between or OwnTimes(t[s, r], self.nodes.H, self.nodes.shift)
                yield Part((s, r), A[s], nodes, own, nodes.states(z0[s, r], own.n_nodes))


@dataclass
class Part:
    """Some trajectories of some systems, with their states at the nodes."""

    where: tuple[slice, slice]
    A: Array
    nodes: Nodes
    between: SharedTimes | OwnTimes
    Z: Array

    @cached_property
    def leading(self) -> Array:
        """Of the blocks of terms."""
        return self.nodes.leading(self.Z)

    def states(self, z: Array) -> None:
        """Write z (S, R, T, n)."""
        self.between.states(self.nodes.terms(self.leading, self.Z.shape), z)

    def gradients(self, g: Array, want_t: bool) -> tuple[Array, Array, Array | None]:
        """With respect to Xi, z0 and, where wanted, t."""
        S, a = self.nodes.gradients(self.Z, self.leading, self.between.gather(g))
        if not want_t:
            return S, a, None
        z = np.empty_like(g)
        self.states(z)
        return S, a, real((conj(g) * (z @ self.A.swapaxes(-1, -2)[:, None])).sum(-1))


def _gradients(z0: Array, t: Array, g: Array, want_t: bool, parts: list[Part]) -> tuple[Array, Array, Array | None]:
    """Of all parts."""
    S, a = np.zeros((*z0.shape[::2], z0.shape[-1]), z0.dtype), np.empty_like(z0)
    dt = np.empty(t.shape) if want_t else None
    for part in parts:
        own, a[part.where], rates = part.gradients(g[part.where], want_t)
        S[part.where[0]] += own
        if dt is not None:
            dt[part.where] = rates
    return S, a, dt


def _by(plan: Plan, z0: Array, t: Array) -> tuple[Array, Pullback]:
    """What `record` gives, from arrays to arrays."""
    z, pullback = plan.record(as_tensor(z0), as_tensor(t))

    def gradients(g: Array, want_t: bool) -> tuple[Any, Any, Any]:
        S, a, dt = pullback(as_tensor(g), want_t)
        return as_array(S), as_array(a), None if dt is None else as_array(dt)

    return as_array(z), gradients


def _shares(n: int, most: int) -> list[slice]:
    """Slices of n things, at most so many in each."""
    n_parts = -(-n // most)
    return [slice(n * i // n_parts, n * (i + 1) // n_parts) for i in range(n_parts)]
