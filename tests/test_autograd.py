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
from tests.accuracy import GENERAL
from tests.case_builders import augmented, jordan, real_jordan_pair

# torch's own, raised once per process by the first forward-mode call
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

EPS = 2.0**-52
NAMES = ("Xi", "z0", "t")
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(range(3), size)]
METHODS = GENERAL
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
every_method = pytest.mark.parametrize("method", METHODS)


def accepts(method: str, Xi: np.ndarray, probe: float = 0.0) -> bool:
    """Whether a method takes Xi, and Xi with any one entry moved by `probe`."""
    n = len(Xi)
    moved = np.concatenate([Xi[None], Xi + probe * np.eye(n * n).reshape(-1, n, n)])
    return bool(linode.methods.registry()[method]().plan(torch.tensor(moved)).accepted.all())


ACCEPTED = [(m, name) for m in METHODS for name, Xi in MATRICES.items() if accepts(m, Xi)]
DIFFERENCED = [
    (m, name)
    for m, name in ACCEPTED
    if m == "auto" or (name in ("pair_and_real", "hermitian", "defective_pair") and accepts(m, MATRICES[name], PROBE))
]


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
    assert sum(m == method for m, _ in ACCEPTED) >= 8
    assert sum(m == method for m, _ in DIFFERENCED) >= 2


def test_every_entry_of_the_jacobians_equals_its_finite_difference():
    x = leaves(*arguments(MATRICES["pair_and_real"])[:3])
    assert gradcheck(solution(), x, check_forward_ad=True)


@pytest.mark.parametrize(("method", "name"), DIFFERENCED)
def test_second_derivatives_in_both_modes_equal_finite_differences(method: str, name: str):
    x = leaves(*arguments(MATRICES[name])[:3])
    options = {"check_fwd_over_rev": True, "check_undefined_grad": False, "fast_mode": True}
    assert gradgradcheck(solution(method), x, **options)


@pytest.mark.parametrize("subset", SUBSETS)
def test_second_derivatives_hold_for_any_subset_of_the_arguments(subset: tuple[int, ...]):
    x = leaves(*arguments(MATRICES["jordan"])[:3])
    for i in set(range(3)) - set(subset):
        x[i].requires_grad_(False)
    assert gradgradcheck(solution(), x, check_undefined_grad=True, fast_mode=True)


@pytest.mark.parametrize("name", ["pair_and_real", "jordan"])
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
    """The derivative of the oracles' gradients along a direction: the error is about eps / h = 2e-13."""
    h = 2.0**-10
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
    out = [rng.integers(-1, 2, x.shape).astype(float) for x in arrays]
    return [d * (1 + 1j) if np.iscomplexobj(x) else d for x, d in zip(arrays, out)]


@pytest.mark.parametrize(("method", "name"), ACCEPTED)
def test_second_derivatives_are_differences_of_the_oracles_gradients(method: str, name: str):
    *arrays, g = arguments(MATRICES[name])
    directions = directions_for(arrays)
    x = leaves(*arrays)
    first = torch.autograd.grad(pairing(g, solution(method)(*x)), x, create_graph=True)
    got = torch.autograd.grad(sum(map(pairing, directions, first)), x)
    assert all(close(a, b, 1e-10) for a, b in zip(got, oracle_curvature(arrays, directions, g)))


@pytest.mark.parametrize(("method", "name"), ACCEPTED)
def test_forward_over_reverse_is_the_difference_of_the_oracles_gradients(method: str, name: str):
    *arrays, g = arguments(MATRICES[name])
    directions = directions_for(arrays)
    with forward_ad.dual_level():
        x = [forward_ad.make_dual(p, torch.tensor(d)) for p, d in zip(leaves(*arrays), directions)]
        first = torch.autograd.grad(pairing(g, solution(method)(*x)), x, create_graph=True)
        got = [forward_ad.unpack_dual(d).tangent for d in first]
    assert all(close(a, b, 1e-10) for a, b in zip(got, oracle_curvature(arrays, directions, g)))


def oracle_tangent(arrays: list[np.ndarray], directions: list[np.ndarray]) -> np.ndarray:
    """The derivative of z along a direction: the oracles' gradients of every entry, paired with it."""
    shape, is_complex = (len(arrays[2]), len(arrays[1])), np.iscomplexobj(arrays[0])
    out = np.zeros(shape, complex if is_complex else float)
    for index in np.ndindex(shape):
        for unit in (1.0, 1j)[: 1 + is_complex]:
            g = np.zeros_like(out)
            g[index] = unit
            true = oracles.gradients(*arrays, g)
            out[index] += unit * sum((d.conj() * x).real.sum() for d, x in zip(true, directions))
    return out


def forward(method: str, arrays: list[np.ndarray], directions: list[np.ndarray], subset: tuple[int, ...]) -> Tensor:
    x = [torch.tensor(array) for array in arrays]
    with forward_ad.dual_level():
        for i in subset:
            x[i] = forward_ad.make_dual(x[i], torch.tensor(directions[i]))
        return forward_ad.unpack_dual(solution(method)(*x)).tangent


@pytest.mark.parametrize(("method", "name"), ACCEPTED)
def test_forward_mode_is_the_pairing_of_the_oracles_gradients(method: str, name: str):
    *arrays, _ = arguments(MATRICES[name])
    directions = directions_for(arrays)
    assert close(forward(method, arrays, directions, (0, 1, 2)), oracle_tangent(arrays, directions), 500 * EPS)


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("name", ["jordan_3", "complex_generic"])
def test_forward_mode_takes_any_subset_of_the_arguments(name: str, subset: tuple[int, ...]):
    *arrays, _ = arguments(MATRICES[name])
    directions = [d * (i in subset) for i, d in enumerate(directions_for(arrays))]
    assert close(forward("auto", arrays, directions, subset), oracle_tangent(arrays, directions), 500 * EPS)


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
