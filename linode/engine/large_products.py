"""Large Xi on the host: what a user gave, with the present values, as a `Linear` of arrays.

The functions of an operator are called with tensors, several vectors at a time as (K, n), and what they give is
checked. Their derivatives in the parameters are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DtypeError, NotDifferentiableError, ShapeError
from ..kernels.private import has_tangent, is_transforming, is_wrapped
from ..kernels.tensors import widened
from ..large.linear import Functions, Linear
from ..operators import Operator, SparseMatrix


def host(x: Tensor) -> np.ndarray:
    """As an array of float64 or complex128 on the host, without derivatives."""
    found: np.ndarray = widened(x.detach()).cpu().resolve_conj().resolve_neg().numpy()
    return found


def linear_of(operand: SparseMatrix | Operator, leaves: tuple[Tensor, ...]) -> Linear:
    """Xi with these entries (nnz,) or parameters, detached."""
    if isinstance(operand, SparseMatrix):
        entries = host(leaves[0])
        own = entries.copy() if np.shares_memory(entries, leaves[0].detach().cpu().numpy()) else entries
        return operand.pattern.in_order.matrix.with_values(own)
    called = Called(operand, leaves)
    Xi = Functions(
        called.times,
        operand.n,
        rmatvec=None if operand.rmatvec is None else called.adjoint_times,
        dtype=complex if operand.dtype.is_complex else float,
        vjp=called.vjp if leaves else None,
        jvp=called.jvp if leaves else None,
        is_hermitian=operand.hermitian,
        is_dissipative=operand.dissipative,
        bounds=operand.bounds,
        solve=None if operand.solve is None else called.solve,
        rsolve=None if operand.rsolve is None else called.adjoint_solve,
    )
    return Xi


class Called:
    """An operator's functions with given parameters, for arrays (n, R)."""

    def __init__(self, operator: Operator, parameters: tuple[Tensor, ...]) -> None:
        self.operator, self.n = operator, operator.n
        # what functions of v alone refer to are the user's own tensors, not those that autograd hands over
        self.parameters = parameters if operator.takes_parameters else operator.parameters

    def times(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._applied(self.operator.matvec, "matvec", X, self.parameters)

    def adjoint_times(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._applied(self.operator.rmatvec, "rmatvec", X, self.parameters)

    def solve(self, gamma: float, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._applied(self.operator.solve, "solve", X, self.parameters, gamma)

    def adjoint_solve(self, gamma: float, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._applied(self.operator.rsolve, "rsolve", X, self.parameters, gamma)

    def vjp(self, Y: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
        """Gradients of Re<Y, Xi X> with respect to the parameters."""
        with torch.enable_grad():
            wanted = self._wanted()
            named = [x for x in wanted if x.requires_grad]
            y, G = self._called(self.operator.matvec, "matvec", X, wanted), self._vectors(Y)
            found = torch.autograd.grad(y, named, G, retain_graph=True, allow_unused=True) if y.requires_grad else ()
        grads = dict(zip(map(id, named), found))
        own = (grads.get(id(x)) for x in wanted)
        return [host(torch.zeros_like(x) if g is None else g) for x, g in zip(wanted, own)]

    def jvp(self, tangents: Sequence[np.ndarray], X: np.ndarray) -> np.ndarray:
        """The change of Xi X along changes of the parameters: the gradient of <g, Xi X> by these, which is linear in g,
        differentiated by g. (torch does not nest forward mode in itself.)
        """
        changes = [torch.from_numpy(np.ascontiguousarray(d)).to(x) for d, x in zip(tangents, self.parameters)]
        with torch.enable_grad():
            own = self._wanted()
            named = [(x, d) for x, d in zip(own, changes) if x.requires_grad]
            y = self._called(self.operator.matvec, "matvec", X, own)
            if not (named and y.requires_grad):
                return np.zeros_like(X)
            g = torch.zeros_like(y, requires_grad=True)
            of = torch.autograd.grad(y, [x for x, _ in named], g, create_graph=True, allow_unused=True)
            pairs = [(p, d) for p, (_, d) in zip(of, named) if p is not None and p.requires_grad]
            if not pairs:
                return np.zeros_like(X)
            (dy,) = torch.autograd.grad([p for p, _ in pairs], g, [d for _, d in pairs], retain_graph=True)
        return self._columns(dy, X)

    def _wanted(self) -> list[Tensor]:
        """The parameters to differentiate with respect to."""
        if not self.operator.takes_parameters:
            return list(self.parameters)
        return [x.detach().requires_grad_() if x.is_floating_point() or x.is_complex() else x for x in self.parameters]

    def _vectors(self, X: np.ndarray) -> Tensor:
        """(R, n), or (2 R, n) of real and imaginary parts where Xi is real and X is not."""
        rows = X.T
        if X.dtype.kind == "c" and not self.operator.dtype.is_complex:
            rows = np.concatenate([rows.real, rows.imag])
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.operator.device, self.operator.dtype)

    def _columns(self, y: Tensor, X: np.ndarray) -> np.ndarray:
        rows = host(y)
        if len(rows) != X.shape[1]:
            rows = rows[: X.shape[1]] + 1j * rows[X.shape[1] :]
        return rows.T

    def _called(
        self, function: Callable[..., Any] | None, name: str, X: np.ndarray, own: Sequence[Tensor], *numbers: float
    ) -> Tensor:
        assert function is not None
        v = self._vectors(X)
        y = function(v, *numbers, *own) if self.operator.takes_parameters else function(v, *numbers)
        if not isinstance(y, Tensor):
            raise DtypeError(f"{name} must give a tensor, got {type(y).__name__}")
        if y.shape != v.shape:
            raise ShapeError(
                f"{name} gave shape {tuple(y.shape)} for vectors {tuple(v.shape)}; of v (..., n) with n = {self.n} it "
                "must give (..., n)"
            )
        if y.dtype != v.dtype:
            raise DtypeError(
                f"{name} gave {y.dtype} for vectors of {v.dtype}; it must give what it takes, or the operator another "
                f"dtype: linode.Operator(..., dtype={y.dtype})"
            )
        return y

    def _applied(
        self, function: Callable[..., Any] | None, name: str, X: np.ndarray, own: Sequence[Tensor], *numbers: float
    ) -> np.ndarray:
        return self._columns(self._called(function, name, X, own, *numbers), X)


def check_differentiable(operator: Operator, needs_adjoint: bool) -> None:
    """Raise where a derivative through the operator is asked for that its functions cannot give.

    Raises:
        NotDifferentiableError: no rmatvec; or matvec depends on a tensor that needs gradients and is not named.
    """
    if needs_adjoint and operator.rmatvec is None:
        raise NotDifferentiableError(
            "a gradient needs products with Xi^H, and this operator has none: give linode.Operator(..., rmatvec=...) "
            "or hermitian=True; for states only use torch.no_grad()"
        )
    if not operator.takes_parameters and any(is_wrapped(x) or has_tangent(x) for x in operator.parameters):
        raise NotDifferentiableError(
            "derivatives in torch.func and in forward mode need the parameters as arguments of the operator's "
            "functions: write matvec(v, *parameters)"
        )
    if torch.is_grad_enabled() and not is_transforming():
        if operator.undeclared is None:  # looked at once: it takes a product
            operator.undeclared = undeclared(operator)
        if operator.undeclared:
            raise NotDifferentiableError(
                "matvec depends on tensors that need gradients and are not among parameters, of shapes "
                f"{', '.join(operator.undeclared)}: name them, linode.Operator(..., parameters=[...]), or detach them"
            )


def undeclared(operator: Operator) -> list[str]:
    """Shapes of the tensors with gradients that matvec depends on beside the parameters."""
    v = torch.zeros(1, operator.n, dtype=operator.dtype, device=operator.device)
    own = [x.detach() for x in operator.parameters] if operator.takes_parameters else []
    with torch.enable_grad():
        y = operator.matvec(v, *own)
    if not isinstance(y, Tensor) or y.grad_fn is None:
        return []
    known = {x.grad_fn for x in operator.parameters if x.grad_fn is not None}
    leaves = {id(x) for x in operator.parameters}
    found, seen, todo = [], set(known), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in leaves:
            found.append(str(tuple(leaf.shape)))
        todo += [other for other, _ in node.next_functions if other is not None]
    return found
