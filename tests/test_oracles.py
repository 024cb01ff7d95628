"""The oracles against closed forms, defining identities, and mpmath; the cases; and the scoring.

Identities hold up to the rounding of oracle values to float64: tolerances are a few eps times the terms.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from tests import oracles
from tests.accuracy import EPS, QUANTITIES, norm, score, truth_of
from tests.case_builders import jordan
from tests.cases import CASES, Case
from tests.cases_degenerate import degenerate_cases
from tests.cases_scales import scale_cases

IDS = [case.name for case in CASES]
every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


def random_problem(n: int, T: int, *, is_complex: bool) -> Case:
    rng = np.random.default_rng(n + 10 * T)
    parts = [rng.standard_normal((2, *shape)) for shape in ((n, n), (n,), (T, n))]
    Xi, z0, g = ((x + 1j * y) if is_complex else x for x, y in parts)
    return Case("random", "random", Xi, z0, rng.uniform(-1, 2, T), g, "")


# ---- closed forms ------------------------------------------------------------------------------------------


def test_scalar_exponential_is_correctly_rounded():
    x, z0, times = -3.7, 1.3, [0.0, 1e-12, 0.3, 5.0, 150.0, -2.0]
    with mpmath.workdps(60):
        expected = [float(mpmath.exp(mpmath.mpf(x) * t) * z0) for t in times]
    z = oracles.trajectory(np.array([[x]]), np.array([z0]), np.array(times))
    assert z[:, 0].tolist() == expected


def test_rotation_after_a_million_radians_is_cosine_and_sine():
    with mpmath.workdps(60):
        expected = [float(mpmath.cos(1e6)), -float(mpmath.sin(1e6))]
    z = oracles.trajectory(np.array([[0.0, 1], [-1, 0]]), np.array([1.0, 0]), np.array([1e6]))
    assert z[0].tolist() == expected


def test_jordan_block_gives_powers_of_t_over_factorials():
    n, x, t = 6, -0.5, 3.0
    with mpmath.workdps(60):
        row = [float(mpmath.exp(x * t) * mpmath.mpf(t) ** k / mpmath.factorial(k)) for k in range(n)]
    assert oracles.propagator(jordan(n, x), np.array([t]))[0, 0].tolist() == row


def test_precision_rises_until_a_decaying_mode_shows_beneath_a_constant_one():
    Xi = np.array([[0.0, -600], [0, -600]])  # eigenvector (1, 1) at -600, (1, 0) at 0
    z = oracles.trajectory(Xi, np.ones(2), np.ones(1))
    assert z[0].tolist() == [math.exp(-600)] * 2


def test_expm_is_the_propagator_at_one():
    A = random_problem(4, 1, is_complex=True).Xi
    assert np.array_equal(oracles.expm(A), oracles.propagator(A, np.array([1.0]))[0])


def test_float32_entries_are_taken_exactly():
    Xi = random_problem(3, 1, is_complex=False).Xi.astype(np.float32)
    assert np.array_equal(oracles.expm(Xi), oracles.expm(Xi.astype(float)))


def test_changing_a_result_does_not_change_the_cache():
    A = np.diag([1.0, 2.0])
    oracles.expm(A)[:] = 7.0
    assert oracles.expm(A)[0, 0] == math.exp(1.0)


# ---- identities --------------------------------------------------------------------------------------------


@every_case
def test_gradient_solves_the_commutator_equation(case: Case):
    truth = truth_of(case)
    S, a, _ = truth.gradients
    H = case.Xi.conj().T
    residual = H @ S - S @ H - np.outer(a, case.z0.conj()) + case.g.T @ truth.z.conj()
    sizes = 2 * norm(H) * norm(S) + norm(a) * norm(case.z0)
    sizes += sum(norm(p) * norm(q) for p, q in zip(case.g, truth.z))
    assert norm(residual) <= 4 * len(H) * EPS * sizes


@every_case
def test_scaling_Xi_is_scaling_time(case: Case):
    S, _, dt = truth_of(case).gradients
    by_time, by_matrix = case.t * dt, (S.conj() * case.Xi).real.ravel()
    sizes = np.abs(by_time).sum() + norm(S) * norm(case.Xi)
    assert abs(math.fsum(by_time) - math.fsum(by_matrix)) <= 4 * EPS * sizes + 1e-300  # 1e-300: products underflow


@every_case
def test_loss_is_linear_in_z0(case: Case):
    truth = truth_of(case)
    by_start, by_states = (truth.gradients.a.conj() * case.z0).real, (case.g.conj() * truth.z).real.ravel()
    sizes = norm(truth.gradients.a) * norm(case.z0) + np.abs(by_states).sum()
    assert abs(math.fsum(by_start) - math.fsum(by_states)) <= 4 * EPS * sizes + 1e-300


@every_case
def test_truth_is_finite(case: Case):
    truth = truth_of(case)
    values = [
        truth.z,
        *truth.gradients,
        truth.condition.normwise_per_time,
        *truth.gradient_condition.normwise,
    ]
    values += [truth.condition.componentwise, *truth.gradient_condition.componentwise]
    assert all(np.isfinite(value).all() for value in values)


# ---- mpmath ------------------------------------------------------------------------------------------------


def mpmath_loss(Xi: mpmath.matrix, z0: mpmath.matrix, t: list, g: np.ndarray) -> mpmath.mpf:
    states = [mpmath.expm(Xi * s, method="taylor") * z0 for s in t]
    return mpmath.fsum(mpmath.re(mpmath.conj(c) * x) for row, z in zip(g, states) for c, x in zip(row, z))


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradients_equal_central_differences_in_sixty_digits(is_complex: bool):
    case = random_problem(3, 2, is_complex=is_complex)
    truth = oracles.gradients(case.Xi, case.z0, case.t, case.g)
    with mpmath.workdps(60):
        Xi, z0 = mpmath.matrix(case.Xi.tolist()), mpmath.matrix(case.z0.tolist())
        t = [mpmath.mpf(s) for s in case.t]
        g = [[mpmath.mpmathify(x) for x in row] for row in case.g.tolist()]
        h = mpmath.mpf(10) ** -20

        def slope(target: mpmath.matrix | list, index: tuple[int, int] | int, unit: complex) -> float:
            start, losses = target[index], []
            for sign in (1, -1):
                target[index] = start + sign * h * unit
                losses.append(mpmath_loss(Xi, z0, t, g))
            target[index] = start
            return float((losses[0] - losses[1]) / (2 * h))

        for unit, part in ((1, np.real), (1j, np.imag))[: 1 + is_complex]:
            for i, j in np.ndindex(3, 3):
                assert slope(Xi, (i, j), unit) == pytest.approx(part(truth.S)[i, j], rel=1e-14)
            for i in range(3):
                assert slope(z0, i, unit) == pytest.approx(part(truth.a)[i], rel=1e-14)
        for i in range(2):
            assert slope(t, i, 1) == pytest.approx(truth.dt[i], rel=1e-14)


# ---- condition numbers -------------------------------------------------------------------------------------


def test_condition_of_a_scalar_is_x_t():
    x, t = -3.0, np.array([0.5, 2.0])
    got = oracles.condition(np.array([[x]]), np.array([2.0]), t)
    assert got.normwise_per_time == pytest.approx(abs(x) * t, rel=1e-3)
    assert got.componentwise_per_time == pytest.approx(abs(x) * t, rel=1e-3)


def test_gradient_condition_of_a_scalar_is_x_t_and_for_dt_one_more():
    x, t = 2.0, 3.0
    got = oracles.condition_of_gradients(np.array([[x]]), np.array([2.0]), np.array([t]), np.array([[1.0]]))
    for condition in (got.normwise, got.componentwise):
        assert condition == pytest.approx((x * t, x * t, 1 + x * t), rel=1e-3)


@pytest.mark.parametrize("is_complex", [False, True])
def test_condition_equals_that_of_the_jacobian_built_from_gradients(is_complex: bool):
    case = random_problem(4, 3, is_complex=is_complex)
    n, T = 4, 3
    J = np.zeros((T, n, n * n), case.Xi.dtype)
    for i, k in np.ndindex(T, n):
        e = np.zeros((1, n), case.Xi.dtype)
        e[0, k] = 1.0
        J[i, k] = oracles.gradients(case.Xi, case.z0, case.t[i : i + 1], e).S.conj().ravel()
    z, flat = oracles.trajectory(case.Xi, case.z0, case.t), J.reshape(T * n, n * n)
    got = oracles.condition(case.Xi, case.z0, case.t)
    size = np.linalg.norm(case.Xi)
    assert got.normwise == pytest.approx(size * np.linalg.norm(flat, 2) / np.linalg.norm(z), rel=1e-3)
    response = np.abs(J) @ np.abs(case.Xi).ravel()
    assert got.componentwise == pytest.approx(np.linalg.norm(response) / np.linalg.norm(z), rel=1e-3)
    per_time = [size * np.linalg.norm(J[i], 2) / np.linalg.norm(z[i]) for i in range(T)]
    assert got.normwise_per_time == pytest.approx(per_time, rel=1e-3)


# ---- cases and scores --------------------------------------------------------------------------------------


def test_there_are_at_least_140_cases_with_distinct_names():
    assert len(CASES) >= 140
    assert len(set(IDS)) == len(CASES)


def test_cases_are_the_same_each_time_they_are_built():
    stored = {case.name: case for case in CASES}
    for case in (*degenerate_cases(), *scale_cases()):
        for field in ("Xi", "z0", "t", "g"):
            assert np.array_equal(getattr(case, field), getattr(stored[case.name], field)), case.name


@every_case
def test_true_answer_scores_as_exact(case: Case):
    truth = truth_of(case)
    record = score(case, truth.z, *truth.gradients)
    assert record.passes_normwise
    assert record.passes_componentwise


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("spoiled", [1 + 1e-9, np.nan])
def test_one_wrong_quantity_fails_the_case(quantity: str, spoiled: float):
    case = next(case for case in CASES if case.name == "rotated_jordan_4")
    truth = truth_of(case)
    answer = dict(zip(QUANTITIES, (truth.z, *truth.gradients)))
    answer[quantity] = answer[quantity] * spoiled
    record = score(case, **answer)
    assert not record.passes_normwise
    assert not record.passes_componentwise
