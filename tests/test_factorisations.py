"""Balancing and Schur form: what defines them, exactly or to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flint import acb, ctx
from torch import Tensor

import linode
from linode.kernels.balance import balance
from linode.kernels.stepping import Stepper, choose_step, power_norm
from linode.kernels.taylor import DOUBLE
from linode.kernels.triangular import divided_difference
from linode.methods import Schur
from linode.methods.schur import QuasiTriangularStepper, schur_forms
from tests import oracles
from tests.accuracy import EPS, norm
from tests.case_builders import direct_sum, generator, grcar, jordan, normal, real_jordan_pair, rotated, similar

# ---- Schur form --------------------------------------------------------------------------------------------


def matrices() -> dict[str, np.ndarray]:
    rng = generator("block_schur")
    return {
        "random": normal(rng, 9, 9),
        "random_complex": normal(rng, 7, 7, is_complex=True),
        "two_jordan_blocks": similar(rng, direct_sum(jordan(3, -1.0), jordan(4, 2.0)), 5.0),
        "interleaved": similar(rng, np.diag([1.0, 2, 1, 2, 1, 2]) + np.diag([1.0] * 4, 2), 3.0),
        "clusters": similar(rng, np.diag([1.0, 1 + 1e-6, 5, 1 - 1e-6, 5.001, -2]), 10.0),
        "defective_pairs": rotated(rng, direct_sum(real_jordan_pair(2, -0.2, 2.0), 1.0)),
        "complex_jordan": rotated(rng, direct_sum(jordan(2, 1j), jordan(2, -1j + 0j))),
        "grcar": grcar(12),
        "many_moderate_couplings": np.diag(np.arange(1.0, 9.0)) + np.triu(np.full((8, 8), 3.0), 1),
        "one": np.array([[3.0]]),
        "zero": np.zeros((4, 4)),
    }


MATRICES = matrices()
every_matrix = pytest.mark.parametrize("name", MATRICES)


def triangle(kind: str, n: int = 7) -> np.ndarray:
    """Stiff and strongly coupled: rates 1 to 1e6, couplings 1 to 1e10."""
    rng = generator(f"{kind} {n}")
    upper = np.triu(10.0 ** rng.uniform(0, 10, (n, n)) * rng.choice([-1.0, 1.0], (n, n)), 1)
    upper -= np.diag(np.geomspace(1.0, 1e6, n))
    if kind == "permuted":
        order = rng.permutation(n)
        return upper[order][:, order]
    return {"upper": upper, "lower": upper.T, "complex": upper * (1 + 1e-3j)}[kind]


@every_matrix
def test_a_schur_form_is_quasi_triangular_in_an_orthogonal_basis(name: str):
    Xi = MATRICES[name]
    T, Q, residual = (x[0].numpy() for x in schur_forms(torch.tensor(Xi)[None]))
    assert norm(Q @ Q.conj().T - np.eye(len(Xi))) <= 10 * len(Xi) * EPS
    assert norm(Q @ T @ Q.conj().T - Xi) == pytest.approx(float(residual), abs=len(Xi) * EPS * norm(Xi))
    assert residual <= 10 * len(Xi) * EPS * norm(Xi)
    assert not np.tril(T, -2).any()
    below = np.diag(T, -1)
    assert not (below[1:] * below[:-1]).any()
    assert np.array_equal(np.diag(T)[1:][below != 0], np.diag(T)[:-1][below != 0])


@pytest.mark.parametrize("kind", ["upper", "lower", "permuted", "complex"])
def test_a_triangular_matrix_in_any_order_of_its_states_has_an_exact_schur_form(kind: str):
    _, Q, residual = schur_forms(torch.tensor(triangle(kind))[None])
    assert float(residual) == 0.0
    assert np.array_equal(np.sort(Q[0].abs().numpy(), axis=0)[-1], np.ones(7))


@pytest.mark.parametrize("kind", ["upper", "lower", "complex"])
@pytest.mark.parametrize("shift", [None, -0.7])
def test_closed_forms_of_triangular_steps_follow_subsets_adjoints_and_shifts(kind: str, shift: float | None):
    A = torch.tensor(triangle(kind))[None]
    H = choose_step(*power_norm(A))
    step = Stepper(A, H, DOUBLE, shift=None if shift is None else torch.tensor([shift], dtype=torch.float64))
    for own, B in ((step, A), (step.subset(torch.tensor([0])), A), (step.adjoint(), A.mT.conj_physical())):
        for level in (0, 6):
            true = np.exp((np.diagonal(B[0].numpy()) + (shift or 0.0)) * float(H) * 2**level)
            got = own.E(level)[0].diagonal().numpy()
            assert np.all(np.abs(got - true) <= 8 * EPS * np.abs(true))


STEPPED = [name for name in MATRICES if name not in ("one", "zero")]


@pytest.mark.parametrize("name", [*STEPPED, "graded"])
@pytest.mark.parametrize("level", [0, 1, 5, 9])
def test_diagonals_of_every_power_of_a_triangular_step_are_exact(name: str, level: int):
    T, _, _ = schur_forms(torch.tensor(triangle("upper") if name == "graded" else MATRICES[name])[None])
    H = choose_step(*power_norm(T))
    E, T, h = QuasiTriangularStepper(T, H, DOUBLE).E(level)[0].numpy(), T[0].numpy(), float(H) * 2**level
    true = oracles.expm(T * h)
    starts = np.append(np.diag(T, -1) != 0, False)  # of 2 x 2 blocks
    i = 0
    while i < len(T):
        own = slice(i, i + 1 + int(starts[i]))
        # the eigenvalue of a 2 x 2 block is rounded, which turns its phase
        turn = 1 + abs(np.linalg.eigvals(T[own, own]).imag).max() * h
        assert norm(E[own, own] - true[own, own]) <= 8 * EPS * turn * norm(true[own, own])
        if own.stop < len(T) and not starts[i] and not starts[i + 1]:
            assert abs(E[i, i + 1] - true[i, i + 1]) <= 8 * EPS * turn * abs(true[i, i + 1])
        i = own.stop


GAPS = [0.0, 1e-300, 1e-12, 1e-3, 1.0, 30.0, 800.0]


@pytest.mark.parametrize("gap", [*GAPS, *(1j * gap for gap in GAPS[1:-1]), 1e-9 - 2e-9j, 50 + 3j])
@pytest.mark.parametrize("start", [0.0, -700.0, 600.0, 2j])
def test_divided_differences_have_no_cancellation_and_overflow_only_where_they_must(gap: complex, start: complex):
    first = torch.tensor([complex(start)], dtype=torch.complex128)
    second = first - gap
    x, y = acb(complex(first)), acb(complex(second))
    with ctx.workprec(4000):
        true = complex((x.exp() - y.exp()) / (x - y) if complex(first) != complex(second) else x.exp())
    for a, b in ((first, second), (second, first)):
        assert abs(complex(divided_difference(a, b)) - true) <= 8 * EPS * (1 + abs(np.imag(gap))) * abs(true)


def large_triangle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A graded one with entries of both signs, its z0 and times; larger than `propagator` has doubled precision for."""
    rng = generator("large triangle")
    n, signs = 66, np.sign(normal(rng, 66, 66))
    Xi = np.triu(signs * 10.0 ** rng.uniform(0, 4, (n, n)), 1) - np.diag(np.geomspace(1.0, 1e6, n))
    return Xi, normal(rng, n), np.array([0.3, 1.0, 4.0])


