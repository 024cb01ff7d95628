"""Operators: matrix-free Xi with parameters, against the dense matrix that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

import linode
from linode import LinearODE, Operator

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
N, CLOSE = 9, 1e-9
GENERATOR = torch.Generator().manual_seed(0)
D = torch.randn(N, N, dtype=torch.float64, generator=GENERATOR) / 2
THETA = torch.tensor([0.7, 1.3], dtype=torch.float64)
PHI = torch.randn(N, dtype=torch.float64, generator=GENERATOR)
Z0 = torch.randn(2, N, dtype=torch.float64, generator=GENERATOR)
T = torch.tensor([0.0, 1.0, -0.5, 2.0], dtype=torch.float64)


def matvec(v: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    return theta[0] ** 2 * (v @ D.mT) + theta[1] * phi * v


def rmatvec(v: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    return theta[0] ** 2 * (v @ D) + theta[1] * phi * v


def dense(theta: Tensor, phi: Tensor) -> Tensor:
    return theta[0] ** 2 * D + theta[1] * phi.diag()


def functional(theta: Tensor, phi: Tensor, **options: Any) -> Operator:
    return Operator(matvec, N, rmatvec=rmatvec, parameters=[theta, phi], **options)


def closed(theta: Tensor, phi: Tensor, **options: Any) -> Operator:
    return Operator(
        lambda v: matvec(v, theta, phi),
        N,
        rmatvec=lambda v: rmatvec(v, theta, phi),
        parameters=[theta, phi],
        **options,
    )


MAKERS = {"parameters as arguments": functional, "parameters in a closure": closed}
every_maker = pytest.mark.parametrize("maker", MAKERS)


def distance(x: Tensor, y: Tensor) -> float:
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach()
    assert x.shape == y.shape
    return float(torch.dist(x, y) / y.norm())


def found_by(make: Callable[..., Any], **options: Any) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in (THETA, PHI, Z0, T)]
    z = LinearODE(make(*leaves[:2]), leaves[2], **options)(leaves[3])
    g = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1))
    return [z, *torch.autograd.grad((g * z).sum(), leaves)]


@every_maker
def test_states_and_gradients_are_those_of_the_dense_matrix(maker: str):
    for x, y in zip(found_by(MAKERS[maker]), found_by(dense)):
        assert distance(x, y) < CLOSE


@every_maker
def test_forcing_acts_on_operators(maker: str):
    u = linode.FirstOrderHold([-1.0, 0.5, 1.5], torch.ones(3, N, dtype=torch.float64))
    b = torch.ones(N, dtype=torch.float64)
    for x, y in zip(found_by(MAKERS[maker], u=u, b=b), found_by(dense, u=u, b=b)):
        assert distance(x, y) < CLOSE


@every_maker
def test_parameters_that_come_from_others_pass_gradients_on(maker: str):
    log = THETA.log().requires_grad_()
    for _ in range(2):  # the graph outside of the operator is used for every block of columns
        theta = log.exp()
        LinearODE(MAKERS[maker](theta, PHI), Z0)(T).square().sum().backward()
    true = THETA.log().requires_grad_()
    LinearODE(dense(true.exp(), PHI), Z0)(T).square().sum().backward()
    assert distance(log.grad, 2 * true.grad) < CLOSE


def test_gradcheck_in_both_modes():
    leaves = [x.clone().requires_grad_() for x in (THETA, PHI, Z0, T[1:])]
    assert torch.autograd.gradcheck(
        lambda a, b, z0, t: LinearODE(functional(a, b), z0)(t), leaves, check_forward_ad=True, check_batched_grad=False
    )


def test_transforms_of_torch_func():
    def states(make: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        return lambda theta: LinearODE(make(theta, PHI), Z0)(T)

    true = torch.func.jacrev(states(dense))(THETA)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        assert distance(jacobian(states(functional))(THETA), true) < CLOSE
        with pytest.raises(linode.NotDifferentiableError, match="parameters"):
            jacobian(states(closed))(THETA)
    with pytest.raises(linode.NotDifferentiableError):
        torch.func.hessian(lambda x: states(functional)(x).sum())(THETA)


def test_forward_mode_in_a_closure_is_refused_and_never_zero():
    with torch.autograd.forward_ad.dual_level():
        theta = torch.autograd.forward_ad.make_dual(THETA, torch.ones_like(THETA))
        with pytest.raises(linode.NotDifferentiableError, match="as arguments"):
            LinearODE(closed(theta, PHI), Z0)(T)


def test_a_layer_of_torch_is_an_operator():
    layer = torch.nn.Linear(N, N, bias=False)  # float32
    weight = layer.weight
    Xi = Operator(layer, N, rmatvec=lambda v: v @ weight, parameters=list(layer.parameters()), dtype=torch.float32)
    z = LinearODE(Xi, Z0.float(), rtol=1e-5)(T)
    z.sum().backward()
    true = weight.detach().clone().requires_grad_()
    LinearODE(true, Z0.float())(T).sum().backward()
    assert z.dtype == torch.float32
    assert distance(weight.grad, true.grad) < 1e-4


def test_dtypes_of_results():
    float32 = functional(THETA.float(), PHI.float())
    assert LinearODE(float32, Z0.float())(T).dtype == torch.float32
    assert LinearODE(float32, Z0)(T).dtype == torch.float64
    assert LinearODE(functional(THETA, PHI), Z0.float())(T).dtype == torch.float64
    assert LinearODE(Operator(lambda v: -v, N), Z0.float())(T).dtype == torch.float32
    assert isinstance(LinearODE(Operator(lambda v: -v, N), Z0.numpy())(T.numpy()), Tensor)


def test_real_operators_on_complex_states_see_real_vectors():
    seen = []

    def decay(v: Tensor) -> Tensor:
        seen.append(v.dtype)
        return -v

    z0 = torch.complex(Z0, Z0.flip(-1))
    assert distance(LinearODE(Operator(decay, N), z0)(1.0), z0 * np.exp(-1)) < CLOSE
    assert set(seen) == {torch.float64}


def test_complex_operators():
    H = torch.randn(N, N, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    H = (H + H.mH) / 2
    rate = torch.tensor(0.5 + 0.1j, dtype=torch.complex128, requires_grad=True)
    Xi = Operator(
        lambda v, r: -1j * r * (v @ H.mT), N, rmatvec=lambda v, r: 1j * r.conj() * (v @ H.mT), parameters=[rate]
    )
    z0 = Z0[0].to(torch.complex128).requires_grad_()
    found = []
    for x in (Xi, -1j * rate * H):
        z = LinearODE(x, z0)(T)
        found.append([z.detach(), *torch.autograd.grad(z.abs().square().sum() + z.real.sum(), [rate, z0])])
    for x, y in zip(*found):
        assert distance(x, y) < CLOSE


def test_linear_operators_of_scipy_give_arrays():
    A = dense(THETA, PHI).numpy()
    for Xi in (scipy.sparse.linalg.aslinearoperator(A), 2 * scipy.sparse.linalg.aslinearoperator(A / 2)):
        z = LinearODE(Xi, Z0.numpy())(T.numpy())
        assert isinstance(z, np.ndarray)
        assert distance(z, LinearODE(A, Z0.numpy())(T.numpy())) < CLOSE
        z0 = Z0.clone().requires_grad_()
        (a,) = torch.autograd.grad(LinearODE(Xi, z0)(T).sum(), z0)
        (true,) = torch.autograd.grad(LinearODE(torch.from_numpy(A), z0)(T).sum(), z0)
        assert distance(a, true) < CLOSE
        assert linode.expm_multiply(Xi, Z0.numpy().T).shape == (N, 2)


def test_changed_parameters_are_seen_by_the_next_call():
    theta = THETA.clone()
    ode = LinearODE(functional(theta, PHI), Z0)
    ode(T)
    theta.mul_(0.5)
    assert distance(ode(T), LinearODE(dense(theta, PHI), Z0)(T)) < CLOSE


def test_only_times_are_differentiated_without_products_with_the_adjoint():
    t = T.clone().requires_grad_()
    (dt,) = torch.autograd.grad(LinearODE(Operator(lambda v: -2 * v, N), Z0)(t).sum(), t)
    assert distance(dt, -2 * torch.exp(-2 * T) * Z0.sum()) < CLOSE


def test_condition_is_with_respect_to_the_parameters():
    ode = LinearODE(functional(THETA, PHI), Z0[0])
    J = torch.func.jacrev(lambda x: LinearODE(dense(x[:2], x[2:]), Z0[0])(T))(torch.cat([THETA, PHI]))
    size = torch.cat([THETA, PHI]).norm() / LinearODE(dense(THETA, PHI), Z0[0])(T).norm()
    true = float(torch.linalg.matrix_norm(J.reshape(-1, N + 2), 2) * size)
    assert 0.9 * true < float(ode.condition(T)) < 1.01 * true
    with pytest.raises(linode.MethodError, match="parameters"):
        LinearODE(Operator(lambda v: -v, N, hermitian=True), Z0[0]).condition(T)


def laplacian(v: Tensor) -> Tensor:
    return torch.nn.functional.pad(v[..., 1:] - v[..., :-1], (1, 1)).diff(dim=-1)


def test_what_is_known_of_the_numerical_range_saves_products():
    n = 500
    z0 = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    counts = []
    for known in (
        {},
        {"dissipative": True},
        {"dissipative": True, "hermitian": True},
        {"bounds": (-4.0, 0.0, 0.0, 0.0)},
    ):
        solution = LinearODE(Operator(laplacian, n, rmatvec=laplacian, **known), z0).solve([200.0])
        assert (
            distance(solution.z[0], torch.linalg.matrix_exp(laplacian(torch.eye(n, dtype=torch.float64)) * 200) @ z0)
            < 1e-7
        )
        counts.append(solution.stats.details["n_products"])
    assert min(counts[1:]) < counts[0]
    text = LinearODE(Operator(laplacian, n, rmatvec=laplacian), z0).explain([200.0])
    assert "dissipative=True" in text


V, LEARNED = Z0, PHI.clone().requires_grad_()
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "length": (
        lambda: LinearODE(Operator(lambda v: v[..., :3], N), V)(1.0),
        linode.ShapeError,
        r"matvec gave shape .* n = 9",
    ),
    "dtype": (lambda: LinearODE(Operator(lambda v: v.float(), N), V)(1.0), linode.DtypeError, "float32"),
    "complex": (lambda: LinearODE(Operator(lambda v: 1j * v, N), V)(1.0), linode.DtypeError, "dtype=torch.complex128"),
    "array": (lambda: LinearODE(Operator(lambda v: v.numpy(), N), V)(1.0), linode.DtypeError, "tensor"),
    "nan": (lambda: LinearODE(Operator(lambda v: v * torch.nan, N), V)(1.0), linode.NonFiniteError, "product number 1"),
    "inf": (lambda: LinearODE(Operator(lambda v: v / 0, N), V)(1.0), linode.NonFiniteError, "product"),
    "n": (lambda: Operator(lambda v: v, 0), linode.OptionError, "n must be"),
    "half n": (lambda: Operator(lambda v: v, 2.5), linode.OptionError, "n must be"),
    "matvec": (lambda: Operator(3, 2), linode.OptionError, "matvec must be"),
    "rmatvec": (lambda: Operator(lambda v: v, 2, rmatvec=D), linode.OptionError, "rmatvec must be"),
    "parameters": (lambda: Operator(matvec, N, parameters=THETA), linode.OptionError, "sequence of tensors"),
    "parameter": (lambda: Operator(matvec, N, parameters=[1.0]), linode.OptionError, "float"),
    "kind": (lambda: Operator(matvec, N, dtype=torch.int32), linode.DtypeError, "int32"),
    "bounds": (lambda: Operator(matvec, N, bounds=(1.0, 0.0)), linode.OptionError, "increasing"),
    "bound": (lambda: Operator(matvec, N, bounds=(1.0,)), linode.OptionError, "left, right"),
    "z0": (lambda: LinearODE(Operator(lambda v: v, 5), V), linode.ShapeError, "z0 has last size 9"),
    "no adjoint": (
        lambda: LinearODE(Operator(matvec, N, parameters=[THETA.clone().requires_grad_(), PHI]), V)(1.0),
        linode.NotDifferentiableError,
        "rmatvec",
    ),
    "no adjoint for z0": (
        lambda: LinearODE(Operator(lambda v: -v, N), V.clone().requires_grad_())(1.0),
        linode.NotDifferentiableError,
        "rmatvec",
    ),
    "not named": (
        lambda: LinearODE(Operator(lambda v: LEARNED * v, N, hermitian=True), V)(1.0),
        linode.NotDifferentiableError,
        r"among parameters, of shapes \(9,\)",
    ),
    "propagator": (lambda: LinearODE(Operator(lambda v: v, N), V).propagator(1.0), linode.MethodError, "operator"),
    "dense method": (lambda: LinearODE(Operator(lambda v: v, N), V, method="eig"), linode.MethodError, "eig"),
    "stiff without solve": (
        lambda: LinearODE(Operator(lambda v: v, N), V, method="rational")(1.0),
        linode.MethodError,
        "rational",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_by_name(case: str):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words) as found:
        call()
    assert isinstance(found.value, linode.LinodeError)


def test_without_gradients_nothing_but_products_is_needed():
    theta = THETA.clone().requires_grad_()
    with torch.no_grad():
        z = LinearODE(Operator(matvec, N, parameters=[theta, PHI]), Z0)(T)
    assert distance(z, LinearODE(dense(THETA, PHI), Z0)(T)) < CLOSE


def test_solve_serves_the_stiff_method():
    n, stiffness = 300, 1e6

    def solve(v: Tensor, gamma: float) -> Tensor:
        A = torch.eye(n, dtype=torch.float64) - gamma * stiffness * laplacian(torch.eye(n, dtype=torch.float64))
        return torch.linalg.solve(A, v[..., None])[..., 0]

    Xi = Operator(lambda v: stiffness * laplacian(v), n, hermitian=True, dissipative=True, solve=solve)
    z0 = torch.arange(n, dtype=torch.float64).requires_grad_()
    solution = LinearODE(Xi, z0, method="rational").solve([0.01])
    lam, V = np.linalg.eigh(laplacian(torch.eye(n, dtype=torch.float64)).numpy() * stiffness)
    E = torch.from_numpy((V * np.exp(lam * 0.01)) @ V.T)
    assert solution.stats.details["n_solves"] > 0
    assert distance(solution.z[0], E @ z0) < 1e-7
    (a,) = torch.autograd.grad(solution.z[0, 0], z0)
    assert distance(a, E[0]) < 1e-6


def test_bounds_that_are_far_too_narrow_are_told():
    operator = linode.Operator(lambda v: -4 * v, 300, hermitian=True, bounds=(-1.0, 0.0), dtype=torch.float64)
    solution = linode.LinearODE(operator, torch.ones(300, dtype=torch.float64)).solve([1000.0])
    assert solution.status is linode.Status.REGION
