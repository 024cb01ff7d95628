"""`LinearODE.condition` against ball arithmetic, and what `solve` makes of it: the error estimate and the status."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from linode import LinearODE, Solution, Status
from tests import oracles
from tests.accuracy import EPS, norm, truth_of
from tests.case_builders import generator, normal
from tests.cases import CASES, Case

BY_NAME = {case.name: case for case in CASES}
# every seventh case, and those whose states or gradients are so large or small that their squares leave the range
EXTREME = ["growth_1e277", "growth_defective", "growth_scalar_1e280", "decay_1e-300", "decay_defective"]
EXTREME += ["rotation_1e7", "times_huge_small_Xi", "random_6_times_100", "overscaling_1e17", "reducible_imbalance"]
CHOSEN = list(dict.fromkeys([*CASES[::7], *map(BY_NAME.__getitem__, EXTREME)]))
LOWEST, HIGHEST = 0.5, 1.05  # of the true condition number: a power iteration ends below, two digits are enough


def solver(case: Case, **options: object) -> LinearODE:
    return LinearODE(torch.tensor(case.Xi), torch.tensor(case.z0), **options)


@cache
def solved(case: Case) -> Solution:
    return solver(case).solve(torch.tensor(case.t))


# ---- size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_condition_is_that_of_ball_arithmetic(case: Case):
    """Beyond 1/eps no digit is sure, and it is enough to say so."""
    true = truth_of(case).condition.normwise
    got = float(solved(case).condition)
    assert LOWEST * min(true, 1 / EPS) <= got <= HIGHEST * true


@pytest.mark.parametrize("method", ["eig", "propagator", "schur"])
def test_condition_does_not_depend_on_the_method(method: str):
    case = BY_NAME["random_12"]
    got = float(solver(case, method=method).condition(torch.tensor(case.t)))
    assert got == pytest.approx(truth_of(case).condition.normwise, rel=0.05)


@pytest.mark.parametrize("exponent", [-600, -300, 300, 600])
def test_condition_does_not_depend_on_the_scale_of_z0(exponent: int):
    case = BY_NAME["random_12"]
    ode = LinearODE(torch.tensor(case.Xi), torch.tensor(case.z0 * 2.0**exponent))
    assert float(ode.condition(torch.tensor(case.t))) == pytest.approx(truth_of(case).condition.normwise, rel=0.05)


def test_a_change_of_Xi_moves_z_by_at_most_condition_times_its_size():
    case = BY_NAME["rotated_jordan_6"]
    condition = float(solver(case).condition(torch.tensor(case.t)))
    z, rng, moves = solver(case)(torch.tensor(case.t)).numpy(), generator("moves"), []
    for _ in range(50):
        E = normal(rng, *case.Xi.shape)
        moved = LinearODE(case.Xi + 1e-7 * norm(case.Xi) / norm(E) * E, case.z0)(case.t)
        moves.append(norm(moved - z) / norm(z) / 1e-7)
    assert 0.2 * condition < max(moves) < 1.05 * condition


# ---- where it is zero --------------------------------------------------------------------------------------


def test_condition_is_zero_where_nothing_depends_on_Xi():
    assert float(LinearODE(np.zeros((3, 3)), np.ones(3)).condition([1.0, 1e9])) == 0.0  # relative to Xi = 0
    assert float(LinearODE(np.eye(3), np.zeros(3)).condition([1.0, 2.0])) == 0.0
    assert float(LinearODE(np.eye(3), np.ones(3)).condition([0.0, 0.0])) == 0.0
    assert float(LinearODE(np.eye(3), np.ones(3)).condition([])) == 0.0


def test_states_that_are_exactly_zero_have_status_ok():
    solution = LinearODE(BY_NAME["random_12"].Xi, np.zeros(12)).solve([1.0, 2.0])
    assert solution.status is Status.OK
    assert solution.error_estimate == 0.0


# ---- batches -----------------------------------------------------------------------------------------------


def test_condition_of_a_batch_is_that_of_each_element():
    rng = generator("condition batch")
    Xi, z0 = normal(rng, 3, 1, 4, 4), normal(rng, 2, 4)
    t = rng.uniform(0, 2, (3, 2, 5))
    got = LinearODE(Xi, z0).condition(t)
    assert got.shape == (3, 2)
    for i, j in np.ndindex(3, 2):
        true = oracles.condition(Xi[i, 0], z0[j], t[i, j]).normwise
        assert LOWEST * true <= got[i, j] <= HIGHEST * true


@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 0, 3)])
def test_condition_and_error_estimate_have_the_shape_of_the_batch(batch: tuple[int, ...]):
    solution = LinearODE(np.eye(2), np.ones((*batch, 2))).solve([1.0, 2.0])
    assert solution.condition.shape == solution.error_estimate.shape == batch


# ---- error estimate and status -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_the_error_estimate_is_condition_times_half_the_eps_of_the_dtype(dtype: torch.dtype):
    case = BY_NAME["random_6_times_1"]
    Xi, z0, t = torch.tensor(case.Xi, dtype=dtype), torch.tensor(case.z0, dtype=dtype), torch.tensor(case.t)
    solution = LinearODE(Xi, z0).solve(t)
    ratio = solution.error_estimate / solution.condition
    assert float(ratio) == pytest.approx(torch.finfo(dtype).eps / 2, rel=1e-6)
    assert float(solution.condition) == pytest.approx(truth_of(case).condition.normwise, rel=0.05)


def test_the_error_of_a_matrix_rounded_to_float32_is_near_its_estimate():
    case = BY_NAME["random_6_times_1"]
    Xi, z0 = torch.tensor(case.Xi, dtype=torch.float32), torch.tensor(case.z0, dtype=torch.float32)
    estimate = float(LinearODE(Xi, z0).solve(torch.tensor(case.t)).error_estimate)
    exact, of_rounded = (oracles.trajectory(A, z0.numpy(), case.t) for A in (case.Xi, Xi.numpy()))
    assert 0.01 * estimate < norm(of_rounded - exact) / norm(exact) < 2 * estimate


@pytest.mark.parametrize("name", ["overscaling_1e17", "davies_higham_triw", "balance_1e16"])
def test_a_problem_without_a_sure_digit_is_ill_conditioned_in_words(name: str):
    solution = solved(BY_NAME[name])
    assert solution.status is Status.ILL_CONDITIONED
    assert not solution.status
    assert float(solution.error_estimate) > 0.1
    assert "units" in str(solution.status)


def test_the_same_problem_is_ill_conditioned_in_float32_and_fine_in_float64():
    case = BY_NAME["rotation_1e7"]
    assert solved(case).status is Status.OK
    single = LinearODE(torch.tensor(case.Xi, dtype=torch.float32), torch.tensor(case.z0, dtype=torch.float32))
    assert single.solve(torch.tensor(case.t)).status is Status.ILL_CONDITIONED


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_a_problem_is_ok_exactly_where_its_digits_are_sure(case: Case):
    error = truth_of(case).condition.normwise * EPS / 2
    if not 0.02 < error < 0.5:  # near the limit of 0.1, an estimate may fall on either side
        assert bool(solved(case).status) == (error < 0.1)


def test_explain_prints_condition_and_error_estimate():
    case = BY_NAME["random_12"]
    solution, text = solved(case), solver(case).explain(torch.tensor(case.t))
    assert f"condition: {float(solution.condition):.3g}" in text
    assert f"error estimate: {float(solution.error_estimate):.3g}" in text
    assert "status: OK" in text
