"""z'(t) = Xi z(t) + b + B u(t) with one input u: states at the breaks of u by a recurrence, then states at any time.

States at the breaks: x_(k+1) = exp(Xi h_k) x_k + d_k, with d_k what b and u add in piece k, and an impulse at its end.
How b and u act within a piece is said by `Block` or by `Powers`. Xi may differ between pieces. For times before 0 time
is reversed.
The recurrence is differentiable to any order. Reverse mode is the same recurrence with Xi^H, backwards in time, over
the cotangents: its states are the cotangents of all K steps, whose gradients are then one call. Forward mode is the
recurrence with the tangents of the steps in place of d_k. So all derivatives are recurrences and trajectories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from ..engine.autograd import TrajectoryVJP, tangent, zeros_for_none
from ..engine.batching import fold
from ..engine.evaluation import columns, evaluate, recurrence
from ..engine.problem import common_shape, is_known
from ..engine.recurrence import changing
from ..errors import OrderError
from ..kernels.private import has_derivative
from ..kernels.tensors import is_equal, is_finite
from .block import Block, Planners, Started, is_differentiated
from .pieces import Pieces, count, select
from .powers import Powers


@dataclass(frozen=True)
class Drive:
    """A forced problem: Xi (*batch, J, n, n), one for each piece (J = K + 1) or one for all (J = 1).

    pieces: of the input, with jumps of z at the breaks (*batch, K, n), or None; force: how b and u act within them.
    times: the first and the last time asked for, 0 included. is_mirrored: whether time is reversed.
    """

    Xi: Tensor
    pieces: Pieces
    force: Block | Powers
    planners: Planners
    times: tuple[float, float]
    is_mirrored: bool = False

    @classmethod
    def of(
        cls,
        Xi: Tensor,
        b: Tensor | None,
        B: Tensor | None,
        pieces: Pieces,
        times: tuple[float, float],
        planners: Planners,
    ) -> Drive:
        """Xi (*batch, J, n, n), b (*batch, n), B (*batch, n, m), for times from the first to the second of `times`."""
        start, end = times
        force: Block | Powers
        if Powers.suits(pieces, Xi.shape[-1]):
            pieces = Powers.divided(pieces, Xi, end)
            force = Powers.of(Xi, b, B, pieces, planners)
        else:
            force = Block.of(Xi, b, B, pieces, max(end, -start), planners)
        jumps = pieces.jumps
        if jumps is not None and B is not None:
            jumps = jumps @ B.mT
        pieces = pieces if jumps is None else replace(pieces, jumps=jumps)
        return cls(Xi, pieces, force, planners, times)

    @property
    def n(self) -> int:
        return self.Xi.shape[-1]

    def mirrored(self) -> Drive:
        """The same problem as a function of -t."""
        planners = self.planners.child("mirrored")
        times = -self.times[1], -self.times[0]
        return Drive(-self.Xi.flip(-3), self.pieces.mirrored(), self.force.mirrored(planners), planners, times, True)

    def states(self, z0: Tensor, t: Tensor) -> Tensor:
        """z(t), (*batch, T, n), for z0 (*batch, n) and t (*batch, T) of any sign."""
        if t.shape[-1] == 0:
            return self.states(z0, torch.zeros(1, dtype=t.dtype, device=t.device).expand(*t.shape[:-1], 1))[..., :0, :]
        if self.pieces.breaks.shape[-1] == 0 and isinstance(self.force, Block):
            return self.force.alone(z0, t, max(self.times[1], -self.times[0]))
        known = is_known(t)
        if known and self.times[0] >= 0:
            return self._after_0(z0, t)
        if known and bool((t < 0).all()):
            return self.mirrored()._after_0(z0, -t)
        forth, back = self._after_0(z0, t.clamp(min=0)), self.mirrored()._after_0(z0, (-t).clamp(min=0))
        return torch.where((t < 0)[..., None], back, forth)

    def _after_0(self, z0: Tensor, t: Tensor) -> Tensor:
        """For t >= 0."""
        pieces, breaks = self.pieces, self.pieces.breaks
        if breaks.ndim == 1 and is_known(breaks) and is_known(t):
            return self._along(z0, t)
        if breaks.shape[-1] == 0:
            started = self._started(slice(None), torch.zeros_like(t[..., :1]))
            return self._between(z0[..., None, :], started, count(breaks, t, right=True), t)
        # steps to breaks before 0, or after all times, have length 0
        end = t.detach().amax(-1, keepdim=True)
        starts = torch.cat([torch.zeros_like(breaks[..., :1]), breaks.clamp(min=0).minimum(end)], -1)
        ahead = (breaks > 0 if self.is_mirrored else breaks >= 0) & (breaks <= end)
        jumps = None if pieces.jumps is None else torch.where(ahead[..., None], pieces.jumps, 0)
        started = self._started(slice(None), starts)
        x = self._knots(z0, started, jumps, starts[..., 1:] - starts[..., :-1], slice(None, -1))
        k = count(breaks, t, right=self._right)
        return self._between(x, started, k, t - select(starts[..., None], k)[..., 0])

    @property
    def _right(self) -> bool:
        """Whether a time at a break belongs to the next piece; in reversed time the jump there comes after it."""
        return not self.is_mirrored or self.pieces.jumps is None

    def _along(self, z0: Tensor, t: Tensor) -> Tensor:
        """As `_after_0`, where all trajectories share known breaks: only the breaks between 0 and the last time."""
        pieces, breaks, forth = self.pieces, self.pieces.breaks, not self.is_mirrored
        start, stop = (-math.inf, -math.inf) if pieces.ends is None else pieces.ends
        first, last = 0, len(breaks)
        if start < 0 or (start == 0 and self.is_mirrored):
            first = int(count(breaks, torch.zeros_like(breaks[:1]), right=self.is_mirrored))
        if pieces.ends is None or stop > self.times[1] or (stop == self.times[1] and not self._right):
            last = max(first, int(count(breaks, t.detach().amax()[None], right=self._right)))
        # a break at 0 can be the start of the recurrence, unless its time needs a gradient
        at_break = forth and first < last and float(breaks[first].detach()) == 0 and not has_derivative(breaks)
        if at_break:
            z0 = z0 if self.pieces.jumps is None else z0 + self.pieces.jumps[..., first, :]
            first += 1
        own = slice(first, last + 1)
        if at_break and not has_derivative(t) and is_equal(breaks, t):  # t are the breaks
            return self._over_breaks(z0, Started.of(pieces, own, self.Xi.shape[-3]), first, last, at_break)
        starts = torch.cat([torch.zeros_like(breaks[:1]), breaks[first:last]])
        if self.is_mirrored:
            started = self._started(own, starts)
        else:  # states hold at the starts of their pieces, except in the piece that contains 0
            started = Started.of(pieces, own, self.Xi.shape[-3])
            if not at_break:
                head = self._started(slice(first, first + 1), starts[:1])
                started = replace(started, v=torch.cat([head.v, started.v[..., 1:, :]], -2))
        x = self._over_breaks(z0, started, first, last, at_break)
        k = (count(breaks, t, right=self._right) - first).clamp(0, last - first)
        return self._between(x, started, k, t - starts[k])

    def _started(self, own: slice, starts: Tensor) -> Started:
        """The states of some pieces at their starts."""
        some = self.pieces.chosen(own)
        return replace(
            Started.of(self.pieces, own, self.Xi.shape[-3]), v=some.advanced(some.states, starts - some.refs)
        )

    def _over_breaks(self, z0: Tensor, started: Started, first: int, last: int, at_break: bool) -> Tensor:
        """States at 0 and at breaks first to last - 1; started: pieces first to last."""
        if last == first:
            return z0[..., None, :]
        breaks, gaps, jumps = self.pieces.breaks, self.pieces.gaps, self.pieces.jumps
        jumps = None if jumps is None else jumps[..., first:last, :]
        if at_break:
            return self._knots(z0, started, jumps, gaps[first - 1 : last - 1], slice(0, -1))
        # the first step alone: the others are of equal length if samples are uniform
        jump, others = (None, None) if jumps is None else (jumps[..., :1, :], jumps[..., 1:, :])
        x = self._knots(z0, started, jump, breaks[first : first + 1], slice(0, 1))
        if last == first + 1:
            return x
        rest = self._knots(x[..., 1, :], started, others, gaps[first : last - 1], slice(1, -1))
        return torch.cat([x[..., :1, :].expand(*rest.shape[:-2], 1, self.n), rest], -2)

    def _knots(self, z0: Tensor, started: Started, jumps: Tensor | None, h: Tensor, own: slice) -> Tensor:
        """States at breaks, after steps h in some of the pieces that were started."""
        some = started.chosen(own)
        if isinstance(self.force, Block):
            x = self.force.stepped(z0, some, jumps, h)
            if x is not None:
                return x
        d = self.force.added(some, h)
        d = jumps if d is None else d if jumps is None else d + jumps
        Xi = self.Xi if self.Xi.shape[-3] == 1 else self.Xi[..., some.which, :, :]
        return knots(Xi, z0, z0.new_zeros(1, self.n) if d is None else d, h, self.planners)

    def _between(self, x: Tensor, started: Started, k: Tensor, s: Tensor) -> Tensor:
        """z at times s (*batch, T) after the starts of pieces k (*batch, T), whose states are x."""
        if is_known(s) and not has_derivative(s) and not bool(s.any()):
            in_order = k.ndim == 1 and is_known(k) and torch.equal(k, torch.arange(len(k), device=k.device))
            return x[..., : len(k), :] if in_order else select(x, k)
        if is_known(x) and is_finite(x.detach()):
            return self.force.states(x, started, k, s)
        finite = torch.isfinite(x).all(-1, keepdim=True)  # beyond the largest float z is unknown
        z = self.force.states(torch.where(finite, x, 0), started, k, s)
        return torch.where(select(finite, k), z, select(x, k))


# ---- states at the breaks -----------------------------------------------------------------------------------------


def knots(Xi: Tensor, x0: Tensor, d: Tensor, h: Tensor, planners: Planners) -> Tensor:
    """x_0 to x_K, (*batch, K + 1, n), for Xi (*batch, J, n, n), one for all steps (J = 1) or one for each (J = K),
    x0 (*batch, n) and d (*batch, 1 or K, n), all float64 or all complex128; and h (*batch, K) >= 0, float64.
    """
    if not is_differentiated(Xi, x0, d, h):
        return _knots(Xi, x0, d, h, planners)
    return Knots.apply(Xi, x0, d, h, planners)


def _knots(Xi: Tensor, x0: Tensor, d: Tensor, h: Tensor, planners: Planners) -> Tensor:
    """From detached tensors."""
    n, K = x0.shape[-1], h.shape[-1]
    if h.stride(-1) and bool((h < 0).any()):  # inside transforms of torch.func times could not be checked before
        raise OrderError("times of an input must increase strictly")
    batch = common_shape(Xi.shape[:-3], x0.shape[:-1], d.shape[:-2], h.shape[:-1])
    x0, d = x0.expand(*batch, n), d.expand(*batch, K, n)
    if Xi.shape[-3] == 1:
        x = recurrence(planners.state, Xi[..., 0, :, :], x0, h, d)
    else:
        E = evaluate(planners.state, Xi, columns(n, len(batch) + 1, Xi), h[..., None])[..., 0, :].movedim(0, -1)
        x = changing(E.expand(*batch, K, n, n), d, x0)
    if not is_finite(x) and is_finite(Xi, x0, d):
        x = torch.where(x.isnan(), torch.inf, x)  # inf - inf or 0 inf: a state beyond the largest float
    return x


class Knots(Function):
    """The states as a function of (Xi, x0, d, h)."""

    @staticmethod
    def forward(Xi: Tensor, x0: Tensor, d: Tensor, h: Tensor, planners: Planners) -> Tensor:
        return _knots(Xi, x0, d, h, planners)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.planners = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        Xi, x0, d, h, x = ctx.saved_tensors
        poison = (0 * g).sum()  # NaN if a cotangent is not finite: then all gradients are NaN
        g = torch.where(torch.isfinite(g), g, 0)
        XiH, planners = Xi.conj_physical().mT.flip(-3), ctx.planners.adjoint
        back = knots(XiH, g[..., -1, :], g[..., :-1, :].flip(-2), h.flip(-1), planners)
        lam = back.flip(-2)  # cotangents of x_0 to x_K
        after = lam[..., 1:, :]
        S, _, dh = TrajectoryVJP.apply(
            Xi, _start(x), h[..., None], after[..., None, :], ctx.planners.state, ctx.needs_input_grad[3]
        )
        grads = (S, lam[..., 0, :], after, dh[..., 0])
        return *(grad.sum_to_size(y.shape) + _like(poison, y) for grad, y in zip(grads, (Xi, x0, d, h))), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        Xi, x0, d, h, x = ctx.saved_tensors
        dXi, dx0, dd, dh = zeros_for_none((Xi, x0, d, h), tangents[:4])
        start = _start(x)
        dx, _ = tangent(Xi, start, h[..., None], dXi, torch.zeros_like(start), dh[..., None], ctx.planners.state)
        return knots(Xi, dx0, dx[..., 0, :] + dd, h, ctx.planners)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        *tensors, planners = inputs
        folded = fold(tensors, in_dims[:4], (3, 1, 2, 1))
        return Knots.apply(*folded, planners.fresh()), 0


def _like(x: Tensor, y: Tensor) -> Tensor:
    """The real part of x if y is real."""
    return x.real if x.is_complex() and not y.is_complex() else x


def _start(x: Tensor) -> Tensor:
    """x_k of all steps, (*batch, K, n); states that are not finite become 0, as they have no derivative."""
    x = x[..., :-1, :]
    return torch.where(torch.isfinite(x), x, 0)
