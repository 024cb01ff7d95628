"""Balancing: exact, no entry above the largest mean of a cycle, also for triangular and reducible matrices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from linode import LinearODE, expm
from linode.kernels.balance import balance
from linode.methods import Propagator
from tests import oracles
from tests.accuracy import EPS, norm, relative_error
from tests.case_builders import generator, normal

CAREFUL = ["auto", "propagator", Propagator(precision="mixed"), Propagator(precision="double-double"), "schur"]
careful = pytest.mark.parametrize("method", CAREFUL, ids=[getattr(m, "precision", m) for m in CAREFUL])


def cycle_mean(A: np.ndarray) -> float:
    """The largest geometric mean of |A| along a cycle, by trying them all."""
    n, best = len(A), -math.inf
    with np.errstate(divide="ignore"):
        weights = np.log2(np.abs(A))
    for length in range(1, n + 1):
        for nodes in itertools.permutations(range(n), length):
            steps = zip(nodes, (*nodes[1:], nodes[0]))
            best = max(best, sum(weights[i, j] for i, j in steps) / length)
    return best


def balanced(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    B, D = balance(torch.tensor(A)[None])
    return B[0].numpy(), D[0].numpy()


@pytest.mark.parametrize("seed", range(12))
def test_no_entry_is_above_the_largest_mean_of_a_cycle(seed: int):
    rng = np.random.default_rng(seed)
    A = normal(rng, 5, 5) * 10 ** rng.uniform(-12, 12, (5, 5)) * (rng.random((5, 5)) < 0.6)
    np.fill_diagonal(A, normal(rng, 5))
    B, D = balanced(A)
    assert np.array_equal(D, 2.0 ** np.round(np.log2(D)))
    assert np.array_equal(B, A / D[:, None] * D)
    others = np.abs(B - np.diag(np.diag(B))).max()
    assert np.log2(others) <= cycle_mean(A) + 1.01


@pytest.mark.parametrize("lower", [False, True])
def test_couplings_of_a_triangular_matrix_become_as_small_as_its_rates(lower: bool):
    A = 1e9 * np.eye(6, k=1) - np.eye(6)
    B, _ = balanced(A.T if lower else A)
    assert np.abs(B).max() <= 2.0


def test_balanced_nilpotent_and_diagonal_matrices_are_left_alone():
    for A in (normal(generator("balanced"), 6, 6), np.diag([1e9, 1.0, 1e-9]), np.zeros((3, 3)), np.eye(3, k=1)):
        B, D = balanced(A)
        assert np.array_equal(B, A)
        assert np.array_equal(D, np.ones(len(A)))


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e307])
def test_scaling_far_apart_neither_overflows_nor_loses_a_bit(size: float):
    A = size * np.array([[0.5, 1.0, 0.0], [1e-200, 0.25, 1.0], [0.0, 1e-150, 1.0]])
    B, D = balanced(A)
    assert np.isfinite(B).all()
    ratio = np.log2(D)[None] - np.log2(D)[:, None]
    nonzero = np.abs(A) > 1e-290
    assert np.array_equal(B[nonzero], np.ldexp(A, ratio.astype(int))[nonzero])


def test_a_batch_is_balanced_system_by_system():
    rng = generator("balance batch")
    systems = torch.tensor(np.stack([normal(rng, 4, 4), 1e9 * np.eye(4, k=1) - np.eye(4), np.zeros((4, 4))]))
    B, D = balance(systems)
    for i in range(3):
        alone, d = balance(systems[i : i + 1])
        assert torch.equal(alone[0], B[i])
        assert torch.equal(d[0], D[i])


# ---- what depends on it ------------------------------------------------------------------------------------


@careful
@pytest.mark.parametrize(("n", "coupling"), [(6, 1e9), (5, 1e9), (6, 1e6), (8, 1e6), (10, 1e4), (12, 1e12), (30, 1e9)])
def test_a_chain_of_strong_couplings_keeps_every_state(method: object, n: int, coupling: float):
    """exp(A t) is e^-t times a polynomial in the couplings: z_(n-k) = e^-t sum_(j <= k) (c t)^j / j!."""
    if method == "schur" and n == 30:
        pytest.skip("LAPACK's Schur form of couplings over 270 orders of magnitude")
    z = LinearODE(coupling * np.eye(n, k=1) - np.eye(n), np.ones(n), method=method)([1.0])[0]
    terms = [math.exp(-1.0 + j * math.log(coupling) - math.lgamma(j + 1)) for j in range(n)]
    assert z[::-1] == pytest.approx(np.cumsum(terms), rel=1e-10)


@careful
@pytest.mark.parametrize("coupling", [1e9, 1e12])
@pytest.mark.parametrize("n", [3, 5, 8])
def test_strictly_triangular_matrices_are_right(method: object, n: int, coupling: float):
    rng = generator(f"strict {n} {coupling}")
    for Xi in (np.triu(coupling * normal(rng, n, n), 1), np.tril(coupling * normal(rng, n, n), -1)):
        z0, t = normal(rng, n), np.array([1.0, 0.1])
        z, true = LinearODE(Xi, z0, method=method)(t), oracles.trajectory(Xi, z0, t)
        assert np.all(np.abs(z - true) <= 1e-13 * np.abs(true).max(0))
        assert norm(z - true) <= 1e-13 * norm(true)


@pytest.mark.parametrize("method", ["auto", "propagator"])
def test_gradients_of_a_chain_of_strong_couplings_are_not_zero(method: str):
    Xi, z0, t = 1e9 * np.eye(6, k=1) - np.eye(6), np.ones(6), np.array([1.0])
    g = np.ones((1, 6)) / 1e42
    true = oracles.gradients(Xi, z0, t, g)
    leaves = [torch.tensor(x, requires_grad=True) for x in (Xi, z0)]
    z = LinearODE(*leaves, method=method)(torch.tensor(t))
    S, a = torch.autograd.grad((z * torch.tensor(g)).sum(), leaves)
    assert relative_error(S.numpy(), true.S, 1.0) < 1e-11
    assert relative_error(a.numpy(), true.a, 1.0) < 1e-11


@careful
def test_a_tiny_entry_that_couples_back_changes_nothing(method: object):
    Xi, z0 = np.array([[0, -1e-100], [-2.33e-10, 2.47e-13]]), np.array([0.066, 1.155])
    t = np.array([-1.3e14, 1e12, 2e14])
    true = oracles.trajectory(Xi, z0, t)
    assert true[0] == pytest.approx([0.066, 62.259], rel=1e-4)
    z = LinearODE(Xi, z0, method=method)(t)
    for i in (0, 1, 2):  # a Schur form is orthogonal: it keeps small states beside large ones to the norm only
        assert norm(z[i] - true[i]) <= 1e-13 * norm(true[i])
    assert method == "schur" or z == pytest.approx(true, rel=1e-13)


@careful
def test_a_coupling_of_1e100_is_right(method: object):
    z = LinearODE([[-1, 1e100], [0, -1]], [1.0, 1.0], method=method)([1.0])[0]
    assert z == pytest.approx([1e100 * math.exp(-1), math.exp(-1)], rel=1e-13)


LARGE = {
    "decay": [[-1e308, 1e308], [0, -1e308]],
    "rotation_1e301": [[0, 1e301], [-1e301, 0]],
    "rotation_1e308": [[0, 1e308], [-1e308, 0]],
    "uneven": [[-1e307, 1e307], [-1e306, -2e307]],
    "full": [[-1e308, 1.7e308], [-1e308, -1.2e308]],
}


@pytest.mark.parametrize("method", ["auto", "propagator"])
@pytest.mark.parametrize("name", LARGE)
def test_entries_near_the_largest_float_are_right(method: str, name: str):
    Xi, z0 = np.array(LARGE[name]), np.array([1.0, 0.5])
    t = np.array([1.0, 3.0]) / np.abs(Xi).max()
    true, solution = oracles.trajectory(Xi, z0, t), LinearODE(Xi, z0, method=method).solve(t)
    assert norm(solution.z - true) <= 200 * EPS * norm(true)
    assert solution.status
    assert LinearODE(Xi, z0, method=method)([1.0]).tolist() == [[0.0, 0.0]] or name.startswith("rotation")


def test_the_exponential_of_a_block_triangular_matrix_has_accurate_blocks():
    rng = generator("reducible")
    A = normal(rng, 5, 5)
    A[:2, 2:] *= 1e12
    A[2:, :2] = 0
    E, true = expm(A), oracles.expm(A)
    for rows, columns in itertools.product((slice(0, 2), slice(2, 5)), repeat=2):
        block = true[rows, columns]
        assert norm(E[rows, columns] - block) <= 1e-13 * norm(block)
