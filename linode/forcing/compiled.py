"""Forced states of small systems, and the matrices of one step, by the compiled kernel: one call forward, one back.

The kernel takes b and B u(t) as one polynomial f(t) in each piece, so that gradients of b, B and of samples are those
of products. Second derivatives, and what overflows, go by `Drive` and `Block`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.autograd import refuse_batched
from ..engine.problem import Layout, common_shape
from ..kernels import forced
from ..kernels.private import OutsideTransforms, is_in_forward_mode, is_transforming
from ..methods.base import default
from .block import Block, Planners
from .drive import Drive
from .pieces import Pieces, held


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
    """z (*batch, T, n), for Xi (*batch, J, n, n), z0 (*batch, n), b (*batch, n), B (*batch, n, m); None where the
    kernel does not serve: it needs `auto`, few states, times from 0 on and known times of the input.
    """
    if not forced.is_in_use() or times[0] < 0 or pieces.generator is not None or pieces.breaks.ndim > 1:
        return None
    n, breaks, n_terms = Xi.shape[-1], pieces.breaks, max(pieces.n_terms, b is not None)
    if torch.compiler.is_compiling() or is_transforming() or is_in_forward_mode():
        return None
    of_input = () if not breaks.shape[0] else (breaks, pieces.states)
    if planners.state.method is not default("auto") or not forced.takes(n, n_terms, Xi, z0, t, *of_input):
        return None
    if t.shape[-1] == 0 or t.requires_grad or breaks.requires_grad or pieces.refs.requires_grad:
        return None
    if isinstance(pieces.unit, Tensor) and pieces.unit.requires_grad:
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


class Problem(NamedTuple):
    """What states depend on beside Xi, z0, f and jumps, without gradients of its own."""

    pieces: Pieces
    t: Tensor
    times: tuple[float, float]
    planners: Planners

    def states(self, Xi: Tensor, z0: Tensor, f: Tensor | None, jumps: Tensor | None) -> Tensor | None:
        """By the kernel; None where it refuses."""
        needs_gradients = Xi.requires_grad or z0.requires_grad or (f is not None and f.requires_grad)
        needs_gradients = needs_gradients or (jumps is not None and jumps.requires_grad)
        needs_gradients = needs_gradients and torch.is_grad_enabled()
        layout, systems, x0, t, force, kicks = None, Xi, z0, self.t, f, jumps
        rank = max(2 if f is None else f.ndim, 2 if jumps is None else jumps.ndim)
        if Xi.ndim + z0.ndim + t.ndim + rank > 7:
            of_others = [x.shape[:-2] for x in (f, jumps) if x is not None]
            batch = common_shape(Xi.shape[:-3], z0.shape[:-1], t.shape[:-1], *of_others)
            layout = Layout.of(Xi.shape[:-3] + Xi.shape[-2:], torch.Size((*batch, z0.shape[-1])), t.shape)
            x0, t = layout.trajectories(z0, 1), layout.trajectories(t, 1)
            force, kicks = (None if x is None else layout.trajectories(x, 2) for x in (f, jumps))
            systems = Xi.reshape(layout.S, *Xi.shape[-3:])
        pieces = self.pieces
        grid = forced.Grid(pieces.breaks, pieces.gaps, pieces.refs, pieces.unit)
        walk = forced.Walk(systems, x0, force, kicks, t, grid, self.times[1])
        found = walk.states(needs_gradients)
        if found is None:
            return None
        z, nodes = found
        if layout is not None:
            z = layout.batched(z).contiguous()
        if not needs_gradients:
            return z
        return Solved.apply(Xi, z0, f, jumps, self.t, Record(self, layout, walk, nodes, z))  # type: ignore[attr-defined]

    def again(self, Xi: Tensor, z0: Tensor, f: Tensor | None, jumps: Tensor | None) -> Tensor:
        """The same states as a function that can be differentiated twice."""
        pieces, n = self.pieces, z0.shape[-1]
        v = pieces.states[..., :0] if f is None else f
        if v.shape[-2] != pieces.breaks.shape[-1] + 1:
            v = v.expand(*v.shape[:-2], pieces.breaks.shape[-1] + 1, v.shape[-1])
        own = replace(pieces, states=v.to(Xi), m=n, jumps=jumps)
        return Drive.of(Xi, None, None, own, self.times, self.planners.child("again")).states(z0, self.t)


class Record(NamedTuple):
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
        ctx: Any, Xi: Tensor, z0: Tensor, f: Tensor | None, jumps: Tensor | None, t: Tensor, record: Record
    ) -> Tensor:
        ctx.record = record
        ctx.save_for_backward(Xi, z0, f, jumps, t)  # t: so that a change in place is noticed
        return record.z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        refuse_batched(g)
        (*given, _), record = ctx.saved_tensors, ctx.record
        if not (torch.is_grad_enabled() or is_transforming()):
            found = record.gradients(g, [None if x is None else x.shape for x in given])
            if found is not None:
                return *found, None, None
        return *_differentiated(record.problem, given, ctx.needs_input_grad[: len(given)], g), None, None


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
    return [next(found) if is_needed else None for is_needed in needs]


# ---- the matrices of one step ----------------------------------------------------------------------------------------


def gains(A: Tensor, n_terms: int, planners: Planners) -> tuple[Tensor, Tensor] | None:
    """exp(A) (*batch, n, n) and int_0^1 exp(A (1 - s)) s^j ds for j < n_terms, (*batch, n_terms, n, n), of A
    (*batch, n, n); None where the kernel does not serve.
    """
    if not forced.is_in_use() or torch.compiler.is_compiling() or is_transforming() or is_in_forward_mode():
        return None
    if planners.state.method is not default("auto") or 0 in A.shape:
        return None
    systems = A if A.ndim == 2 else A.reshape(-1, *A.shape[-2:])
    found = forced.steps(systems, n_terms)
    if found is None:
        return None
    E, Phi = found[0].reshape(A.shape), found[1].reshape(*A.shape[:-2], n_terms, *A.shape[-2:])
    if not (torch.is_grad_enabled() and A.requires_grad):
        return E, Phi
    return Gains.apply(A, E, Phi, planners)  # type: ignore[attr-defined]


class Gains(OutsideTransforms):
    """The matrices as a function of A, outside of transforms."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, E: Tensor, Phi: Tensor, planners: Planners) -> tuple[Tensor, Tensor]:
        ctx.planners = planners
        ctx.save_for_backward(A)
        return E, Phi

    @staticmethod
    def backward(ctx: Any, of_E: Tensor, of_Phi: Tensor) -> Any:
        refuse_batched(of_E, of_Phi)
        (A,), p = ctx.saved_tensors, of_Phi.shape[-3]
        if not (torch.is_grad_enabled() or is_transforming()):
            systems = A.reshape(-1, *A.shape[-2:])
            found = forced.steps_vjp(systems, of_E.reshape(systems.shape), of_Phi.reshape(-1, p, *A.shape[-2:]))
            if found is not None:
                return found.reshape(A.shape), None, None, None
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            A = A if create_graph else A.detach().requires_grad_()
            eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
            block = Block.of(A.unsqueeze(-3), None, eye, held(p, len(eye), A.dtype, A.device), 1.0, ctx.planners)
            E, *columns = block.after(1.0, p, len(eye))
            (found,) = torch.autograd.grad((E, torch.stack(columns, -3)), A, (of_E, of_Phi), create_graph=create_graph)
        return found, None, None, None
