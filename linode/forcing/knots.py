"""States at the knots of a forced problem: x_(k+1) = [exp(M h_k) (x_k, v_k)]_z + c_k, differentiable to any order.

M = [[Xi, G], [0, Omega]] is an autonomous system for the state z (n entries) beside what drives it (q entries); v_k is
what drives it from knot k on, c_k a jump at the next knot. Reverse mode is the same recurrence with Xi^H, backwards
over the cotangents; with its states lambda the gradients are those of K single steps, one call for all of them. A
tangent is the recurrence with the tangents of the steps as jumps. So all derivatives are recurrences and trajectories.
Shapes: M (*batch, J, N, N), one for all steps (J = 1) or one for each (J = K), x0 (*batch, n), v (*batch, K, q),
c (*batch, K, n), or (0, n) where there are no jumps, h (*batch, K) >= 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from ..engine.autograd import TrajectoryVJP, fold, tangent, zeros_for_none
from ..engine.evaluation import Planner, columns, evaluate, recurrence
from ..engine.problem import common_shape
from ..engine.recurrence import changing
from ..errors import OrderError


class Planners:
    """For M and for Xi, its leading block; and those of problems that go with this one, by name."""

    def __init__(self, whole: Planner, state: Planner) -> None:
        self.whole, self.state = whole, state
        self._children: dict[str, Planners] = {}

    def fresh(self) -> Planners:
        """Nothing is kept in it."""
        return Planners(self.whole.fresh(), self.state.fresh())

    def child(self, name: str) -> Planners:
        """The same one every time, so that its plans are kept between calls."""
        return self._children.setdefault(name, self.fresh())

    @property
    def adjoint(self) -> Planners:
        """For the problem backwards, with Xi^H: the plan of Xi serves where there is one."""
        if "adjoint" not in self._children:
            state = Planner(self.state.method, self.state.rtol, adjoint_of=self.state)
            self._children["adjoint"] = Planners(self.whole.fresh(), state)
        return self._children["adjoint"]


def knots(M: Tensor, x0: Tensor, v: Tensor, c: Tensor, h: Tensor, planners: Planners) -> Tensor:
    """x_0 to x_K, (*batch, K + 1, n); all of one wide dtype, h float64."""
    return Knots.apply(M, x0, v, c, h, planners)


class Knots(Function):
    """The states as a function of (M, x0, v, c, h)."""

    @staticmethod
    def forward(M: Tensor, x0: Tensor, v: Tensor, c: Tensor, h: Tensor, planners: Planners) -> Tensor:
        n, K = x0.shape[-1], h.shape[-1]
        if bool((h < 0).any()):  # inside transforms nobody could look before
            raise OrderError("times of an input must increase strictly")
        batch = common_shape(M.shape[:-3], x0.shape[:-1], v.shape[:-2], c.shape[:-2], h.shape[:-1])
        x0, Xi = x0.expand(*batch, n), M[..., :n, :n]
        d = c if c.shape[-2] else c.new_zeros(1, n)
        if v.shape[-1]:
            own = _driven(planners.whole, M, v, h)
            d = d + own if c.shape[-2] else own
        d = d.expand(*batch, K, n)
        if M.shape[-3] == 1:
            return recurrence(planners.state, Xi[..., 0, :, :], x0, h, d)
        E = evaluate(planners.state, Xi, columns(n, len(batch) + 1, M), h[..., None])[..., 0, :].movedim(0, -1)
        return changing(E.expand(*batch, K, n, n), d, x0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.planners = inputs
        ctx.save_for_backward(*tensors, output)
        ctx.save_for_forward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        M, x0, v, c, h, x = ctx.saved_tensors
        poison = (0 * g).sum()  # NaN where a cotangent is not finite: so are all gradients then
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
    """A complex or real x as y is."""
    return x.real if x.is_complex() and not y.is_complex() else x


def _driven(planner: Planner, M: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """What v adds to z in a step, [exp(M h) (0, v)]_z."""
    q, n = v.shape[-1], M.shape[-1] - v.shape[-1]
    if M.shape[-3] == 1 and bool((h == h.flatten()[0]).all()):
        units = columns(n + q, M.ndim - 3, M)[n:]
        gain = evaluate(planner, M[..., 0, :, :], units, h.flatten()[:1])[..., 0, :n]  # (q, *batch, n)
        return v @ gain.movedim(0, -2)
    start = torch.cat([v.new_zeros(*v.shape[:-1], n), v], -1)
    return evaluate(planner, M, start, h[..., None])[..., 0, :n]


def _start(x: Tensor, v: Tensor) -> Tensor:
    """(x_k, v_k) of all steps, (*batch, K, N); a state past the largest float has no derivative to speak of."""
    x = torch.where(torch.isfinite(x), x, 0)
    return torch.cat([x[..., :-1, :], v.expand(*x.shape[:-2], *v.shape[-2:])], -1)
