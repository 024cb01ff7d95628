"""Derivatives for large Xi: the autograd functions of sums f(t, Xi) v, and of the entries of sparse tensors.

`Large` is the states; its backward and its forward mode are `LargeVJP` and `LargeTangent`, functions in their own right
that refuse to be differentiated again: no derivative is silently zero. torch itself loses second derivatives in its
sparse tensors, so `Entries`, which reads their values, refuses to be part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function

from ..errors import NotDifferentiableError
from ..kernels.private import (
    OutsideTransforms,
    forward_mode_depth,
    has_derivative,
    is_in_forward_mode,
    is_transforming,
    is_wrapped,
    will_accumulate,
)
from ..operators import Operator, Pattern, SparseMatrix, raw_values, with_values
from .autograd import refuse_batched
from .large_evaluation import Asked, Kind, LargeEvaluation, LargePlanner, Report
from .large_products import check_differentiable
from .tracing import untraced

TWICE = (
    "second derivatives of states of a large Xi (n > 256, or an operator) are not computed: take differences of first "
    "ones, or give a dense Xi"
)


class Question(NamedTuple):
    """What is not a tensor: vectors are multiplied by f of these kinds; the first `n_leaves` tensors make up Xi."""

    planner: LargePlanner
    operand: SparseMatrix | Operator
    kinds: tuple[Kind, ...]
    n_leaves: int
    wants_gradient: bool
    report: Report | None = None
    like: Asked | None = None

    def evaluation(self, tensors: Sequence[Tensor]) -> LargeEvaluation:
        own, (t, *vectors) = tuple(tensors[: self.n_leaves]), tensors[self.n_leaves :]
        return LargeEvaluation(self.planner, self.operand, self.kinds, own, t, vectors, self.wants_gradient, self.like)


@untraced
def large_states(
    planner: LargePlanner,
    operand: SparseMatrix | Operator,
    kinds: Sequence[Kind],
    vectors: Sequence[Tensor],
    t: Tensor,
    report: Report | None = None,
    like: Asked | None = None,
) -> Tensor:
    """sum_j f_j(t, Xi) v_j, (*batch, T, n), for vectors v_j (*batch, n) and t (*batch, T) float64; differentiable in
    the values or parameters of the operand, t and the vectors. like: see `LargeEvaluation`.
    """
    leaves = (operand.entries,) if isinstance(operand, SparseMatrix) else operand.parameters
    tensors = (*leaves, t, *vectors)
    in_forward = is_transforming() or is_in_forward_mode()
    if forward_mode_depth() > 1:
        raise NotDifferentiableError(TWICE)
    wants = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if isinstance(operand, Operator):
        check_differentiable(operand, wants and any(x.requires_grad for x in (*leaves, *vectors)))
    question = Question(planner, operand, tuple(kinds), len(leaves), wants or in_forward, report, like)
    if not (wants or in_forward):
        return question.evaluation([x.detach() for x in tensors]).states(report)
    function: Any = Large if in_forward else EagerLarge
    z: Tensor = function.apply(question, *tensors)
    return z


class Large(Function):
    """The states; inputs after the question: what makes up Xi, t, vectors."""

    @staticmethod
    def forward(question: Question, *tensors: Tensor) -> Tensor:
        return question.evaluation(tensors).states(question.report)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.question, *tensors = inputs
        # for the derivative by t the states are needed again
        ctx.wants_t = ctx.needs_input_grad[1 + ctx.question.n_leaves]
        ctx.save_for_backward(*tensors, *([output] if ctx.wants_t else []))
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        refuse_batched(g)
        tensors = ctx.saved_tensors
        z = tensors[-1] if ctx.wants_t else None
        tensors = tensors[: len(tensors) - ctx.wants_t]
        wanted = ctx.needs_input_grad[1:]
        grads = LargeVJP.apply(ctx.question, wanted, g, z, *tensors)
        return None, *(x if is_wanted else None for x, is_wanted in zip(grads, wanted))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        refuse_batched(*tangents)
        return LargeTangent.apply(ctx.question, len(tangents), *ctx.saved_tensors[: len(tangents)], *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, question: Question, *tensors: Tensor) -> Any:
        dims = in_dims[1:]
        if any(dim is not None for dim in dims[: question.n_leaves]):
            return mapped(lambda *x: (Large.apply(question, *x),), info.batch_size, dims, tensors, is_one=True)
        # the mapped dimension becomes the first batch dimension, before all others of any of the tensors
        own = tensors[question.n_leaves :], dims[question.n_leaves :]
        rank = max(x.ndim - (dim is not None) for x, dim in zip(*own))
        moved = []
        for x, dim in zip(*own):
            if dim is not None:
                x = x.movedim(dim, 0)
                x = x.reshape(len(x), *(1,) * (rank + 1 - x.ndim), *x.shape[1:])
            moved.append(x)
        return Large.apply(question, *tensors[: question.n_leaves], *moved), 0


class EagerLarge(OutsideTransforms):
    """The same in reverse mode alone, outside of transforms: backward goes on with what forward kept."""

    @staticmethod
    def forward(ctx: Any, question: Question, *tensors: Tensor) -> Tensor:
        ctx.question, ctx.evaluation = question, question.evaluation([x.detach() for x in tensors])
        ctx.wants_t = ctx.needs_input_grad[1 + question.n_leaves]
        z = ctx.evaluation.states(question.report, for_gradients=True)
        ctx.save_for_backward(*tensors, *([z] if ctx.wants_t else []))
        return z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        refuse_batched(g)
        if torch.is_grad_enabled() or is_transforming():
            return Large.backward(ctx, g)
        tensors, wanted, k = ctx.saved_tensors, ctx.needs_input_grad[1:], ctx.question.n_leaves
        z = tensors[-1] if ctx.wants_t else None
        grads = ctx.evaluation.gradients(g, z, ctx.wants_t, any(wanted[:k]) or any(wanted[k + 1 :]))
        return None, *(x if is_wanted else None for x, is_wanted in zip(grads, wanted))


class LargeVJP(Function):
    """Gradients of sum Re<g, z> with respect to all tensors of `Large`; zeros for those that are not wanted."""

    @staticmethod
    def forward(
        question: Question, wanted: tuple[bool, ...], g: Tensor, z: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        k = question.n_leaves
        needs_Xi, wants_t, needs_vectors = any(wanted[:k]), wanted[k], any(wanted[k + 1 :])
        evaluation = question.evaluation([x.detach() for x in tensors])
        if wants_t and z is None:
            z = evaluation.states()
        return tuple(evaluation.gradients(g, z, wants_t, needs_Xi or needs_vectors))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotDifferentiableError(TWICE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotDifferentiableError(TWICE)

    @staticmethod
    def vmap(info: Any, in_dims: Any, question: Question, wanted: Any, *tensors: Any) -> Any:
        return mapped(lambda *x: LargeVJP.apply(question, wanted, *x), info.batch_size, in_dims[2:], tensors)


class LargeTangent(Function):
    """The derivative of the states along tangents of all tensors of `Large`; None: no change."""

    @staticmethod
    def forward(question: Question, count: int, *tensors: Tensor | None) -> Tensor:
        k, primals, tangents = question.n_leaves, tensors[:count], tensors[count:]
        evaluation = question.evaluation([x.detach() for x in primals if x is not None])
        return evaluation.tangent(tangents[:k], tangents[k], tangents[k + 1 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        raise NotDifferentiableError(TWICE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotDifferentiableError(TWICE)

    @staticmethod
    def vmap(info: Any, in_dims: Any, question: Question, count: int, *tensors: Any) -> Any:
        own = in_dims[2:]
        return mapped(lambda *x: (LargeTangent.apply(question, count, *x),), info.batch_size, own, tensors, is_one=True)


def mapped(function: Any, size: int, dims: Sequence[int | None], tensors: Sequence[Any], is_one: bool = False) -> Any:
    """One call for each element of the mapped dimensions: Xi has no batch dimension that could take them."""
    rows = []
    for i in range(size):
        rows.append(function(*(x if dim is None else x.select(dim, i) for x, dim in zip(tensors, dims))))
    stacked = tuple(torch.stack(column) for column in zip(*rows))
    return (stacked[0], 0) if is_one else (stacked, (0,) * len(stacked))


class Entries(Function):
    """Values of a sparse tensor in the order of a CSR pattern, (nnz,); its gradient has the layout of the tensor."""

    @staticmethod
    def forward(Xi: Tensor, pattern: Pattern) -> Tensor:
        return pattern.entries(raw_values(Xi)).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.Xi, ctx.pattern = inputs[0].detach(), inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        refuse_batched(g)
        if torch.is_grad_enabled():
            raise NotDifferentiableError(
                "torch loses second derivatives in sparse tensors, without a sign (create_graph=True): give Xi as "
                "linode.SparseMatrix(values, indices, n)"
            )
        node = ctx.next_functions[0][0]
        if ctx.Xi.layout != torch.sparse_csc or not will_accumulate(node):
            return with_values(ctx.Xi, g.detach(), ctx.pattern), None
        leaf = node.variable  # torch cannot add to the gradient of a leaf in CSC ("do not have is_contiguous")
        total = g.detach() if leaf.grad is None else g.detach() + ctx.pattern.picked(raw_values(leaf.grad))
        leaf.grad = with_values(ctx.Xi, total, ctx.pattern)
        return None, None


def entries_of(Xi: Tensor, pattern: Pattern) -> Tensor:
    """The values of a sparse tensor in CSR order, (nnz,), with their derivatives."""
    if is_wrapped(Xi) or (is_in_forward_mode() and has_derivative(Xi) and not Xi.requires_grad):
        raise NotDifferentiableError(
            "torch has no forward mode and no torch.func for sparse tensors: give Xi as "
            "linode.SparseMatrix(values, indices, n)"
        )
    if not (torch.is_grad_enabled() and Xi.requires_grad):
        return pattern.entries(raw_values(Xi))
    values: Tensor = Entries.apply(Xi, pattern)
    return values
