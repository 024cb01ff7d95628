"""`LinearODE.condition` against ball arithmetic; error estimate and status of `solve` against the error made."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import numpy as np
import pytest
import torch

from linode import LinearODE, Solution, Status, ZeroOrderHold
from linode.engine.checking import Compare, compared, relative_error
from linode.kernels import wide
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
def test_the_error_estimate_is_that_of_the_answer_in_its_dtype(dtype: torch.dtype):
    case = BY_NAME["random_6_times_1"]
    Xi, z0, t = torch.tensor(case.Xi, dtype=dtype), torch.tensor(case.z0, dtype=dtype), torch.tensor(case.t)
    solution = LinearODE(Xi, z0).solve(t)
    true = oracles.trajectory(Xi.numpy(), z0.numpy(), case.t)
    error = norm(solution.z.numpy().astype(true.dtype) - true) / norm(true)
    assert error <= float(solution.error_estimate) <= 100 * max(error, torch.finfo(dtype).eps / 2)
    assert solution.status is Status.OK
    assert float(solution.condition) == pytest.approx(truth_of(case).condition.normwise, rel=0.05)


def test_the_condition_number_says_what_the_rounding_of_a_matrix_does():
    case = BY_NAME["random_6_times_1"]
    Xi, z0 = torch.tensor(case.Xi, dtype=torch.float32), torch.tensor(case.z0, dtype=torch.float32)
    solution = LinearODE(Xi, z0).solve(torch.tensor(case.t))
    expected = float(solution.condition) * torch.finfo(torch.float32).eps / 2
    exact, of_rounded = (oracles.trajectory(A, z0.numpy(), case.t) for A in (case.Xi, Xi.numpy()))
    assert 0.01 * expected < norm(of_rounded - exact) / norm(exact) < 2 * expected


@pytest.mark.parametrize("method", ["eig"])
def test_an_answer_whose_leading_digits_are_lost_is_ill_conditioned_in_words(method: str):
    """1.25 * 0.8 is not exactly 1, so the frequency is rounded, and 1e17 periods later nothing is left."""
    Xi, z0, t = np.array([[0.0, 1.25], [-0.8, 0.0]]), np.array([1.0, 0.0]), np.array([1e17])
    solution = LinearODE(Xi, z0, method=method).solve(t)
    error = norm(solution.z - oracles.trajectory(Xi, z0, t)) / norm(solution.z)
    assert error > 0.1
    assert solution.status is Status.ILL_CONDITIONED
    assert not solution.status
    assert error / 2 < float(solution.error_estimate) < 100 * error
    assert "units" in str(solution.status)


@pytest.mark.parametrize("name", ["overscaling_1e17", "davies_higham_triw", "balance_1e16"])
def test_a_right_answer_to_an_ill_conditioned_problem_is_ok(name: str):
    solution = solved(BY_NAME[name])
    assert float(solution.condition) > 0.1 / EPS
    assert solution.status is Status.OK


def test_the_rounding_of_data_to_float32_is_no_error_of_the_answer():
    case = BY_NAME["rotation_1e7"]
    single = LinearODE(torch.tensor(case.Xi, dtype=torch.float32), torch.tensor(case.z0, dtype=torch.float32))
    solution = single.solve(torch.tensor(case.t))
    assert solution.status is Status.OK
    assert float(solution.condition) > 1e6


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_estimate_and_status_are_those_of_the_error_made(case: Case):
    solution, true = solved(case), truth_of(case).z
    error = norm(solution.z.numpy() - true) / norm(true) if norm(true) else 0.0
    slack = 0.0 if wide.is_in_use() else 1e-13  # what is compared with has double precision then
    assert error - slack <= float(solution.error_estimate) <= 100 * max(error, EPS / 2) + slack
    assert bool(solution.status) == (error < 1e-7)


# ---- when it is computed -----------------------------------------------------------------------------------


def test_the_condition_number_is_that_of_the_problem_that_was_solved():
    """It is computed when asked for; Xi, z0 and t may have been changed in place by then."""
    case = BY_NAME["random_6_times_1"]
    Xi, z0, t = torch.tensor(case.Xi), torch.tensor(case.z0), torch.tensor(case.t)
    solution = LinearODE(Xi, z0).solve(t)
    for x in (Xi, z0, t):
        x.mul_(3.0)
    assert float(solution.condition) == pytest.approx(truth_of(case).condition.normwise, rel=0.05)


def test_a_solution_survives_copies_with_its_condition_number():
    solution = LinearODE([[-1.0, 0.5], [0.0, -2.0]], [1.0, 1.0], b=[1.0, 0.0]).solve([0.0, 1.0])
    for other in (pickle.loads(pickle.dumps(solution)), copy.deepcopy(solution)):
        assert float(other.condition) == float(solution.condition)
        assert other.stats == solution.stats
        assert np.array_equal(other.z, solution.z)


def test_a_deep_copy_of_a_solution_with_gradients_is_detached_and_a_copy_is_not():
    Xi = torch.tensor([[-1.0, 0.5], [0.0, -2.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    for n_systems in (None, 3):  # one system; a batch of them
        systems = Xi if n_systems is None else Xi.expand(n_systems, 2, 2) * 1.0
        solution = LinearODE(systems, torch.ones(2, dtype=torch.float64)).solve(t)
        for other in (copy.deepcopy(solution), pickle.loads(pickle.dumps(solution))):
            assert torch.equal(other.z, solution.z)
            assert torch.equal(other.condition, solution.condition)
            assert not any(x.requires_grad for x in (other.z, other.t, other.error_estimate))
            assert other.z.data_ptr() != solution.z.data_ptr()
        same = copy.copy(solution)
        assert same.z is solution.z
        assert same.status is solution.status
        (gradient,) = torch.autograd.grad(same.z.sum(), Xi)
        assert bool((gradient != 0).any())


def test_the_condition_of_a_forced_system_is_that_of_its_samples_then():
    values = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    u = ZeroOrderHold(torch.tensor([0.0, 0.5], dtype=torch.float64), values)
    Xi, z0 = torch.tensor([[-1.0, 0.5], [0.2, -2.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    ode = LinearODE(Xi, z0, B=torch.ones(2, 1, dtype=torch.float64), u=u)
    t = torch.tensor([1.0], dtype=torch.float64)
    solution, expected = ode.solve(t), float(ode.condition(t))
    values.copy_(torch.tensor([[1.0], [-1.5]]))
    assert float(solution.condition) == expected != float(ode.condition(t))


# ---- whatever the sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [720.0, 800.0, 1e4])
@pytest.mark.parametrize("method", ["auto", "eig", "propagator", "schur"])
def test_a_finite_trajectory_whose_derivative_overflows_has_an_infinite_condition(method: str, t: float):
    ode = LinearODE([[1, 0], [0, -1]], [0, 1], method=method)
    solution, text = ode.solve([t]), ode.explain([t])
    assert solution.z[0, 0] == 0
    assert abs(solution.z[0, 1] - np.exp(-t)) < np.finfo(float).tiny
    assert solution.status is Status.OK
    assert float(solution.error_estimate) < 1e-9
    assert np.isinf(solution.condition)
    assert np.isinf(ode.condition([t]))
    assert "status: OK" in text


@pytest.mark.parametrize("coupling", [1e9, 1e12, 1e21, 1e30])
def test_the_condition_of_a_strong_coupling_is_that_of_ball_arithmetic(coupling: float):
    Xi, z0, t = np.array([[-1.0, coupling], [0.0, -2.0]]), np.ones(2), np.array([1.0])
    true = oracles.condition(Xi, z0, t).normwise
    assert LOWEST * min(true, 1 / EPS) <= float(LinearODE(Xi, z0).condition(t)) <= HIGHEST * true


def test_zeros_in_place_of_states_are_an_error():
    errors = relative_error(
        torch.zeros(1, 2, dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        [compared(lambda t: torch.ones(1, 2, dtype=torch.float64))],
    )
    assert errors[0] >= 1


def test_two_answers_that_agree_are_enough_and_the_first_is_the_cheap_one():
    asked: list[str] = []

    def answer(name: str, value: float) -> Compare:
        return compared(lambda t: (asked.append(name), torch.full((1, 2), value, dtype=torch.float64))[1])

    z, t = torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert relative_error(z, t, [answer("cheap", 1.0), answer("dear", 1.0)])[0] < 1e-15
    assert asked == ["cheap"]
    assert relative_error(z, t, [answer("poor", 1.1), answer("dear", 1.0)])[0] < 1e-15
    assert asked == ["cheap", "poor", "dear"]


def test_of_many_times_some_are_compared():
    times = []
    z, t = torch.rand(500, 2, dtype=torch.float64), torch.linspace(0, 1, 500, dtype=torch.float64)
    relative_error(z, t, [compared(lambda s: (times.append(s), torch.ones(len(s), 2, dtype=torch.float64))[1])])
    assert len(times[0]) <= 8
    assert {0.0, 1.0, float(t[z.amax(-1).argmax()])} <= set(times[0].tolist())


def test_explain_prints_condition_and_error_estimate():
    case = BY_NAME["random_12"]
    solution, text = solved(case), solver(case).explain(torch.tensor(case.t))
    assert f"condition: {float(solution.condition):.3g}" in text
    assert f"error estimate: {float(solution.error_estimate):.3g}" in text
    assert "status: OK" in text
