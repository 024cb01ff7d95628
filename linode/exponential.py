"""expm and expm_multiply: the matrix exponential and its action on vectors, with exact gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engine.evaluation import Planner
from .engine.problem import as_answer, check_finite_anywhere, make_matrix
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
    """The action exp(A t) v of a dense A, without forming exp(A t).

    Args:
        A: (*batch, n, n). v: (*batch, n). t: (T,), (*batch, T) or a scalar. method: as for `LinearODE`.

    Returns:
        (*batch, T, n), or (*batch, n) for a scalar t, differentiable in A, v and t.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, MethodError: as `LinearODE`.

    Example:
        >>> import linode
        >>> linode.expm_multiply([[0.0, 1.0], [0.0, 0.0]], [0.0, 1.0], 2.0).tolist()
        [2.0, 1.0]
    """
    return LinearODE(A, v, method=method, names=("A", "v"))(t)
