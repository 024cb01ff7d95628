"""What the leaves of a graph receive: which gradients, of what shape and dtype, whatever the loss does."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

import linode
from tests import oracles
from tests.accuracy import GENERAL
from tests.case_builders import jordan

EPS = 2.0**-52
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(range(3), size)]
PAIR = np.array([[-0.25, 1.5], [-0.75, 0.125]])
REAL = np.array([[-0.25, 1.5, 0.5], [-0.75, 0.125, 0.25], [0.25, -0.5, -1.0]])
COMPLEX = PAIR + 0.5j * PAIR.T
T = np.array([0.75, -0.5])
Z0 = np.array([1.0, -0.5, 0.25])
G = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.75]])
arguments_real = (REAL, Z0, T)
arguments_complex = (COMPLEX, Z0[:2] * (1 - 0.5j), T)


def leaves(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.tensor(x, requires_grad=True) for x in arrays]


def solve(Xi: Tensor, z0: Tensor, t: Tensor, method: str = "auto") -> Tensor:
    return linode.LinearODE(Xi, z0, method=method)(t)


def pairing(g: np.ndarray, z: Tensor) -> Tensor:
    return (torch.tensor(g).conj() * z).real.sum()


def close(got: Tensor, true: np.ndarray, rtol: float) -> bool:
    return np.linalg.norm(got.detach().resolve_conj().numpy() - true) <= rtol * max(np.linalg.norm(true), 1e-3)


@pytest.mark.parametrize("method", GENERAL)
@pytest.mark.parametrize("subset", SUBSETS)
def test_only_arguments_that_require_grad_get_one_and_it_is_the_same(method: str, subset: tuple[int, ...]):
    every = leaves(*arguments_real)
    some = [torch.tensor(x, requires_grad=i in subset) for i, x in enumerate(arguments_real)]
    for x in (every, some):
        pairing(G, solve(*x, method=method)).backward()
    for i in range(3):
        assert (some[i].grad is None) == (i not in subset)
        assert i not in subset or torch.allclose(some[i].grad, every[i].grad, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.0], [1.0, 1.0], [-1.0], 0.5])
def test_t_always_gets_a_gradient_of_its_shape_and_dtype(times: list[float] | float):
    t = torch.tensor(times, dtype=torch.float32, requires_grad=True)
    solve(torch.tensor(PAIR), torch.ones(2), t).sum().backward()
    assert t.grad is not None
    assert (t.grad.shape, t.grad.dtype) == (t.shape, torch.float32)
    flat = np.atleast_1d(np.array(times))
    rates = (oracles.trajectory(PAIR, np.ones(2), flat) @ PAIR.T).sum(-1)
    assert close(t.grad.reshape(-1), rates, 1e-6)


def test_gradient_of_a_real_matrix_with_a_complex_start_is_real_and_right():
    z0, g = np.array([1.0 - 0.5j, 0.25j]), np.array([[0.5, 1j], [1 + 1j, -2.0]])
    arrays = (PAIR, z0, np.array([0.75, 2.0]))
    x = leaves(*arrays)
    got = torch.autograd.grad(pairing(g, solve(*x)), x)
    assert [d.dtype for d in got] == [torch.float64, torch.complex128, torch.float64]
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, oracles.gradients(*arrays, g)))


def test_gradient_of_a_real_start_with_a_complex_matrix_is_real_and_right():
    g = G[:, :2] * (0.25 + 1j)
    arrays = (COMPLEX, Z0[:2], T)
    x = leaves(*arrays)
    got = torch.autograd.grad(pairing(g, solve(*x)), x)
    assert [d.dtype for d in got] == [torch.complex128, torch.float64, torch.float64]
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, oracles.gradients(*arrays, g)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_single_precision_leaves_get_single_precision_gradients_rounded_from_the_exact_ones(dtype: torch.dtype):
    Xi, z0, t = arguments_complex if dtype.is_complex else arguments_real
    g = G[:, : len(z0)] * (0.25 + 1j if dtype.is_complex else 1.0)
    x = [torch.tensor(Xi, dtype=dtype), torch.tensor(z0, dtype=dtype), torch.tensor(t, dtype=torch.float32)]
    got = torch.autograd.grad(pairing(g, solve(*(p.requires_grad_() for p in x))), x)
    assert [d.dtype for d in got] == [dtype, dtype, torch.float32]
    assert all(close(a, b, 4 * 2.0**-24) for a, b in zip(got, oracles.gradients(Xi, z0, t, g)))


def test_a_loss_scaled_by_1e12_has_a_gradient_scaled_by_1e12():
    arrays = (jordan(3, 0.25), Z0, T)
    true = oracles.gradients(*arrays, G * 1e12)
    x = leaves(*arrays)
    got = torch.autograd.grad(1e12 * pairing(G, solve(*x)), x)
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, true))


def test_answers_may_be_changed_in_place_before_the_backward_pass():
    x = leaves(*arguments_real)
    z = solve(*x)
    z[0] = 0.0
    z *= 2.0
    got = torch.autograd.grad(pairing(G, z), x)
    true = oracles.gradients(*arguments_real, G * np.array([[0.0], [2.0]]))
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, true))
