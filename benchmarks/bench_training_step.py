"""What does one training step cost: z(t) at T irregular times, and the gradients with respect to Xi and z0?

Contenders: linode's `auto` and each of its methods by name, the code around torch.linalg.eig, matrix_exp
at every time, torchdiffeq's dopri5 at rtol = atol = 1e-8. Errors are relative, in the Frobenius norm, against
ball arithmetic.
The loss is sum <g, z> with |g| = 1; with a larger g the code around torch.linalg.eig may raise instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torchdiffeq

import linode
from benchmarks.harness import Row, interleave
from linode.methods import registry
from tests import oracles

SIZES = ((6, 1000), (32, 200))  # n, T
N_ROUNDS = 15


def with_eig(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    lam, V = torch.linalg.eig(Xi)
    coeff = torch.linalg.solve(V, z0.to(V.dtype))  # (n,)
    return ((coeff * torch.exp(lam * t[:, None])) @ V.mT).real  # (T, n)


def with_matrix_exp(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_exp(Xi * t[:, None, None]) @ z0


def with_torchdiffeq(Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torchdiffeq.odeint(lambda _, z: Xi @ z, z0, t, method="dopri5", rtol=1e-8, atol=1e-8)


def with_linode(method: str) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda Xi, z0, t: linode.LinearODE(Xi, z0, method=method)(t)


def measure(n: int, n_times: int, n_rounds: int) -> list[Row]:
    """One row for each contender on a random stable system of n states, times in [0, 10]."""
    rng = np.random.default_rng(n)
    Xi = rng.standard_normal((n, n)) / np.sqrt(n) - 1.5 * np.eye(n)  # eigenvalues in a disc of radius 1 around -1.5
    z0 = rng.standard_normal(n)
    t = np.sort(np.append(rng.uniform(0.0, 10.0, n_times - 1), 0.0))  # from 0: dopri5 starts at t[0]
    g = rng.standard_normal((n_times, n))
    g /= np.linalg.norm(g)
    gradients = oracles.gradients(Xi, z0, t, g)
    truth = {"z": oracles.trajectory(Xi, z0, t), "dXi": gradients.S, "dz0": gradients.a}

    def step(
        solve: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> dict[str, np.ndarray]:
        leaves = [torch.from_numpy(x).clone().requires_grad_() for x in (Xi, z0)]
        z = solve(*leaves, torch.from_numpy(t))
        (z * torch.from_numpy(g)).sum().backward()
        return {"z": z.detach().numpy(), "dXi": leaves[0].grad.numpy(), "dz0": leaves[1].grad.numpy()}

    contenders = {f"linode {method}": with_linode(method) for method in registry()}
    contenders |= {
        "torch.linalg.eig": with_eig,
        "matrix_exp": with_matrix_exp,
        "torchdiffeq dopri5": with_torchdiffeq,
    }
    return interleave({name: lambda s=solve: step(s) for name, solve in contenders.items()}, truth, n_rounds)


def main(sizes: tuple[tuple[int, int], ...] = SIZES, n_rounds: int = N_ROUNDS) -> None:
    torch.set_num_threads(1)  # a second thread gains nothing at these sizes, and waits where the cores are shared
    print(f"One training step, float64, one thread, {n_rounds} rounds")
    for n, n_times in sizes:
        print(f"\nn = {n}, T = {n_times}, irregular times")
        print(f"{'':24}{'median ms':>10}{'quartiles':>20}{'z':>10}{'dXi':>10}{'dz0':>10}   (relative errors)")
        for row in measure(n, n_times, n_rounds):
            print(row)


if __name__ == "__main__":
    main()
