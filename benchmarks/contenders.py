"""Who is timed: linode, the code that people write instead of it, and the products that no solver can do without.

Every contender is a function of (Xi, z0, t) in the shapes of `Problem`. Where it cannot be run at all, or not within
memory and some ten seconds, it says why not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
import torchdiffeq
from torch import Tensor

import linode
from benchmarks.workloads import SPAN, Workload

MAX_MATRIX_BYTES = 1e9  # of one n x n matrix for every time; a step holds several
MAX_EXP_FLOPS = 1e11  # for those by matrix_exp, some ten seconds
MAX_RATE = 1e4  # |Xi| t: explicit Runge-Kutta and Taylor steps are about as many
MAX_LOOP = 20_000  # times that a peer walks through one by one

Solve = Callable[[Tensor, Tensor, Tensor], Tensor]


def always(workload: Workload, mode: str) -> str:
    return ""


@dataclass(frozen=True)
class Contender:
    """A name, a solver, and the reason why it is skipped, or ""."""

    name: str
    solve: Solve
    why_not: Callable[[Workload, str], str] = always
    dtype: torch.dtype | None = None  # that of the problem
    most_rounds: int | None = None  # fewer where each takes seconds
    traced_up_to: float = inf  # times: beyond, it has too many operations to trace its memory


# ---- linode ------------------------------------------------------------------------------------------------


def with_linode(method: str) -> Solve:
    return lambda Xi, z0, t: linode.LinearODE(Xi, z0, method=method)(t)


# ---- eigendecomposition ------------------------------------------------------------------------------------


def with_usual_eig(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """As textbooks write it: V diag(exp(lambda t)) V^-1 z0, a matrix for every time."""
    lam, V = torch.linalg.eig(Xi)
    diagonal = torch.diag_embed(torch.exp(lam[..., None, :] * t[..., None]))  # (*batch, T, n, n)
    V_inv = torch.linalg.inv(V)
    return (V[..., None, :, :] @ diagonal @ V_inv[..., None, :, :] @ z0.to(V.dtype)[..., None, :, None])[..., 0].real


def with_lean_eig(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    """The least that one can write: one solve, one product."""
    lam, V = torch.linalg.eig(Xi)
    z0 = z0.to(V.dtype)
    coeff = torch.linalg.solve(V, z0.mT).mT if z0.ndim == Xi.ndim else torch.linalg.solve(V, z0[..., None])[..., 0]
    return ((coeff[..., None, :] * torch.exp(lam[..., None, :] * t[..., None])) @ V.mT).real


# ---- exponentials ------------------------------------------------------------------------------------------


def with_matrix_exp(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    exponentials = torch.linalg.matrix_exp(Xi[..., None, :, :] * t[..., None, None])  # (*batch, T, n, n)
    return (exponentials @ z0[..., None, :, None])[..., 0]


def with_expm_multiply(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
    A, v = Xi.numpy(), z0.numpy().T  # (n,) or (n, n_starts)
    if is_uniform(t):
        z = scipy.sparse.linalg.expm_multiply(A, v, float(t[0]), float(t[-1]), len(t), endpoint=True)
    else:
        z = np.stack([scipy.sparse.linalg.expm_multiply(A * time, v) for time in t.tolist()])
    return torch.from_numpy(z if v.ndim == 1 else z.transpose(2, 0, 1))  # (T, n) or (n_starts, T, n)


def is_uniform(t: Tensor) -> bool:
    return len(t) > 1 and bool((t.diff(n=2).abs() < 1e-9 * t[-1]).all())


def without_expm_multiply(workload: Workload, mode: str) -> str:
    if mode == "step":
        return "no gradients"
    if workload.n_systems or workload.dtype != "float64":
        return "one system in float64 at a time"
    if workload.grid != "uniform" and workload.n_times > 1000:
        return "one call for each of many irregular times"
    return _too_stiff(workload)


def without_usual_eig(workload: Workload, mode: str) -> str:
    return _too_large(2 * workload.matrix_bytes)  # complex


def without_matrix_exp(workload: Workload, mode: str) -> str:
    n = workload.n if mode == "forward" else 2 * workload.n  # its gradient is an exponential of twice the size
    if 20 * 2 * n**3 * workload.n_times * (workload.n_systems or 1) > MAX_EXP_FLOPS:
        return f"{workload.n_times} exponentials of {n} x {n} take too long"
    return _too_large(workload.matrix_bytes)


def _too_large(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB for each array of T n x n matrices" if n_bytes > MAX_MATRIX_BYTES else ""


# ---- Runge-Kutta -------------------------------------------------------------------------------------------


def with_torchdiffeq(method: str) -> Solve:
    def solve(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
        def velocity(_: Tensor, z: Tensor) -> Tensor:
            return (Xi @ z[..., None])[..., 0]

        return torchdiffeq.odeint(velocity, z0, t, method=method, rtol=1e-8, atol=1e-8).movedim(0, -2)

    return solve


def without_torchdiffeq(workload: Workload, mode: str) -> str:
    if workload.dtype != "float64":
        return "its tolerance of 1e-8 is below the rounding of float32"
    if workload.grid == "own":
        return "one grid of times for all systems"
    if workload.n_times > MAX_LOOP:
        return f"walks in Python through {workload.n_times} times"
    return _too_stiff(workload)


def _too_stiff(workload: Workload) -> str:
    Xi = workload.problem(workload.seeds[0]).Xi
    rate = np.linalg.norm(Xi.reshape(-1, workload.n, workload.n)[0], 2) * SPAN
    return f"|Xi| t = {rate:.0e} asks for as many steps" if rate > MAX_RATE else ""


# ---- the least that any solver does: no solvers, so their rows have no errors -------------------------------

LIMIT, FLOOR = "limit", "floor"
N_EACH = {"forward": 1, "step": 3}


def limit(Xi: Tensor, z0: Tensor, t: Tensor, n_each: int) -> None:
    """One product of (T, n) by (n, n) and one n x n exponential, each n_each times."""
    states = z0[..., None, :].expand(*z0.shape[:-1], t.shape[-1], -1).contiguous()
    for _ in range(n_each):
        states @ torch.linalg.matrix_exp(Xi)


class Nothing(torch.autograd.Function):
    """A solver's shapes without its work: arrays that nobody fills, in and out, through autograd."""

    @staticmethod
    def forward(ctx: Any, Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(Xi, z0)
        return z0.new_empty((*z0.shape[:-1], t.shape[-1], z0.shape[-1]))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        Xi, z0 = ctx.saved_tensors
        return torch.empty_like(Xi), torch.empty_like(z0), None


def contenders_of(workload: Workload, with_methods: bool) -> list[Contender]:
    """linode first: all others are compared with it."""
    everyone = [Contender("linode", with_linode("auto"))]
    if with_methods:
        names = [name for name in linode.methods.registry() if name != "auto"]
        everyone += [Contender(f"linode {name}", with_linode(name)) for name in names]
    if workload.dtype == "float32":
        everyone.append(Contender("linode in float64", with_linode("auto"), dtype=torch.float64))
    return [
        *everyone,
        Contender("lean eig", with_lean_eig),
        Contender("usual eig", with_usual_eig, without_usual_eig),
        Contender("matrix_exp", with_matrix_exp, without_matrix_exp),
        Contender("dopri5", with_torchdiffeq("dopri5"), without_torchdiffeq, most_rounds=5, traced_up_to=1000),
        Contender("dopri8", with_torchdiffeq("dopri8"), without_torchdiffeq, most_rounds=3, traced_up_to=1000),
        Contender("expm_multiply", with_expm_multiply, without_expm_multiply, most_rounds=5, traced_up_to=0),
    ]


PEERS = ("lean eig", "usual eig", "matrix_exp", "dopri5", "dopri8", "expm_multiply", LIMIT, FLOOR)
