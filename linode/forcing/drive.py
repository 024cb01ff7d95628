"""z'(t) = Xi z(t) + b + B u(t) with one input u: states at the breaks of u by a recurrence, then states at any time.

Between two breaks z and the state v of the input, u = H v, form a linear ODE without input: y = (z, v), y' = M y,
M = [[Xi, G], [0, Omega]]. Xi may differ between pieces. For times before 0 time is reversed.
States at the breaks: x_(k+1) = [exp(M h_k) (x_k, v_k)]_z + c_k, with c_k an impulse at the next break. They are
differentiable to any order. Reverse mode is the same recurrence with Xi^H, backwards in time, over the cotangents: its
states are the cotangents of all K steps, whose gradients are then one call. Forward mode is the recurrence with the
tangents of the steps in place of c_k. So all derivatives are recurrences and trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from ..engine.autograd import TrajectoryVJP, tangent, trajectory, zeros_for_none
from ..engine.batching import fold
from ..engine.evaluation import Planner, columns, evaluate, recurrence
from ..engine.problem import common_shape, extremes, is_known
from ..engine.recurrence import changing
from ..errors import OrderError
from ..kernels.balance import power_of_two
from ..kernels.private import has_derivative
from ..kernels.tensors import is_equal, is_finite
from .pieces import Pieces, count, select

# Largest and smallest |M| * step that the scaling of G aims for. At 30 eigenvectors of M, if accepted, are accurate to
# nearly all digits; at 0.25 a short Taylor series makes a step. Chosen by hand.
FAR, NEAR = 30.0, 0.25


class Planners:
    """Planners for M and for its block Xi, and by name those of related problems (mirrored, adjoint, each input)."""

    def __init__(self, whole: Planner, state: Planner) -> None:
        self.whole, self.state = whole, state
        self._children: dict[str, Planners] = {}

    def fresh(self) -> Planners:
        """The same methods, without plans."""
        return Planners(self.whole.fresh(), self.state.fresh())

    def child(self, name: str) -> Planners:
        """The planners of that name; kept, so that their plans serve the next call."""
        return self._children.setdefault(name, self.fresh())

    @property
    def adjoint(self) -> Planners:
        """Planners for Xi^H, which follow from the plan of Xi if there is one."""
        if "adjoint" not in self._children:
            state = Planner(self.state.method, self.state.rtol, adjoint_of=self.state)
            self._children["adjoint"] = Planners(self.whole.fresh(), state)
        return self._children["adjoint"]


@dataclass(frozen=True)
class Drive:
    """A forced problem for times after 0: M (*batch, J, N, N), one for each piece (J = K + 1) or one for all (J = 1).

    pieces: of the input, with states v (*batch, K + 1, N - n) and jumps of z at the breaks (*batch, K, n), or None.
    is_mirrored: whether time is reversed.
    """

    M: Tensor
    n: int
    pieces: Pieces
    planners: Planners
    is_mirrored: bool = False

    @classmethod
    def of(
        cls, Xi: Tensor, b: Tensor | None, B: Tensor | None, pieces: Pieces, t_max: float, planners: Planners
    ) -> Drive:
        """Xi (*batch, J, n, n), b (*batch, n), B (*batch, n, m), for times up to t_max."""
        rate = _rate(Xi, pieces, t_max)
        n, states, Omega = Xi.shape[-1], pieces.states, pieces.Omega
        G = pieces.H if B is None else B @ pieces.H
        if Omega.shape[-1]:
            unit = _unit(G, rate)
            G, states = G / unit, states * unit
        if b is not None:  # b is driven by one more state, which is constant
            unit = _unit(b[..., None], rate)
            G = _joined(G, b[..., None] / unit, 2)
            states = _joined(states, unit.expand(*unit.shape[:-2], states.shape[-2], 1).to(states.dtype), 2)
            Omega = torch.nn.functional.pad(Omega, (0, 1, 0, 1))
        M = _joined(Xi, G[..., None, :, :], 2)
        M = _joined(M, torch.nn.functional.pad(Omega, (n, 0)), 2, dim=-2)
        jumps = pieces.jumps
        if jumps is not None and B is not None:
            jumps = jumps @ B.mT
        return cls(M, n, replace(pieces, states=states, Omega=Omega, jumps=jumps), planners)

    def mirrored(self) -> Drive:
        """The same problem as a function of -t."""
        planners = self.planners.child("mirrored")
        return Drive(-self.M.flip(-3), self.n, self.pieces.mirrored(), planners, is_mirrored=True)

    def states(self, z0: Tensor, t: Tensor) -> Tensor:
        """z(t), (*batch, T, n), for z0 (*batch, n) and t (*batch, T) of any sign."""
        if t.shape[-1] == 0:
            return self.states(z0, torch.zeros(1, dtype=t.dtype, device=t.device).expand(*t.shape[:-1], 1))[..., :0, :]
        known = is_known(t)
        if known and not bool((t < 0).any()):
            return self._after_0(z0, t)
        if known and bool((t < 0).all()):
            return self.mirrored()._after_0(z0, -t)
        forth, back = self._after_0(z0, t.clamp(min=0)), self.mirrored()._after_0(z0, (-t).clamp(min=0))
        return torch.where((t < 0)[..., None], back, forth)

    def _after_0(self, z0: Tensor, t: Tensor) -> Tensor:
        """For t >= 0."""
        pieces, breaks = self.pieces, self.pieces.breaks
        if breaks.shape[-1] == 0:
            v = pieces.states[..., 0, :]
            v = v if pieces.degree is None else pieces.advanced(v, -pieces.refs[..., 0])
            y0 = _joined(z0, v, 1)
            return trajectory(self.M[..., 0, :, :], y0, t, self.planners.whole)[..., : self.n]
        if breaks.ndim == 1 and is_known(breaks) and is_known(t):
            return self._along(z0, t)
        # steps to breaks before 0, or after all times, have length 0
        end = t.detach().amax(-1, keepdim=True)
        starts = torch.cat([torch.zeros_like(breaks[..., :1]), breaks.clamp(min=0).minimum(end)], -1)
        ahead = (breaks > 0 if self.is_mirrored else breaks >= 0) & (breaks <= end)
        jumps = z0.new_zeros(0, self.n) if pieces.jumps is None else torch.where(ahead[..., None], pieces.jumps, 0)
        v = pieces.advanced(pieces.states, starts - pieces.refs)
        x = self._knots(z0, v[..., :-1, :], jumps, starts[..., 1:] - starts[..., :-1], slice(None, -1))
        k = count(breaks, t, right=self._right)
        return self._between(x, v, k, t - select(starts[..., None], k)[..., 0], slice(None))

    @property
    def _right(self) -> bool:
        """Whether a time at a break belongs to the next piece; in reversed time the jump there comes after it."""
        return not self.is_mirrored or self.pieces.jumps is None

    def _along(self, z0: Tensor, t: Tensor) -> Tensor:
        """As `_after_0`, where all trajectories share known breaks: only the breaks between 0 and the last time."""
        pieces, breaks, forth = self.pieces, self.pieces.breaks, not self.is_mirrored
        first = int(count(breaks, torch.zeros_like(breaks[:1]), right=self.is_mirrored))
        last = max(first, int(count(breaks, t.detach().amax()[None], right=self._right)))
        # a break at 0 can be the start of the recurrence, unless its time needs a gradient
        at_break = forth and first < last and float(breaks[first].detach()) == 0 and not has_derivative(breaks)
        if at_break:
            z0 = z0 if self.pieces.jumps is None else z0 + self.pieces.jumps[..., first, :]
            first += 1
        own = slice(first, last + 1)
        if at_break and not has_derivative(t) and is_equal(breaks, t):  # t are the breaks
            return self._over_breaks(z0, pieces.states[..., own, :], first, last, at_break)
        starts = torch.cat([torch.zeros_like(breaks[:1]), breaks[first:last]])
        if self.is_mirrored:
            v = pieces.advanced(pieces.states[..., own, :], starts - pieces.refs[own])
        else:  # states hold at the starts of their pieces, except in the piece that contains 0
            v = pieces.states[..., own, :]
            if not at_break:
                head = pieces.advanced(v[..., 0, :], starts[0] - pieces.refs[first])
                v = torch.cat([head[..., None, :], v[..., 1:, :]], -2)
        x = self._over_breaks(z0, v, first, last, at_break)
        k = (count(breaks, t, right=self._right) - first).clamp(0, last - first)
        return self._between(x, v, k, t - starts[k], own)

    def _over_breaks(self, z0: Tensor, v: Tensor, first: int, last: int, at_break: bool) -> Tensor:
        """States at 0 and at breaks first to last - 1."""
        if last == first:
            return z0[..., None, :]
        breaks, gaps, jumps = self.pieces.breaks, self.pieces.gaps, self.pieces.jumps
        jumps = z0.new_zeros(0, self.n) if jumps is None else jumps[..., first:last, :]
        if at_break:
            return self._knots(z0, v[..., :-1, :], jumps, gaps[first - 1 : last - 1], slice(first, last))
        # the first step alone: the others are of equal length if samples are uniform
        x = self._knots(z0, v[..., :1, :], jumps[..., :1, :], breaks[first : first + 1], slice(first, first + 1))
        if last == first + 1:
            return x
        own = slice(first + 1, last)
        rest = self._knots(x[..., 1, :], v[..., 1:-1, :], jumps[..., 1:, :], gaps[first : last - 1], own)
        return torch.cat([x[..., :1, :].expand(*rest.shape[:-2], 1, self.n), rest], -2)

    def _knots(self, z0: Tensor, v: Tensor, jumps: Tensor, h: Tensor, own: slice) -> Tensor:
        """States at breaks, see `knots`; own: the pieces of the steps."""
        return knots(self._systems(own), z0, v, jumps, h, self.planners)

    def _systems(self, own: slice) -> Tensor:
        """M of some of the pieces."""
        return self.M if self.M.shape[-3] == 1 else self.M[..., own, :, :]

    def _between(self, x: Tensor, v: Tensor, k: Tensor, s: Tensor, own: slice) -> Tensor:
        """z at times s (*batch, T) after the starts of pieces k (*batch, T), whose states are x and v."""
        if is_known(s) and not has_derivative(s) and not bool(s.any()):
            in_order = k.ndim == 1 and is_known(k) and torch.equal(k, torch.arange(len(k), device=k.device))
            return x[..., : len(k), :] if in_order else select(x, k)
        if is_known(x) and is_finite(x.detach()):
            return self._from_pieces(x, v, k, s, own)
        finite = torch.isfinite(x).all(-1, keepdim=True)  # beyond the largest float z is unknown
        z = self._from_pieces(torch.where(finite, x, 0), v, k, s, own)
        return torch.where(select(finite, k), z, select(x, k))

    def _from_pieces(self, x: Tensor, v: Tensor, k: Tensor, s: Tensor, own: slice) -> Tensor:
        M, y, n, planner = self._systems(own), _joined(x, v, 2), self.n, self.planners.whole
        if k.ndim == 1 and is_known(k):
            piece, place, back = grouped(k)
            M = M if M.shape[-3] == 1 else M[..., piece, :, :]
            z = trajectory(M, y[..., piece, :], s[place], planner)[..., :n]
            return z.flatten(-3, -2)[..., back, :]
        if M.shape[-3] > 1:
            M = select(M.flatten(-2), k).unflatten(-1, M.shape[-2:])
        return trajectory(M, select(y, k), s[..., None], planner)[..., 0, :n]


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
    batch = common_shape(x.shape[:-n_own], y.shape[:-n_own])
    return torch.cat([a.expand(*batch, *a.shape[-n_own:]) for a in (x, y)], dim)


def _rate(Xi: Tensor, pieces: Pieces, t_max: float) -> Tensor:
    """(*batch, 1, 1), 1/time: the norm to which G is scaled: |Xi|_1, or more if |Xi|_1 times the longest step is small.

    If G were as small as such an Xi, its effect on z would be a difference of numbers that are larger by 1 / (|Xi| t),
    and no check of the eigenvectors would show the cancellation.
    """
    norm = Xi.detach().abs().sum(-2).amax((-2, -1))[..., None, None]
    if pieces.breaks.shape[-1] == 0:
        least = FAR / t_max if t_max > 0 else 0.0
    else:
        longest = max(extremes(pieces.gaps)[1], t_max - max(abs(x) for x in extremes(pieces.breaks)), 0.0)
        longest = min(longest, t_max)
        least = NEAR / longest if longest > 0 else 0.0
    return norm.clamp(min=least if least < torch.inf else 0.0)


def _unit(G: Tensor, rate: Tensor) -> Tensor:
    """(*batch, 1, 1): the power of two by which G must be divided to have a norm of about `rate`."""
    return power_of_two(G.detach().abs().sum(-2, keepdim=True).amax(-1, keepdim=True) / rate)


# ---- states at the breaks -----------------------------------------------------------------------------------------


def knots(M: Tensor, x0: Tensor, v: Tensor, c: Tensor, h: Tensor, planners: Planners) -> Tensor:
    """x_0 to x_K, (*batch, K + 1, n), for M (*batch, J, N, N), one for all steps (J = 1) or one for each (J = K),
    x0 (*batch, n), v (*batch, K, q), c (*batch, K, n), or (0, n) without jumps, all float64 or all complex128; and
    h (*batch, K) >= 0, float64.
    """
    return Knots.apply(M, x0, v, c, h, planners)


class Knots(Function):
    """The states as a function of (M, x0, v, c, h)."""

    @staticmethod
    def forward(M: Tensor, x0: Tensor, v: Tensor, c: Tensor, h: Tensor, planners: Planners) -> Tensor:
        n, K = x0.shape[-1], h.shape[-1]
        if bool((h < 0).any()):  # inside transforms of torch.func times could not be checked before
            raise OrderError("times of an input must increase strictly")
        batch = common_shape(M.shape[:-3], x0.shape[:-1], v.shape[:-2], c.shape[:-2], h.shape[:-1])
        x0, Xi = x0.expand(*batch, n), M[..., :n, :n]
        d = c if c.shape[-2] else c.new_zeros(1, n)
        if v.shape[-1]:
            own = _driven(planners.whole, M, v, h)
            d = d + own if c.shape[-2] else own
        d = d.expand(*batch, K, n)
        if M.shape[-3] == 1:
            x = recurrence(planners.state, Xi[..., 0, :, :], x0, h, d)
        else:
            own = columns(n, len(batch) + 1, M)
            E = evaluate(planners.state, Xi, own, h[..., None])[..., 0, :].movedim(0, -1)
            x = changing(E.expand(*batch, K, n, n), d, x0)
        if not is_finite(x) and is_finite(M, x0, v, c):
            x = torch.where(x.isnan(), torch.inf, x)  # inf - inf or 0 inf: a state beyond the largest float
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.planners = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        M, x0, v, c, h, x = ctx.saved_tensors
        poison = (0 * g).sum()  # NaN if a cotangent is not finite: then all gradients are NaN
        g = torch.where(torch.isfinite(g), g, 0)
        XiH = M[..., : x0.shape[-1], : x0.shape[-1]].conj_physical().mT.flip(-3)
        back = knots(XiH, g[..., -1, :], g[..., :-1, :0], g[..., :-1, :].flip(-2), h.flip(-1), ctx.planners.adjoint)
        lam = back.flip(-2)  # cotangents of x_0 to x_K
        after = lam[..., 1:, :]
        nothing = torch.zeros_like(v).expand(*after.shape[:-1], v.shape[-1])
        S, a, dh = TrajectoryVJP.apply(
            M,
            _start(x, v),
            h[..., None],
            torch.cat([after, nothing], -1)[..., None, :],
            ctx.planners.whole,
            ctx.needs_input_grad[4],
        )
        grads = (S, lam[..., 0, :], a[..., x0.shape[-1] :], after[..., : c.shape[-2], :], dh[..., 0])
        return *(grad.sum_to_size(y.shape) + _like(poison, y) for grad, y in zip(grads, (M, x0, v, c, h))), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        M, x0, v, c, h, x = ctx.saved_tensors
        n, planners = x0.shape[-1], ctx.planners
        dM, dx0, dv, dc, dh = zeros_for_none((M, x0, v, c, h), tangents[:5])
        moved = _start(torch.zeros_like(x), dv)
        dx, _ = tangent(M, _start(x, v), h[..., None], dM, moved, dh[..., None], planners.whole)
        jumps = dx[..., 0, :n] + dc if dc.shape[-2] else dx[..., 0, :n]
        return knots(M[..., :n, :n], dx0, v[..., :0], jumps, h, planners)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        *tensors, planners = inputs
        folded = fold(tensors, in_dims[:5], (3, 1, 2, 2, 1))
        return Knots.apply(*folded, planners.fresh()), 0


def _like(x: Tensor, y: Tensor) -> Tensor:
    """The real part of x if y is real."""
    return x.real if x.is_complex() and not y.is_complex() else x


def _driven(planner: Planner, M: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """The part of z after each step that comes from v: [exp(M h) (0, v)]_z."""
    q, n = v.shape[-1], M.shape[-1] - v.shape[-1]
    if M.shape[-3] == 1 and bool((h == h.flatten()[0]).all()):
        units = columns(n + q, M.ndim - 3, M)[n:]
        gain = evaluate(planner, M[..., 0, :, :], units, h.flatten()[:1])[..., 0, :n]  # (q, *batch, n)
        return v @ gain.movedim(0, -2)
    start = torch.cat([v.new_zeros(*v.shape[:-1], n), v], -1)
    return evaluate(planner, M, start, h[..., None])[..., 0, :n]


def _start(x: Tensor, v: Tensor) -> Tensor:
    """(x_k, v_k) of all steps, (*batch, K, N); states that are not finite become 0, as they have no derivative."""
    x = torch.where(torch.isfinite(x), x, 0)
    return torch.cat([x[..., :-1, :], v.expand(*x.shape[:-2], *v.shape[-2:])], -1)
