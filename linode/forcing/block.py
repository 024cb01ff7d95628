"""z and the state v of an input together: y = (z, v), y' = M y, M = [[Xi, G], [0, Omega]].

Used where v is small: constant forcing, harmonics, held samples of few channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..engine.autograd import trajectory
from ..engine.evaluation import Planner, columns
from ..engine.one_time import propagators
from ..engine.problem import common_shape, concrete, extremes, is_known
from ..engine.recurrence import LOOP_STATES, exponents_of_windows, is_few, windowed, windows
from ..kernels import small
from ..kernels.balance import power_of_two
from ..kernels.private import has_derivative, is_in_forward_mode, is_transforming
from ..kernels.tensors import is_finite, measured
from ..methods import Auto
from ..methods.base import default
from .pieces import Pieces, select

# |M| times a time up to which M is not decomposed: eigenvectors of M make what G adds the difference of numbers larger
# by 1 / (|Xi| t), and series do not. Chosen by hand.
SHORT_SPAN = 30.0
NEAR = 0.25  # least |M| * time that the scaling of G aims for: a short series makes such a step; chosen by hand
# The same, up to which powers of exp(M h) serve as those of exp(Xi h) too. Measured with 6 states and 2 channels:
# `chain` refuses powers of M from about 100 on, and by `propagator` they take 4 to 15 ms where the knots take 1.
MOST_STEPS_SPAN = 60.0
SERIES = Auto(("chain", "taylor", "propagator"))  # those that use products only


class Planners:
    """Planners for M, for short times of M, and for Xi; and by name those of related problems (mirrored, adjoint, each
    input).
    """

    def __init__(self, whole: Planner, state: Planner) -> None:
        self.whole, self.state = whole, state
        self._children: dict[str, Planners] = {}

    @cached_property
    def step(self) -> Planner:
        """For M and short times."""
        return Planner(SERIES, self.whole.rtol) if self.whole.method == default("auto") else self.whole.fresh()

    @classmethod
    def of(cls, planner: Planner) -> Planners:
        """From that of Xi. M may be defective: where a method chosen by name refuses it, `propagator` is used."""
        method = planner.method
        if not isinstance(method, Auto):
            method = Auto(tuple(dict.fromkeys((method.name, "propagator"))))
        return cls(Planner(method, planner.rtol), planner)

    def fresh(self) -> Planners:
        """The same methods, without plans."""
        return Planners(self.whole.fresh(), self.state.fresh())

    def child(self, name: str) -> Planners:
        """The planners of that name; kept, so that their plans serve the next call."""
        found = self._children.get(name)
        return self._children.setdefault(name, self.fresh()) if found is None else found

    @property
    def adjoint(self) -> Planners:
        """Planners for Xi^H, which follow from the plan of Xi if there is one."""
        if "adjoint" not in self._children:
            state = Planner(self.state.method, self.state.rtol, adjoint_of=self.state)
            self._children["adjoint"] = Planners(self.whole.fresh(), state)
        return self._children["adjoint"]


@dataclass(frozen=True)
class Started:
    """States v (*batch, k, q) of some pieces at their starts, with their units of time, and their numbers: None where
    one Xi serves all pieces.
    """

    v: Tensor
    unit: float | Tensor
    which: Tensor | None

    @classmethod
    def of(cls, pieces: Pieces, own: slice, n_systems: int) -> Started:
        unit = pieces.unit[own] if isinstance(pieces.unit, Tensor) else pieces.unit
        which = None if n_systems == 1 else torch.arange(n_systems, device=pieces.states.device)[own]
        return cls(pieces.states[..., own, :], unit, which)

    def chosen(self, own: slice) -> Started:
        unit = self.unit[own] if isinstance(self.unit, Tensor) else self.unit
        return Started(self.v[..., own, :], unit, None if self.which is None else self.which[own])


@dataclass(frozen=True)
class Block:
    """M (*batch, J, N, N), one for each piece or one for all, and how v is scaled in it.

    has_constant: whether the last state of M is constant and drives z by b. unit, unit_of_b: what G and b were divided
    by. first (*batch, q): v at time 0 of an input without breaks. norm: the largest |M|_1.
    """

    M: Tensor
    n: int
    has_constant: bool
    unit: float | Tensor
    unit_of_b: float | Tensor
    first: Tensor
    norm: float
    planners: Planners

    @classmethod
    def of(
        cls, Xi: Tensor, b: Tensor | None, B: Tensor | None, pieces: Pieces, t_max: float, planners: Planners
    ) -> Block:
        """Xi (*batch, J, n, n), b (*batch, n), B (*batch, n, m), for times up to t_max."""
        n, v = Xi.shape[-1], pieces.states
        rate = _rate(Xi, pieces, t_max)
        unit: float | Tensor = 1.0
        unit_of_b: float | Tensor = 1.0
        q, is_constant = v.shape[-1], pieces.n_terms == 1 and pieces.generator is None
        M, Omega = Xi, None
        if q:
            if is_constant and B is not None:
                G = B
            else:
                Omega, H = pieces.matrices()
                G = H if B is None else B @ H
            unit = _unit(G, rate)
            M = _joined(M, (G / unit).unsqueeze(-3), 2)
        if b is not None:
            unit_of_b = _unit(b[..., None], rate)
            M = _joined(M, (b[..., None] / unit_of_b).unsqueeze(-3), 2)
        N = M.shape[-1]
        if Omega is None or is_constant:
            M = torch.nn.functional.pad(M, (0, 0, 0, N - n))
        else:
            M = _joined(M, torch.nn.functional.pad(Omega, (n, N - n - q, 0, N - n - q)), 2, dim=-2)
        first = v.select(-2, 0)
        if not (pieces.breaks.shape[-1] or is_constant) and pieces.n_terms and pieces.generator is None:
            first = pieces.advanced(first, -pieces.refs[..., 0])
        norm = math.inf  # torch.compile does not read values
        if not torch.compiler.is_compiling():
            norm = 1.5 * (rate if isinstance(rate, float) else float(concrete(rate).max()))
        return cls(M, n, b is not None, unit, unit_of_b, first, norm, planners)

    def mirrored(self, planners: Planners) -> Block:
        """The same as a function of -t."""
        return replace(self, M=-self.M.flip(-3), planners=planners)

    def alone(self, z0: Tensor, t: Tensor, longest: float) -> Tensor:
        """z(t) of an input without breaks, for t of any sign and up to `longest`."""
        y0 = self._whole(z0, self.first, 1)
        return trajectory(self.M.select(-3, 0), y0, t, self._planner(longest)).narrow(-1, 0, self.n)

    def after(self, t: float, n_terms: int, m: int) -> tuple[Tensor, ...]:
        """The rows of z in exp(M t): exp(Xi t), (*batch, n, n), then the gains of n_terms coefficients of m channels,
        each (*batch, n, m).
        """
        E = self._exponential(t)[..., : self.n, :]
        own, *gains = E.split([self.n] + [m] * n_terms, -1)
        return own, *(gain * self.unit for gain in gains)

    def _exponential(self, t: float) -> Tensor:
        """exp(M t), (*batch, N, N)."""
        M, planner = self.M.select(-3, 0), self._planner(t)
        times = torch.full((1, 1, 1), t, dtype=torch.float64, device=M.device)
        if M.ndim == 2 and not torch.compiler.is_compiling() and not is_differentiated(M):
            E = propagators(planner.plan_for(self.M, len(M), 1, 0.0, t), self.M, times)[0, 0]
            if is_finite(E):
                return E
        return trajectory(M, columns(M.shape[-1], M.ndim - 2, M), times[0, 0], planner)[..., 0, :].movedim(0, -1)

    def stepped(self, x0: Tensor, started: Started, jumps: Tensor | None, h: Tensor) -> Tensor | None:
        """The states after each of few equal steps (*batch, K + 1, n), by powers of exp(M h) alone; None where that is
        less accurate or slower, or where a derivative is asked for.
        """
        n, N, K = self.n, self.M.shape[-1], h.shape[-1]
        if self.M.ndim > 3 or self.M.shape[-3] > 1 or n >= LOOP_STATES or K == 1 or not (is_few(K) and are_equal(h)):
            return None
        given = (self.M, x0, started.v) if jumps is None else (self.M, x0, started.v, jumps)
        step, powers = float(h[(0,) * h.ndim]), _exponents(K, h.device)
        one = windows(K)[1] - 2  # where the power 1 stands
        if self.norm * step * K > MOST_STEPS_SPAN or is_differentiated(*given):
            return None
        times = step * powers
        plan = self.planners.step.plan_for(self.M, N, times.shape[-1], 0.0, step * float(K))
        E = propagators(plan, self.M, times)[0]  # of all powers
        d, q = jumps, started.v.shape[-1]
        if q:
            own = started.v @ (E[one, :n, n : n + q].mT * self.unit)
            d = own if d is None else d + own
        if self.has_constant:
            own = E[one, :n, -1:].mT * self.unit_of_b
            d = own if d is None else d + own
        d = x0.new_zeros(1, n) if d is None else d
        batch = common_shape(x0.shape[:-1], d.shape[:-2], h.shape[:-1])
        x = windowed(E[:, :n, :n], d.expand(*batch, K, n), x0)
        return x if is_finite(x) else None

    def added(self, started: Started, h: Tensor) -> Tensor | None:
        """What G v and b add to z in steps h (*batch, K) of some pieces, (*batch, K or 1, n)."""
        n, q, v = self.n, started.v.shape[-1], started.v
        if self.M.shape[-1] == n:
            return None
        planner = self._planner(extremes(h)[1])
        if self.M.shape[-3] == 1 and are_equal(h):
            units = columns(self.M.shape[-1], self.M.ndim - 3, self.M)[n:]
            gain = trajectory(self.M[..., 0, :, :], units, h.flatten()[:1], planner)[..., 0, :n]  # (q + 1, *batch, n)
            gain = gain.movedim(0, -2)
            d = v @ (gain[..., :q, :] * self.unit) if q else None
            if self.has_constant:
                own = gain[..., q:, :] * self.unit_of_b
                d = own if d is None else d + own
            return d
        y = self._whole(v.new_zeros(*v.shape[:-1], n), v)
        M = self.M if self.M.shape[-3] == 1 else self.M[..., started.which, :, :]
        return trajectory(M, y, h[..., None], planner)[..., 0, :n]

    def states(self, x: Tensor, started: Started, k: Tensor, s: Tensor) -> Tensor:
        """z at times s (*batch, T) after the starts of pieces k (*batch, T), whose states are x (*batch, k, n)."""
        y, n, planner = self._whole(x, started.v), self.n, self._planner(extremes(s)[1])
        M = self.M if self.M.shape[-3] == 1 else self.M[..., started.which, :, :]
        if k.ndim == 1 and is_known(k):
            piece, place, back = grouped(k)
            M = M if M.shape[-3] == 1 else M[..., piece, :, :]
            z = trajectory(M, y[..., piece, :], s[place], planner)[..., :n]
            return z.flatten(-3, -2)[..., back, :]
        if M.shape[-3] > 1:
            M = select(M.flatten(-2), k).unflatten(-1, M.shape[-2:])
        return trajectory(M, select(y, k), s[..., None], planner)[..., 0, :n]

    def _whole(self, x: Tensor, v: Tensor, n_own: int = 2) -> Tensor:
        """(x, v, 1) as M takes them, for x (*batch, k, n) and v (*batch, k, q); without k where n_own is 1."""
        parts = [x]
        if v.shape[-1]:
            parts.append(v * _of_rank(self.unit, n_own))
        if self.has_constant:
            unit = _of_rank(self.unit_of_b, n_own)
            parts.append(unit.to(x.dtype) if isinstance(unit, Tensor) else x.new_full((1,) * n_own, unit))
        if all(part.ndim == 1 for part in parts):
            return torch.cat(parts)
        batch = common_shape(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)

    def _planner(self, longest: float) -> Planner:
        return self.planners.step if self.norm * longest <= SHORT_SPAN else self.planners.whole


def grouped(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times sorted into rows of one piece each, from their pieces k (T,).

    Returns the piece of each row (rows,), the times in it (rows, width), and the place of each time in the flattened
    rows (T,). Rows are short enough that places are at most three times as many as times.
    """
    used, inverse, counts = k.unique(return_inverse=True, return_counts=True)
    width = min(int(counts.max()), 2 * -(-len(k) // len(used)))
    order = inverse.argsort(stable=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(k), device=k.device) - starts  # within the piece, in that order
    n_rows = (counts + width - 1) // width
    row = (n_rows.cumsum(0) - n_rows).repeat_interleave(counts) + rank // width
    first = torch.searchsorted(row, torch.arange(int(n_rows.sum()), device=k.device))
    place = order[first][:, None].repeat(1, width)  # unused places repeat the row's first time
    place[row, rank % width] = order
    back = torch.empty_like(order)
    back[order] = row * width + rank % width
    return used.repeat_interleave(n_rows), place, back


def _joined(x: Tensor, y: Tensor, n_own: int, dim: int = -1) -> Tensor:
    """x and y joined along dim; all but their last n_own dimensions broadcast."""
    if x.shape[:-n_own] == y.shape[:-n_own]:
        return torch.cat([x, y], dim)
    batch = common_shape(x.shape[:-n_own], y.shape[:-n_own])
    return torch.cat([a.expand(*batch, *a.shape[-n_own:]) for a in (x, y)], dim)


def _of_rank(unit: float | Tensor, n_own: int) -> float | Tensor:
    """A unit (*batch, 1, 1) with n_own dimensions beside those of batch."""
    return unit[..., 0] if isinstance(unit, Tensor) and n_own == 1 else unit


@lru_cache(maxsize=64)
def _exponents(K: int, device: torch.device) -> Tensor:
    every = [exponent for level in exponents_of_windows(K) for exponent in level]
    return torch.tensor(every, dtype=torch.float64, device=device)[None, None]


def is_differentiated(*xs: Tensor) -> bool:
    """Whether a derivative with respect to any of them may be asked for."""
    if is_transforming() or is_in_forward_mode():
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in xs)


def are_equal(h: Tensor) -> bool:
    """Whether all steps (*batch, K) are known to have one length, and need no derivative."""
    if not is_known(h) or has_derivative(h):
        return False
    return all(stride == 0 for stride in h.stride()) or bool((h == h.flatten()[0]).all())


def _rate(Xi: Tensor, pieces: Pieces, t_max: float) -> float | Tensor:
    """1/time, a number or (*batch, 1, 1): the norm to which G is scaled: |Xi|_1, or more if |Xi|_1 times the longest
    step is small.

    If G were as small as such an Xi, its effect on z would be a difference of numbers that are larger by 1 / (|Xi| t),
    and no check of the eigenvectors would show the cancellation.
    """
    longest = t_max
    if pieces.breaks.shape[-1]:
        first, last = extremes(pieces.breaks) if pieces.ends is None else pieces.ends
        gap = extremes(pieces.gaps)[1] if pieces.gap is None else pieces.gap
        longest = min(max(gap, t_max - max(abs(first), abs(last)), 0.0), t_max)
    least = NEAR / longest if longest > 0 else 0.0
    least = least if least < math.inf else 0.0
    if Xi.ndim == 3 and is_known(Xi):
        return max(measured(Xi.detach()).norm, least)
    return Xi.detach().abs().sum(-2).amax((-2, -1))[..., None, None].clamp(min=least)


def _unit(G: Tensor, rate: float | Tensor) -> float | Tensor:
    """A number, or (*batch, 1, 1): the power of two by which G must be divided to have entries of about `rate`."""
    if G.ndim == 2 and isinstance(rate, float) and is_known(G):
        size = small.largest(G if G.is_contiguous() else G.mT)
        if size is None:
            size = float(G.detach().abs().max()) if G.numel() else 0.0
        return 2.0 ** round(math.log2(size / rate)) if rate > 0 and 0 < size / rate < math.inf else 1.0
    return power_of_two(G.detach().abs().sum(-2, keepdim=True).amax(-1, keepdim=True) / rate)
