"""expm and expm_multiply: values and gradients against ball arithmetic, whatever the scale of the loss."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import linode
from tests import oracles
from tests.accuracy import GENERAL
from tests.case_builders import frank, jordan, real_jordan_pair, tridiagonal

# torch's own, raised once per process by the first forward-mode call
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

EPS = 2.0**-52
METHODS = GENERAL
GENERIC = np.array([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]])
MATRICES = {
    "scalar": np.array([[-0.7]]),
    "generic": GENERIC,
    "zero": np.zeros((3, 3)),
    "jordan": jordan(4, 0.5),
    "defective_pair": real_jordan_pair(2, -0.25, 1.5),
    "nilpotent": np.eye(5, k=1),
    "stiff": tridiagonal(6, 400.0, -800.0, 400.0),
    "small": 1e-3 * GENERIC,  # where torch.linalg.matrix_exp is wrong in float64 (one-norm 3.4e-4 to 0.05)
    "frank": frank(5),
    "complex": GENERIC + 1j * GENERIC.T,
    "complex_jordan": jordan(3, 1 + 2j),
    "skew_hermitian": 1j * (GENERIC + GENERIC.T),
}
every_matrix = pytest.mark.parametrize("name", MATRICES)


def cotangent(A: np.ndarray) -> np.ndarray:
    G = np.random.default_rng(5).standard_normal(A.shape)
    return G * (1 - 2j) if np.iscomplexobj(A) else G


def oracle_gradient(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """dL/dA of L = Re <G, exp(A)>: column j of exp(A) is a trajectory from e_j."""
    one = np.ones(1)
    columns = np.eye(len(A), dtype=A.dtype)
    return sum(oracles.gradients(A, columns[j], one, G[None, :, j]).S for j in range(len(A)))


def gradient(A: np.ndarray, G: np.ndarray, scale: float = 1.0) -> np.ndarray:
    x = torch.tensor(A, requires_grad=True)
    loss = scale * (torch.tensor(G).conj() * linode.expm(x)).real.sum()
    return torch.autograd.grad(loss, x)[0].resolve_conj().numpy()


@cache
def condition(name: str) -> float:
    """One more than the relative condition number of exp(A) v, v random."""
    A = MATRICES[name]
    v = np.random.default_rng(7).standard_normal(len(A)).astype(A.dtype)
    return 1.0 + oracles.condition(A, v, np.ones(1)).normwise


def relative_error(got: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(got - true) / np.linalg.norm(true))


# ---- expm --------------------------------------------------------------------------------------------------------


@every_matrix
def test_expm_is_that_of_the_oracle(name: str):
    A = MATRICES[name]
    E = linode.expm(torch.tensor(A))
    assert E.dtype == torch.tensor(A).dtype
    assert relative_error(E.numpy(), oracles.expm(A)) <= 20 * EPS * condition(name)


@every_matrix
def test_the_gradient_of_expm_is_that_of_the_oracle(name: str):
    A, G = MATRICES[name], cotangent(MATRICES[name])
    assert relative_error(gradient(A, G), oracle_gradient(A, G)) <= 100 * EPS * condition(name)


@pytest.mark.parametrize("scale", [1e-100, 1e4, 1e12, 1e100])
@pytest.mark.parametrize("name", ["generic", "jordan", "stiff", "complex"])
def test_the_gradient_is_as_good_for_any_scale_of_the_loss(name: str, scale: float):
    A, G = MATRICES[name], cotangent(MATRICES[name])
    assert relative_error(gradient(A, G, scale), scale * oracle_gradient(A, G)) <= 100 * EPS * condition(name)


def test_the_scale_of_the_loss_ruins_the_gradient_of_matrix_exp():
    # what the previous test is for; where torch has mended it, this may go
    A, G = MATRICES["generic"], cotangent(MATRICES["generic"])
    x = torch.tensor(A, requires_grad=True)
    (got,) = torch.autograd.grad(1e12 * (torch.tensor(G) * torch.linalg.matrix_exp(x)).sum(), x)
    assert relative_error(got.numpy(), 1e12 * oracle_gradient(A, G)) > 1e-8


@pytest.mark.parametrize("name", ["generic", "jordan", "complex_jordan"])
def test_single_precision_is_the_rounded_exact_exponential(name: str):
    A = MATRICES[name].astype(np.complex64 if np.iscomplexobj(MATRICES[name]) else np.float32)
    E = linode.expm(torch.tensor(A))
    assert E.dtype == torch.tensor(A).dtype
    assert relative_error(E.numpy(), oracles.expm(A)) <= 1.01 * 2.0**-24
    G = cotangent(A).astype(A.dtype)
    assert relative_error(gradient(A, G), oracle_gradient(A, G)) <= 2.0**-23


@pytest.mark.parametrize("batch", [(4,), (2, 3), (1,), (0,), (2, 0)])
def test_batches_are_exponentiated_one_by_one(batch: tuple[int, ...]):
    scales = torch.linspace(-1, 1, int(np.prod(batch)), dtype=torch.float64).reshape(*batch, 1, 1)
    A = (scales * torch.tensor(GENERIC)).requires_grad_()
    E = linode.expm(A)
    assert E.shape == A.shape
    G = torch.tensor(cotangent(GENERIC))
    (S,) = torch.autograd.grad((G * E).sum(), A)
    for index in np.ndindex(*batch):
        one = A[index].detach().numpy()
        assert relative_error(E[index].detach().numpy(), oracles.expm(one)) <= 100 * EPS
        assert relative_error(S[index].numpy(), oracle_gradient(one, G.numpy())) <= 500 * EPS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_exponentiates(method: str):
    E = linode.expm(torch.tensor(GENERIC), method=method)
    assert relative_error(E.numpy(), oracles.expm(GENERIC)) <= 100 * EPS


@pytest.mark.parametrize("name", ["generic", "jordan", "zero", "complex_jordan"])
def test_second_derivatives_of_expm_equal_finite_differences(name: str):
    A = torch.tensor(MATRICES[name][:2, :2], requires_grad=True)
    assert gradcheck(linode.expm, A, check_forward_ad=True)
    assert gradgradcheck(linode.expm, A, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("name", [name for name in MATRICES if name != "stiff"])  # e^1600 is no double
def test_the_exponential_of_the_negative_is_the_inverse(name: str):
    A = MATRICES[name]
    E, E_inv = linode.expm(A), linode.expm(-A)
    bound = 100 * EPS * condition(name) * np.linalg.norm(E) * np.linalg.norm(E_inv)
    assert np.linalg.norm(E @ E_inv - np.eye(len(A))) <= bound


# ---- expm_multiply -----------------------------------------------------------------------------------------------


@every_matrix
def test_the_action_is_the_exponential_times_the_vector(name: str):
    A = MATRICES[name]
    v = np.arange(1.0, len(A) + 1)
    y = linode.expm_multiply(A, v)
    assert y.shape == v.shape
    assert relative_error(y, oracles.trajectory(A, v, np.ones(1))[0]) <= 20 * EPS * condition(name)


@pytest.mark.parametrize("t", [2.0, [0.0, 2.0, -1.0], []])
def test_the_action_takes_times_as_a_trajectory_does(t: list[float] | float):
    v = np.array([1.0, -0.5, 0.25])
    assert np.array_equal(linode.expm_multiply(GENERIC, v, t), linode.LinearODE(GENERIC, v)(t))


def test_gradients_of_the_action_are_those_of_the_oracle_at_any_scale():
    arrays = (MATRICES["jordan"], np.array([1.0, -0.5, 0.25, 2.0]), np.array([0.5, 2.0]))
    G = np.random.default_rng(6).standard_normal((2, 4))
    true = oracles.gradients(*arrays, G)
    for scale in (1.0, 1e12):
        x = [torch.tensor(array, requires_grad=True) for array in arrays]
        got = torch.autograd.grad(scale * (torch.tensor(G) * linode.expm_multiply(*x)).sum(), x)
        assert all(relative_error(a.numpy(), scale * b) <= 500 * EPS for a, b in zip(got, true))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["generic", "complex"])
def test_columns_are_vectors_as_in_scipy(name: str, k: int):
    A, V = MATRICES[name], np.random.default_rng(k).standard_normal((3, k))
    times = np.array([0.0, 0.5, 2.0])
    true = np.stack([oracles.trajectory(A, v, times) for v in V.T], -1)  # (T, n, k)
    assert relative_error(linode.expm_multiply(A, V, times), true) <= 100 * EPS
    assert relative_error(linode.expm_multiply(A, V, 2.0), true[-1]) <= 100 * EPS
    assert relative_error(linode.expm_multiply(A, V), scipy.sparse.linalg.expm_multiply(A, V)) <= 1e-13


def test_the_action_broadcasts_as_a_product_of_matrices():
    A = torch.tensor(np.stack([GENERIC, GENERIC.T]))[:, None]
    V: Tensor = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 3, 2)
    y = linode.expm_multiply(A, V)
    assert y.shape == (2, 4, 3, 2)
    assert torch.allclose(y, linode.expm(A) @ V, rtol=1e-13)
    own_times = torch.tensor([[0.5, 1.0], [2.0, 1.0]], dtype=torch.float64)[:, None]
    y = linode.expm_multiply(A, V, own_times)
    assert y.shape == (2, 4, 2, 3, 2)
    assert torch.allclose(y[1, 3, 0], linode.expm(2.0 * A[1, 0]) @ V[3], rtol=1e-13)


def test_one_vector_serves_every_matrix():
    A = torch.tensor(np.stack([GENERIC, GENERIC.T, 2 * GENERIC]))
    v = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
    assert torch.allclose(linode.expm_multiply(A, v), linode.expm(A) @ v, rtol=1e-13)


def test_the_action_on_columns_has_the_gradients_of_that_on_each():
    A, V = torch.tensor(GENERIC, requires_grad=True), torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *x: linode.expm_multiply(*x), (A, V, torch.tensor([0.5, 1.0]).double().requires_grad_()))


def test_rows_and_what_could_be_rows_or_columns_are_refused():
    with pytest.raises(linode.ShapeError, match=r"v has shape \(4, 3\), but A is 3 x 3; .*use v.mT, or LinearODE"):
        linode.expm_multiply(GENERIC, np.ones((4, 3)))
    A = np.stack([GENERIC] * 3)
    with pytest.raises(linode.ShapeError, match=r"one vector for each matrix, or columns .* v\[..., None\]"):
        linode.expm_multiply(A, np.ones((3, 3)))
    V = np.arange(9.0).reshape(3, 3)
    assert np.allclose(linode.expm_multiply(A, V[..., None])[..., 0], linode.LinearODE(A, V)(1.0), rtol=1e-13)
    assert np.allclose(linode.expm_multiply(A, np.broadcast_to(V, (3, 3, 3))), linode.expm(A) @ V, rtol=1e-13)
