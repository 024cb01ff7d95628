"""expm and expm_multiply: the matrix exponential and its action on vectors, with exact gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engine.evaluation import Planner
from .engine.problem import (
    as_answer,
    as_tensor,
    broadcast,
    check_finite_anywhere,
    check_same_device,
    is_dense,
    make_matrix,
)
from .errors import ShapeError
from .methods import Method, make_method
from .ode import LinearODE, exponential


def expm(A: Any, *, method: str | Method = "auto") -> Any:
    """The matrix exponential exp(A).

    Args:
        A: (*batch, n, n). method: as for `LinearODE`.

    Returns:
        (*batch, n, n), differentiable to any order.

    Raises:
        ShapeError, DtypeError, NonFiniteError: A cannot be used. MethodError: as `LinearODE`.

    Source: the columns are the solutions of z' = A z at t = 1 from the columns of I; see `linode.methods`.

    Example:
        >>> import linode
        >>> linode.expm([[0.0, 1.0], [0.0, 0.0]]).tolist()
        [[1.0, 1.0], [0.0, 1.0]]
    """
    matrix = make_matrix(A, "A")
    check_finite_anywhere(matrix, "A")
    one = torch.ones(1, dtype=torch.float64, device=matrix.device)
    E = exponential(matrix, one, Planner(make_method(method)))[..., 0, :, :]
    return as_answer(E.to(matrix.dtype), not isinstance(A, Tensor))


def expm_multiply(A: Any, v: Any, t: Any = 1.0, *, method: str | Method = "auto") -> Any:
    """The action exp(A t) v on a vector or, as in scipy, on columns, without forming exp(A t).

    Args:
        A: (*batch, n, n); or, without batch dimensions, sparse or an operator, as for `LinearODE`.
        v: one vector (n,), or k vectors as columns, (*batch, n, k). Batch dimensions broadcast as those of A @ v.
        t: (T,), (*batch, T) or a scalar.
        method: as for `LinearODE`.

    Returns:
        (*batch, T, n) for one vector, (*batch, T, n, k) for columns; without T for a scalar t. Differentiable in A, v
        and t.

    Vectors as rows, (*batch, n), are what `LinearODE(A, v)(t)` takes.

    Raises:
        ShapeError: v does not fit; or A has batch dimensions, and a square v could as well be one vector for each
            matrix: say v[..., None] for vectors, v.expand(*batch, n, n) for columns. DtypeError, DeviceError,
            NonFiniteError, MethodError: as `LinearODE`.

    Example:
        >>> import linode
        >>> A = [[0.0, 1.0], [0.0, 0.0]]
        >>> linode.expm_multiply(A, [0.0, 1.0], 2.0).tolist()
        [2.0, 1.0]
        >>> linode.expm_multiply(A, [[0.0, 1.0], [1.0, 0.0]], 2.0).tolist()  # from (0, 1) and from (1, 0)
        [[2.0, 1.0], [1.0, 0.0]]
    """
    matrix, vectors = make_matrix(A, "A") if is_dense(A) else A, as_tensor(v, "v")
    if vectors.ndim < 2:
        return LinearODE(A, v, method=method, names=("A", "v"))(t)
    n, shape, times = matrix.shape[-1], tuple(vectors.shape), as_tensor(t, "t", integers_become=torch.float64)
    if shape[-2] != n:
        rows = f"; for vectors as rows use v.mT, or LinearODE(A, v)(t) with v (*batch, {n})" if shape[-1] == n else ""
        raise ShapeError(f"v has shape {shape}, but A is {n} x {n}; v must be ({n},) or (*batch, {n}, k){rows}")
    if not is_dense(matrix):
        own = vectors.mT if isinstance(v, Tensor) else vectors.mT.numpy()
        ode = LinearODE(matrix, own, method=method, names=("A", "v"))
        return _as_columns(ode, times, ode._is_numpy and not isinstance(t, Tensor))
    if shape == tuple(matrix.shape[:-1]):
        raise ShapeError(
            f"v has shape {shape} and A {tuple(matrix.shape)}: v could be one vector for each matrix, or columns for "
            f"all of them; give v[..., None] for vectors, v.expand{tuple(matrix.shape)} for columns"
        )
    check_same_device({"A": matrix, "v": vectors})
    broadcast({"A": matrix.shape[:-2], "v": vectors.shape[:-2]})
    check_finite_anywhere(matrix, "A")
    check_finite_anywhere(vectors, "v")
    ode = LinearODE(matrix[..., None, :, :], vectors.mT, method=method, names=("A", "v"))
    return _as_columns(ode, times, not any(isinstance(x, Tensor) for x in (A, v, t)))


def _as_columns(ode: LinearODE, times: Tensor, is_numpy: bool) -> Any:
    """The states of trajectories (*batch, k) with k as the last dimension."""
    y = ode(times[..., None, :] if times.ndim > 1 else times)  # (*batch, k, T, n)
    return as_answer(y.movedim(-3, -1) if times.ndim else y.mT, is_numpy)
