"""Derivatives with respect to Xi, z0 and t: reverse and forward mode, first to third, for every method.

Finite differences in double precision (gradcheck) test consistency on small systems of every kind; the oracles say
what is right: first derivatives directly, second ones by sixth-order differences of the oracles' gradients.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import linode
from tests import oracles
from tests.case_builders import augmented, jordan, real_jordan_pair

# torch's own, raised once per process by the first forward-mode call
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

EPS = 2.0**-52
NAMES = ("Xi", "z0", "t")
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(range(3), size)]
METHODS = sorted(linode.methods.registry())
PROBE = 2.0**-20  # gradcheck moves entries by 1e-6; a method must accept the matrices that it meets on the way

# entries are multiples of 1/16: differences in the oracles are then taken at exact points
GENERIC = np.array([[-0.5, 1.25], [0.375, 0.25]])
PAIR = np.array([[-0.25, 1.5], [-0.75, 0.125]])
MATRICES = {
    "generic": GENERIC,
    "zero": np.zeros((2, 2)),
    "multiple_of_identity": -0.75 * np.eye(2),
    "jordan": jordan(2, -0.5),
    "jordan_3": jordan(3, 0.25),
    "nearly_repeated": jordan(2, -0.5) + np.diag([0.0, 2.0**-30]),
    "symmetric": np.array([[-1.0, 0.5], [0.5, 0.25]]),
    "skew": np.array([[0.0, 1.75], [-1.75, 0.0]]),
    "conjugate_pair": PAIR,
    "pair_and_real": np.block([[PAIR, np.array([[0.5], [0.25]])], [np.array([[0.25, -0.5, -1.0]])]]),
    "defective_pair": real_jordan_pair(2, -0.25, 1.5),
    "augmented": augmented(GENERIC, np.array([[0.5], [1.0]])),
    "complex_generic": GENERIC + 1j * PAIR,
    "complex_jordan": jordan(2, -0.25 + 1j),
    "hermitian": np.array([[-1.0, 0.5 + 0.25j], [0.5 - 0.25j, 0.25]]),
    "skew_hermitian": np.array([[0.75j, 0.5 + 0.25j], [-0.5 + 0.25j, -0.25j]]),
}
every_matrix = pytest.mark.parametrize("name", MATRICES)
every_method = pytest.mark.parametrize("method", METHODS)


def accepts(method: str, Xi: np.ndarray, probe: float = 0.0) -> bool:
    """Whether a method takes Xi, and Xi with any one entry moved by `probe`."""
    n = len(Xi)
    moved = np.concatenate([Xi[None], Xi + probe * np.eye(n * n).reshape(-1, n, n)])
    return bool(linode.methods.registry()[method]().plan(torch.tensor(moved)).accepted.all())


ACCEPTED = [(m, name) for m in METHODS for name, Xi in MATRICES.items() if accepts(m, Xi)]
DIFFERENCED = [(m, name) for m, name in ACCEPTED if accepts(m, MATRICES[name], PROBE)]


def arguments(Xi: np.ndarray, T: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Xi, z0, t and g, multiples of 1/16 too."""
    rng = np.random.default_rng(len(Xi))
    z0, g = (np.round(16 * rng.standard_normal(shape)) / 16 for shape in (len(Xi), (T, len(Xi))))
    if np.iscomplexobj(Xi):
        z0, g = z0 * (1 - 0.5j), g * (0.25 + 1j)
    return Xi, z0, np.array([0.75, -0.5, 0.0, 0.75])[:T], g


def leaves(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.tensor(x, requires_grad=True) for x in arrays]


def solution(method: str = "auto"):
    return lambda Xi, z0, t: linode.LinearODE(Xi, z0, method=method)(t)


def pairing(g: np.ndarray, z: Tensor) -> Tensor:
    return (torch.tensor(g).conj() * z).real.sum()


def close(got: Tensor, true: np.ndarray, rtol: float) -> bool:
    return np.linalg.norm(got.detach().resolve_conj().numpy() - true) <= rtol * max(np.linalg.norm(true), 1e-3)


# ---- consistency -------------------------------------------------------------------------------------------------


@every_method
def test_each_method_is_differentiated_on_several_kinds_of_matrix(method: str):
    assert sum(m == method for m, _ in DIFFERENCED) >= 6


@pytest.mark.parametrize(("method", "name"), DIFFERENCED)
def test_derivatives_of_both_modes_and_orders_equal_finite_differences(method: str, name: str):
    x = leaves(*arguments(MATRICES[name])[:3])
    assert gradcheck(solution(method), x, check_forward_ad=True, check_undefined_grad=True, fast_mode=True)
    assert gradgradcheck(solution(method), x, check_fwd_over_rev=True, check_undefined_grad=True, fast_mode=True)


