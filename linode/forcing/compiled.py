"""Forced states of small systems by the compiled kernel: one call for states, one for their gradients.

The kernel takes b and B u(t) as one polynomial f(t) in each piece, so that gradients of b, B and of samples are those of
products. Second derivatives, and what overflows, go by `Drive`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.autograd import refuse_batched
from ..engine.problem import Layout, common_shape, is_known
from ..kernels import forced
from ..kernels.private import OutsideTransforms, has_derivative, is_in_forward_mode, is_transforming
from ..methods.base import default
from .block import Planners
from .drive import Drive
from .pieces import Pieces


def states(
    Xi: Tensor,
    z0: Tensor,
    b: Tensor | None,
    B: Tensor | None,
    pieces: Pieces,
    t: Tensor,
    times: tuple[float, float],
    planners: Planners,
) -> Tensor | None:
    """z (*batch, T, n), for Xi (*batch, J, n, n), z0 (*batch, n), b (*batch, n), B (*batch, n, m); None where the kernel
    does not serve: it needs `auto`, few states, times from 0 on and known times of the input.
    """
    if not forced.is_in_use() or times[0] < 0 or pieces.generator is not None or pieces.breaks.ndim > 1:
        return None
    n, breaks, n_terms = Xi.shape[-1], pieces.breaks, max(pieces.n_terms, b is not None)
    if torch.compiler.is_compiling() or is_transforming() or is_in_forward_mode():
        return None
    if planners.state.method != default("auto") or not forced.takes(n, n_terms, Xi, z0, t, breaks, pieces.states):
        return None
    of_times = [x for x in (t, breaks, pieces.refs, pieces.gaps, pieces.unit) if isinstance(x, Tensor)]
    if t.shape[-1] == 0 or any(x.requires_grad for x in of_times):
        return None
    problem = Problem(pieces, t, times, planners)
    f, jumps = _force(pieces, b, B), pieces.jumps
    if jumps is not None and B is not None:
        jumps = jumps @ B.mT
    return problem.states(Xi, z0, f, jumps)


def _force(pieces: Pieces, b: Tensor | None, B: Tensor | None) -> Tensor | None:
    """The coefficients of b + B u(t), (*batch, K + 1, p n), or (*batch, 1, n) of b alone."""
    p, m, v = pieces.n_terms, pieces.m, pieces.states
    if not p:
        return None if b is None else b[..., None, :]
    if B is None:
        f = v
    elif p == 1:
        f = v @ B.mT
    else:
        f = (v.unflatten(-1, (p, m)) @ (B.mT if B.ndim == 2 else B.mT[..., None, :, :])).flatten(-2)
    if b is None:
        return f
    return f + (b if p == 1 else torch.nn.functional.pad(b, (0, (p - 1) * b.shape[-1])))[..., None, :]


@dataclass(frozen=True)
class Problem:
    """What states depend on beside Xi, z0, f and jumps, without gradients of its own."""

    pieces: Pieces
    t: Tensor
    times: tuple[float, float]
    planners: Planners

    def states(self, Xi: Tensor, z0: Tensor, f: Tensor | None, jumps: Tensor | None) -> Tensor | None:
        """By the kernel; None where it refuses."""
        given = [x for x in (Xi, z0, f, jumps) if x is not None]
        needs_gradients = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        batch = Xi.shape[:-3]
        of_others = [x.shape[:-n_own] for x, n_own in ((f, 2), (jumps, 2)) if x is not None]
        batch = common_shape(batch, z0.shape[:-1], self.t.shape[:-1], *of_others)
        layout, x0, t, own = None, z0, self.t, [f, jumps]
        if batch:
            layout = Layout.of(Xi.shape[:-3] + Xi.shape[-2:], torch.Size((*batch, z0.shape[-1])), t.shape)
            x0, t = layout.trajectories(z0, 1), layout.trajectories(t, 1)
            own = [None if x is None else layout.trajectories(x, 2) for x in own]
            systems = Xi.reshape(layout.S, *Xi.shape[-3:])
        else:
            systems = Xi
        pieces = self.pieces
        grid = forced.Grid(pieces.breaks, pieces.gaps, pieces.refs, pieces.unit)
        walk = forced.Walk(systems, x0, own[0], own[1], t, grid, self.times[1])
        found = walk.states(needs_gradients)
        if found is None:
            return None
        z, nodes = found
        if layout is not None:
            z = layout.batched(z).contiguous()
        if not needs_gradients:
            return z
        return Solved.apply(Xi, z0, f, jumps, Record(self, layout, walk, nodes, z))  # type: ignore[attr-defined]

    def again(self, Xi: Tensor, z0: Tensor, f: Tensor | None, jumps: Tensor | None) -> Tensor:
        """The same states as a function that can be differentiated twice."""
        pieces, n = self.pieces, z0.shape[-1]
        v = pieces.states[..., :0] if f is None else f
        if v.shape[-2] != pieces.breaks.shape[-1] + 1:
            v = v.expand(*v.shape[:-2], pieces.breaks.shape[-1] + 1, v.shape[-1])
        own = replace(pieces, states=v.to(Xi), m=n, jumps=jumps)
        return Drive.of(Xi, None, None, own, self.times, self.planners.child("again")).states(z0, self.t)


@dataclass(frozen=True)
class Record:
    """What the kernel gave, and what its gradients need."""

    problem: Problem
    layout: Layout | None
    walk: forced.Walk
    nodes: bytearray
    z: Tensor

    def gradients(self, g: Tensor, shapes: list[torch.Size | None]) -> list[Tensor | None] | None:
        layout = self.layout
        found = self.walk.gradients(self.nodes, g if layout is None else layout.trajectories(g, 2))
        if found is None:
            return None
        of_Xi, *others = found
        parts: list[Tensor | None] = [of_Xi.reshape(shapes[0] or ())]
        for x, shape in zip(others, shapes[1:]):
            if x is not None and layout is not None and shape is not None:
                x = layout.batched(x).sum_to_size(shape)
            parts.append(x)
        return parts


class Solved(OutsideTransforms):
    """The states as a function of Xi, z0, f and jumps, outside of transforms."""

    @staticmethod
    def forward(
        ctx: Any, Xi: Tensor, z0: Tensor, f: Tensor | None, jumps: Tensor | None, record: Record
    ) -> Tensor:
        ctx.record = record
        ctx.save_for_backward(Xi, z0, f, jumps)
        return record.z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        refuse_batched(g)
        given, record = ctx.saved_tensors, ctx.record
        if not (torch.is_grad_enabled() or is_transforming()):
            found = record.gradients(g, [None if x is None else x.shape for x in given])
            if found is not None:
                return *found, None
        return *_differentiated(record.problem, given, ctx.needs_input_grad, g), None


def _differentiated(problem: Problem, given: Any, needs: Any, g: Tensor) -> list[Tensor | None]:
    """The gradients by the operators of `Drive`; they can be differentiated where this is done with gradients."""
    wanted = [x for x, is_needed in zip(given, needs) if is_needed]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if not create_graph:
            wanted = [x.detach().requires_grad_() for x in wanted]
        new = iter(wanted)
        z = problem.again(*(next(new) if is_needed else x for x, is_needed in zip(given, needs)))
        found = iter(torch.autograd.grad(z, wanted, g, create_graph=create_graph, allow_unused=True))
    return [next(found) if is_needed else None for is_needed in needs[: len(given)]]
