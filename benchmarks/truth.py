"""What are z, dL/dXi and dL/dz0 of a problem truly, at its witnesses? Ball arithmetic, kept in tests/.cache.

Small systems: `tests.oracles`. Above MAX_BLOCK states its block exponentials take minutes; Taylor series in one piece
take seconds, in as many bits as their cancellation eats (about 3 |Xi| t): z(t) = sum_k t^k / k! Xi^k z0, and
dL/dXi = sum_{a,b} t^(a+b+1) / (a+b+1)! (Xi^T)^a g (Xi^b z0)^T, the Taylor series of the adjoint integral.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from flint import arb, arb_mat, ctx

from benchmarks.workloads import Problem
from tests import oracles
from tests.balls import cached, matrix, rounded, settle

MAX_BLOCK = 100
N_SYSTEMS = 4  # of a batch
MARGIN = 128  # bits beyond cancellation; a truth that does not settle takes twice as many
VERSION = np.array([1])  # of `taylor`, in the key of the cache: raise it when the code below changes


def truth(problem: Problem) -> dict[str, np.ndarray]:
    """z (*batch, witnesses, n), and dXi and dz0 for g that is zero but at the witnesses."""
    if problem.Xi.ndim == 2:
        t, g = problem.t[problem.witnesses], problem.g[..., problem.witnesses, :]
        if problem.z0.ndim == 1:
            return _truth(problem.Xi, problem.z0, t, g)
        starts = [_truth(problem.Xi, z0, t, weight) for z0, weight in zip(problem.z0, g)]
        stacked = {key: np.stack([start[key] for start in starts]) for key in starts[0]}
        return stacked | {"dXi": stacked["dXi"].sum(axis=0)}  # one Xi for all initial states
    t = np.broadcast_to(problem.t, (problem.Xi.shape[0], problem.t.shape[-1]))[:, problem.witnesses]
    g = problem.g[:, problem.witnesses]
    systems = [_truth(*arrays) for arrays in list(zip(problem.Xi, problem.z0, t, g))[:N_SYSTEMS]]
    return {key: np.stack([system[key] for system in systems]) for key in systems[0]}


def relative_errors(answers: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> dict[str, float]:
    """Frobenius norm of the error over that of the truth; of a batch, over the systems whose truth is known."""
    errors = {}
    for key, answer in answers.items():
        x = true[key]
        errors[key] = float(np.linalg.norm(answer[: x.shape[0]] - x) / np.linalg.norm(x))
    return errors


def _truth(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    Xi, z0, t, g = (x.astype(float) for x in (Xi, z0, t, g))  # float32 widens exactly
    if Xi.shape[-1] > MAX_BLOCK:
        return dict(zip(("z", "dXi", "dz0"), taylor(Xi, z0, t, g, VERSION)))
    gradients = oracles.gradients(Xi, z0, t, g)
    return {"z": oracles.trajectory(Xi, z0, t), "dXi": gradients.S, "dz0": gradients.a}


@cached
def taylor(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray, version: np.ndarray) -> tuple[np.ndarray, ...]:
    """z (T, n), dL/dXi (n, n) and dL/dz0 (n,) for t >= 0 and g (T, n)."""
    n = z0.size
    norm = max(np.abs(Xi).sum(0).max(), np.abs(Xi).sum(1).max()) * (1 + 1e-9)  # bounds both norms of Xi
    bits = MARGIN + ceil(3 * norm * t.max())
    *z, S, a = settle(lambda: _taylor_balls(Xi, z0, t, g, arb(norm)), precision=bits)
    states = [rounded(state, (n,), is_complex=False) for state in z]
    return np.array(states), rounded(S, (n, n), is_complex=False), rounded(a, (n,), is_complex=False)


def _taylor_balls(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray, norm: arb) -> list[list]:
    n, size = z0.size, arb(float(np.abs(z0).max()))
    A, longest = matrix(Xi), arb(float(t.max()))
    m, tail = 1, norm * longest
    while tail * 2 > arb(2) ** -ctx.prec or m < 2 * norm * longest:
        m += 1
        tail = tail * norm * longest / m
    Z = _powers(A, z0, m)
    z, S, a = [], arb_mat(n, n), arb_mat(n, 1)
    for time, weight in zip(t, g):
        tau, weight_size = arb(float(time)), arb(float(np.abs(weight).max()))
        coeff = [arb(1)]  # t^k / k!
        for k in range(1, 2 * m):
            coeff.append(coeff[-1] * tau / k)
        column, zero = arb_mat(m, 1, coeff[:m]), arb(0)
        L = _powers(A.transpose(), weight, m)
        z.append([x + _within(2 * tail * size) for x in (Z * column).entries()])
        a += L * column + arb_mat(n, 1, [_within(2 * tail * weight_size)] * n)
        weights = [coeff[i + j + 1] if i + j < m else zero for i in range(m) for j in range(m)]
        S += L * arb_mat(m, m, weights) * Z.transpose()
        S += arb_mat(n, n, [_within(2 * tail * size * weight_size * longest)] * (n * n))
    return [*z, S.entries(), a.entries()]


def _powers(A: arb_mat, v: np.ndarray, m: int) -> arb_mat:
    """[v, A v, ..., A^(m-1) v], (n, m)."""
    columns = [matrix(v[:, None])]
    for _ in range(m - 1):
        columns.append(A * columns[-1])
    rows = zip(*(column.entries() for column in columns))
    return arb_mat(v.size, m, [x for row in rows for x in row])


def _within(bound: arb) -> arb:
    return arb(0, bound.upper())