@pytest.mark.parametrize("name", ["pair_and_real", "complex_generic"])
def test_every_entry_of_the_jacobians_equals_its_finite_difference(name: str):
    x = leaves(*arguments(MATRICES[name])[:3])
    assert gradcheck(solution(), x, check_forward_ad=True)


@pytest.mark.parametrize("subset", SUBSETS)
def test_second_derivatives_hold_for_any_subset_of_the_arguments(subset: tuple[int, ...]):
    x = leaves(*arguments(MATRICES["pair_and_real"])[:3])
    for i in set(range(3)) - set(subset):
        x[i].requires_grad_(False)
    assert gradgradcheck(solution(), x, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("name", ["pair_and_real", "jordan", "zero"])
def test_third_derivatives_equal_finite_differences_of_second_ones(name: str):
    *x, g = arguments(MATRICES[name])

    def curvature(Xi: Tensor, z0: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(pairing(g, solution()(Xi, z0, t)), (Xi, z0, t), create_graph=True)
        return torch.autograd.grad(sum(d.square().sum() for d in first), (Xi, z0, t), create_graph=True)

    assert gradcheck(curvature, leaves(*x), fast_mode=True)


# ---- against the oracles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "name"), ACCEPTED)
def test_first_derivatives_are_those_of_the_oracle(method: str, name: str):
    *x, g = arguments(MATRICES[name], T=4)
    x = leaves(*x)
    got = torch.autograd.grad(pairing(g, solution(method)(*x)), x)
    true = oracles.gradients(*arguments(MATRICES[name], T=4))
    assert all(close(a, b, 2000 * EPS) for a, b in zip(got, true))


def oracle_curvature(arrays: list[np.ndarray], directions: list[np.ndarray], g: np.ndarray) -> list[np.ndarray]:
    """The derivative of the oracles' gradients along a direction: h^6 and eps / h are both near 1e-13."""
    h = 2.0**-7
    weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}

    def at(step: float) -> oracles.Gradients:
        return oracles.gradients(*(x + step * d for x, d in zip(arrays, directions)), g)

    out = [np.zeros_like(x) for x in arrays]
    for k, weight in weights.items():
        for total, up, down in zip(out, at(k * h), at(-k * h)):
            total += weight / h * (up - down)
    return out


def directions_for(arrays: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    out = [rng.integers(-2, 3, x.shape).astype(float) for x in arrays]
    return [d * (1 + 1j) if np.iscomplexobj(x) else d for x, d in zip(arrays, out)]


@every_matrix
def test_second_derivatives_are_differences_of_the_oracles_gradients(name: str):
    *arrays, g = arguments(MATRICES[name])
    directions = directions_for(arrays)
    x = leaves(*arrays)
    first = torch.autograd.grad(pairing(g, solution()(*x)), x, create_graph=True)
    along = sum(pairing(d, S) for d, S in zip(directions, first))
    got = torch.autograd.grad(along, x)
    assert all(close(a, b, 1e-10) for a, b in zip(got, oracle_curvature(arrays, directions, g)))


@every_matrix
@pytest.mark.parametrize("subset", [(0,), (1,), (2,), (0, 1, 2)])
def test_forward_mode_is_the_pairing_of_the_oracles_gradients(name: str, subset: tuple[int, ...]):
    *arrays, _ = arguments(MATRICES[name])
    directions = directions_for(arrays)
    x = [torch.tensor(array) for array in arrays]
    with forward_ad.dual_level():
        for i in subset:
            x[i] = forward_ad.make_dual(x[i], torch.tensor(directions[i]))
        got = forward_ad.unpack_dual(solution()(*x)).tangent
    assert got is not None
    for index in np.ndindex(got.shape):
        for unit, part in ((1.0, got.real), (1j, got.imag))[: 1 + got.is_complex()]:
            g = np.zeros(got.shape, complex if got.is_complex() else float)
            g[index] = unit
            true = oracles.gradients(*arrays, g)
            expected = sum((true[i].conj() * directions[i]).real.sum() for i in subset)
            assert abs(part[index].item() - expected) <= 1e-13 * (1 + abs(expected))


def test_func_jvp_equals_forward_mode():
    *arrays, _ = arguments(MATRICES["jordan"])
    x, d = (tuple(map(torch.tensor, group)) for group in (arrays, directions_for(arrays)))
    _, tangent = torch.func.jvp(solution(), x, d)
    with forward_ad.dual_level():
        dual = solution()(*(forward_ad.make_dual(*pair) for pair in zip(x, d)))
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, tangent)


def test_second_derivative_of_a_jordan_block_is_its_closed_form():
    x, s = -0.5, 1.5  # z_1 = s^2 / 2 e^(xs) in z0 = e_3; d2 z_1 / dx2 = s^4 / 2 e^(xs)
    value = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    Xi = value * torch.eye(3, dtype=torch.float64) + torch.tensor(jordan(3, 0.0))
    z = linode.LinearODE(Xi, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))(torch.tensor(s))
    first = torch.autograd.grad(z[0], value, create_graph=True)[0]
    second = torch.autograd.grad(first, value, create_graph=True)[0]
    third = torch.autograd.grad(second, value)[0]
    got = torch.stack([first, second, third])
    assert close(got, s ** np.array([3.0, 4.0, 5.0]) / 2 * np.exp(x * s), 200 * EPS)


