"""States and starts below the least normal float: digits that floats can hold are right, and lost ones are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flint import arb, ctx

import linode
from linode import LinearODE, Status
from linode.kernels import wide
from tests.accuracy import norm
from tests.balls import matrix, real_parts
from tests.case_builders import generator, normal

UP = 2.0**300  # true states are compared after a multiplication by it, so that no digit of them is lost
QUANTUM = 5e-324
KINDS = ["small start", "growth from a small start", "late decay"]
METHODS = ["auto", "eig", "propagator", "schur"]


def scaled_truth(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> np.ndarray:
    """UP times the states."""
    with ctx.workprec(1000):
        balls = [x for s in t for x in ((matrix(Xi) * arb(float(s))).exp() * matrix(z0[:, None])).entries()]
        values = np.array([float((part * arb(UP)).mid()) for part in real_parts(balls)])
    return (values.view(complex) if np.iscomplexobj(Xi) else values).reshape(len(t), len(Xi))


def problem(kind: str, seed: int, is_complex: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = generator(f"subnormal {kind} {seed} {is_complex}")
    n = int(rng.integers(1, 6))
    Xi, z0 = normal(rng, n, n, is_complex=is_complex), normal(rng, n, is_complex=is_complex)
    if kind == "late decay":
        return Xi - 7 * np.eye(n), z0, rng.uniform(80, 110, 3)
    z0 = z0 * 10.0 ** rng.uniform(-323, -290)
    return (Xi, z0, rng.uniform(-3, 3, 3)) if kind == "small start" else (Xi + 5 * np.eye(n), z0, rng.uniform(0, 60, 3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_complex", [False, True])
def test_errors_of_subnormal_states_are_told(kind: str, method: str, is_complex: bool):
    """And they are at most some of the least float, or of the rounding that the same problem has elsewhere."""
    n_solved = 0
    for seed in range(12):
        Xi, z0, t = problem(kind, seed, is_complex)
        try:
            solution = LinearODE(Xi, z0, method=method).solve(t)
        except linode.MethodError:
            continue
        true = scaled_truth(Xi, z0, t)
        error, size = norm(solution.z * UP - true), norm(true)
        if size <= UP * QUANTUM:  # 0 is the nearest float
            continue
        n_solved += 1
        slack = 0.0 if wide.is_in_use() else 1e-12  # what is compared with has double precision then
        assert error <= (float(solution.error_estimate) + slack) * size
        assert (solution.status is Status.OK) == (float(solution.error_estimate) <= 1e-6)
        assert error <= 1e3 * QUANTUM * UP + 1e-11 * size
    assert n_solved > 6


def test_states_of_a_few_of_the_least_float_are_not_ok():
    solution = LinearODE([[-1.0]], [1.0]).solve([744.0])
    assert 0 < solution.z[0, 0] < 10 * QUANTUM
    assert solution.status is Status.ILL_CONDITIONED
    assert solution.error_estimate > 0.1


@pytest.mark.parametrize("method", ["auto", "eig", "propagator", "chain", "taylor", "metzler"])
def test_a_trajectory_of_a_batch_is_as_accurate_as_alone_however_small_it_starts(method: str):
    rng = generator("subnormal batch")
    Xi, t = np.abs(normal(rng, 3, 3)), np.array([0.0, 1.0, 2.0])
    z0 = np.abs(normal(rng, 5, 3)) * np.array([1.0, 1e-315, 1e200, 0.0, 1e-320])[:, None]
    z = LinearODE(Xi, z0, method=method)(t)
    assert np.array_equal(z[:, 0], z0)
    for own, start in zip(z, z0):
        true = scaled_truth(Xi, start, t) / UP
        assert np.all(np.abs(own - true) <= 1e-12 * np.abs(true) + 2 * QUANTUM)


@pytest.mark.parametrize("method", ["auto", "propagator"])
def test_gradients_of_subnormal_starts_are_those_of_larger_ones(method: str):
    rng = generator("subnormal gradient")
    Xi, z0, t = normal(rng, 3, 3) + 3 * np.eye(3), normal(rng, 3), np.array([1.0, -2.0, 9.0])
    g = torch.tensor(normal(rng, 3, 3))
    small = np.round(z0 * 2.0**20) * 2.0**-1070  # a number of few digits, so that a larger one has the same

    def gradients(start: np.ndarray, weight: float) -> list[torch.Tensor]:
        inputs = [torch.tensor(x, requires_grad=True) for x in (Xi, start, t)]
        z = LinearODE(*inputs[:2], method=method)(inputs[2])
        return list(torch.autograd.grad((weight * g * z).sum(), inputs))

    S, a, dt = gradients(small * 2.0**900, 1.0)
    own_S, own_a, own_dt = gradients(small, 2.0**300)
    for x, y in ((own_S * 2.0**600, S), (own_a * 2.0**-300, a), (own_dt * 2.0**600, dt)):
        assert torch.linalg.norm(x - y) <= 1e-12 * torch.linalg.norm(y)