def error_of(method: str, Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> float:
    true = oracles.trajectory(Xi, z0, t)
    return norm(linode.LinearODE(Xi, z0, method=method)(t) - true) / norm(true)


def test_powers_of_a_schur_form_keep_the_digits_of_a_large_graded_triangle_that_plain_powers_lose():
    Xi, z0, t = large_triangle()
    order = generator("order").permutation(len(Xi))  # in which no entry has a closed form
    Xi, z0 = Xi[np.ix_(order, order)], z0[order]
    assert error_of("schur", Xi, z0, t) < 1e-13
    assert error_of("propagator", Xi, z0, t) > 100 * error_of("schur", Xi, z0, t)


@pytest.mark.parametrize("is_lower", [False, True])
def test_powers_of_a_triangular_step_keep_digits_without_a_schur_form(is_lower: bool):
    Xi, z0, t = large_triangle()
    assert error_of("propagator", np.ascontiguousarray(Xi.T) if is_lower else Xi, z0, t) < 1e-13


def test_only_systems_whose_schur_form_is_accurate_go_by_it():
    exact = triangle("permuted")
    stiff = rotated(generator("stiff"), direct_sum(jordan(2, -1.0), np.diag(-np.geomspace(1.0, 1e8, 5))))
    Xi, t = torch.tensor(np.stack([exact, stiff])), torch.tensor([[[0.5, 2.0]]] * 2, dtype=torch.float64)
    plan = Schur().plan(Xi)
    z = plan.evaluate(torch.ones(2, 1, 7, dtype=torch.float64), t)
    assert plan.details["passed"] == [True, False]
    for got, A in zip(z[:, 0].numpy(), (exact, stiff)):
        true = oracles.trajectory(A, np.ones(7), t[0, 0].numpy())
        assert norm(got - true) <= 1e-13 * norm(true)


# ---- balancing ---------------------------------------------------------------------------------------------


def badly_scaled(name: str) -> Tensor:
    rng = generator(name)
    scales = {"graded": 10.0 ** np.arange(-30, 30, 12), "huge": 10.0 ** np.array([-100, 0, 50, 100, 3])}
    A = normal(rng, 5, 5, is_complex=name == "complex")
    d = scales.get(name, 10.0 ** rng.integers(-12, 13, 5))
    A = A * d[:, None] / d
    if name == "reducible":
        A[3:, :3] = 0
    if name == "zero_row":
        A[2] = 0
    return torch.tensor(A)[None]


every_badly_scaled = pytest.mark.parametrize("name", ["random", "graded", "huge", "complex", "reducible", "zero_row"])


@every_badly_scaled
def test_balancing_is_an_exact_similarity_by_powers_of_two(name: str):
    A = badly_scaled(name)
    B, D = balance(A)
    assert torch.equal(torch.frexp(D).mantissa, torch.full_like(D, 0.5))
    assert torch.equal(B / D[:, None] * D[..., None], A)


@pytest.mark.parametrize("name", ["random", "graded", "huge", "complex"])
def test_rows_and_columns_of_a_balanced_matrix_are_alike(name: str):
    def worst_ratio(A: Tensor) -> float:
        size = A.abs()[0].fill_diagonal_(0)
        return float(torch.maximum(size.sum(0) / size.sum(1), size.sum(1) / size.sum(0)).max())

    A = badly_scaled(name)
    assert worst_ratio(A) > 1e3
    assert worst_ratio(balance(A)[0]) < 16  # entries are no larger than their cycles: rows and columns follow


def test_a_slightly_skewed_matrix_keeps_its_entries_alone_and_in_a_batch_with_one_that_is_not():
    slight = torch.tensor(normal(generator("slight"), 1, 5, 5)) * torch.tensor([4.0, 1, 1, 0.25, 1])[:, None]
    alone, _ = balance(slight)
    assert torch.equal(alone, slight)
    A = torch.cat([badly_scaled("random"), slight])
    B, D = balance(A)
    assert not torch.equal(B[0], A[0])
    assert torch.equal(B[1], A[1])
    assert torch.equal(D[1], torch.ones_like(D[1]))