# ---- what comes back ---------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("subset", SUBSETS)
def test_only_arguments_that_require_grad_get_one_and_it_is_the_same(method: str, subset: tuple[int, ...]):
    *arrays, g = arguments(MATRICES["pair_and_real"])
    every, some = leaves(*arrays), [torch.tensor(x, requires_grad=i in subset) for i, x in enumerate(arrays)]
    for x in (every, some):
        pairing(g, solution(method)(*x)).backward()
    for i in range(3):
        assert (some[i].grad is None) == (i not in subset)
        assert i not in subset or torch.allclose(some[i].grad, every[i].grad, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 0.0], [1.0, 1.0], [-1.0], 0.5])
def test_t_always_gets_a_gradient_of_its_shape_and_dtype(times: list[float] | float):
    t = torch.tensor(times, dtype=torch.float32, requires_grad=True)
    solution()(torch.tensor(PAIR), torch.ones(2), t).sum().backward()
    assert t.grad is not None
    assert (t.grad.shape, t.grad.dtype) == (t.shape, torch.float32)
    flat = np.atleast_1d(np.array(times))
    rates = (oracles.trajectory(PAIR, np.ones(2), flat) @ PAIR.T).sum(-1)
    assert close(t.grad.reshape(-1), rates, 1e-6)


def test_gradient_of_a_real_matrix_with_a_complex_start_is_real_and_right():
    z0, g = np.array([1.0 - 0.5j, 0.25j]), np.array([[0.5, 1j], [1 + 1j, -2.0]])
    arrays = (PAIR, z0, np.array([0.75, 2.0]))
    x = leaves(*arrays)
    got = torch.autograd.grad(pairing(g, solution()(*x)), x)
    assert [d.dtype for d in got] == [torch.float64, torch.complex128, torch.float64]
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, oracles.gradients(*arrays, g)))


def test_gradient_of_a_real_start_with_a_complex_matrix_is_real_and_right():
    Xi, _, t, g = arguments(MATRICES["complex_generic"])
    arrays = (Xi, np.array([1.0, -0.5]), t)
    x = leaves(*arrays)
    got = torch.autograd.grad(pairing(g, solution()(*x)), x)
    assert [d.dtype for d in got] == [torch.complex128, torch.float64, torch.float64]
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, oracles.gradients(*arrays, g)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_single_precision_leaves_get_single_precision_gradients_rounded_from_the_exact_ones(dtype: torch.dtype):
    Xi, z0, t, g = arguments(MATRICES["complex_generic" if dtype.is_complex else "pair_and_real"])
    x = [torch.tensor(Xi, dtype=dtype), torch.tensor(z0, dtype=dtype), torch.tensor(t, dtype=torch.float32)]
    got = torch.autograd.grad(pairing(g, solution()(*(p.requires_grad_() for p in x))), x)
    assert [d.dtype for d in got] == [dtype, dtype, torch.float32]
    assert all(close(a, b, 4 * 2.0**-24) for a, b in zip(got, oracles.gradients(Xi, z0, t, g)))


def test_a_loss_scaled_by_1e12_has_a_gradient_scaled_by_1e12():
    *arrays, g = arguments(MATRICES["jordan_3"])
    true = oracles.gradients(*arrays, g * 1e12)
    x = leaves(*arrays)
    got = torch.autograd.grad(1e12 * pairing(g, solution()(*x)), x)
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, true))


def test_answers_may_be_changed_in_place_before_the_backward_pass():
    *arrays, g = arguments(MATRICES["pair_and_real"])
    x = leaves(*arrays)
    z = solution()(*x)
    z[0] = 0.0
    z *= 2.0
    got = torch.autograd.grad(pairing(g, z), x)
    true = oracles.gradients(*arrays, g * np.array([[0.0], [2.0]]))
    assert all(close(a, b, 500 * EPS) for a, b in zip(got, true))
