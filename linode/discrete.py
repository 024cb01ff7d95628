"""discretize: a continuous-time system with held inputs as a recurrence from sample to sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engine.evaluation import Planner
from .engine.problem import as_answer, as_tensor, broadcast, check_finite_anywhere, check_same_device, make_matrix
from .errors import DtypeError, OptionError, ShapeError
from .forcing import compiled
from .forcing.block import Block, Planners
from .forcing.pieces import held
from .kernels.tensors import widened
from .methods import Method, make_method

N_TERMS = {"zero": 1, "first": 2}  # coefficients of the input between two samples: a constant, or a line


def discretize(Xi: Any, B: Any, dt: Any, hold: str = "zero", *, method: str | Method = "auto") -> tuple[Any, ...]:
    """The exact discrete-time system of z' = Xi z + B u, sampled every dt.

    With hold="zero", u constant from one sample to the next: z[k+1] = Ad z[k] + Bd u[k].
    With hold="first", u linear between samples: z[k+1] = Ad z[k] + B0 u[k] + B1 u[k+1].

    Args:
        Xi: (*batch, n, n). B: (*batch, n, m). dt: a number, or (*batch,), of any sign. hold: "zero" or "first".
        method: as for `LinearODE`.

    Returns:
        (Ad, Bd) or (Ad, B0, B1): (*batch, n, n) and (*batch, n, m), differentiable in Xi, B and dt to any order; Xi may
        be singular.

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, OptionError: an argument that cannot be used, by name.

    Source: Van Loan (1978), IEEE Trans. Automatic Control 23(3); Franklin, Powell & Workman (1997), Digital Control of
    Dynamic Systems, section 6.3 ("first" is what they call the triangle hold).

    Example:
        >>> import linode
        >>> Ad, Bd = linode.discretize([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], 2.0)  # a double integrator
        >>> Ad.tolist(), Bd.tolist()
        ([[1.0, 2.0], [0.0, 1.0]], [[2.0], [2.0]])
    """
    if hold not in N_TERMS:
        raise OptionError(f"hold must be 'zero' or 'first', got {hold!r}")
    is_numpy = not any(isinstance(x, Tensor) for x in (Xi, B, dt))
    A, G = make_matrix(Xi, "Xi", (B,)), as_tensor(B, "B", beside=(Xi,))
    step = as_tensor(dt, "dt", integers_become=torch.float64)
    n = A.shape[-1]
    if G.ndim < 2 or G.shape[-2] != n:
        raise ShapeError(f"B has shape {tuple(G.shape)}, but Xi is {n} x {n}; B must be (*batch, {n}, m)")
    if step.is_complex():
        raise DtypeError(f"dt must be real, got {step.dtype}")
    if not (A.is_cpu and G.is_cpu and step.is_cpu):
        check_same_device({"Xi": A, "B": G} | ({"dt": step} if isinstance(dt, Tensor) and dt.ndim else {}))
    for x, name in ((A, "Xi"), (G, "B"), (step, "dt")):
        check_finite_anywhere(x, name)
    if A.ndim > 2 or G.ndim > 2 or step.ndim:
        broadcast({"Xi": A.shape[:-2], "B": G.shape[:-2], "dt": step.shape})
    dtype = torch.promote_types(A.dtype, G.dtype)
    A, G, step = widened(A.to(dtype)), widened(G.to(dtype)), step.to(A.device, torch.float64)
    step = step[..., None, None] if step.ndim else step
    p, m = N_TERMS[hold], G.shape[-1]
    A, G = A * step, G * step  # with time in units of dt
    planners = Planners.of(Planner(make_method(method)))
    found = compiled.gains(A, p, planners)
    if found is None:
        block = Block.of(A.unsqueeze(-3), None, G, held(p, m, G.dtype, G.device), 1.0, planners)
        Ad, *gains = block.after(1.0, p, m)
    else:
        Ad, gains = found[0], [Phi @ G for Phi in found[1].unbind(-3)]
        if G.ndim > Ad.ndim or Ad.ndim > 2:
            Ad = Ad.expand(*gains[0].shape[:-2], n, n)
    if hold == "first":  # gains of u[k] and of u[k+1] - u[k]
        gains = [gains[0] - gains[1], gains[1]]
    return tuple(as_answer(x.to(dtype).contiguous(), is_numpy) for x in (Ad, *gains))
