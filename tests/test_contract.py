"""What every method promises, on every hard case: all methods of the registry are walked, so a new one is tested too.

A method that may refuse a matrix (any but those in ALWAYS) either meets the bounds of `tests.accuracy` or raises
`MethodError` naming another method; one for matrices of one kind (SPECIAL) may refuse all others. Beside the cases, the
equations that define the gradients are tested on problems with many times: they need no oracle. With S = dL/dXi,
a = dL/dz0, g = dL/dz:
    Xi^H S - S Xi^H = a z0^H - sum_i g_i z_i^H       (fixes S but for what commutes with Xi^H),
    Re<S, E> = sum_i t_i Re<g_i, E z_i> for E = Xi^k   (fixes the rest: along E, exp(Xi t) moves by t E exp(Xi t)).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from linode import MethodError
from linode.methods import registry
from tests import oracles
from tests.accuracy import EPS, QUANTITIES, SPECIAL, Record, lines_of, linode_method, norm, relative_error, score
from tests.case_builders import generator, jordan, normal, real_jordan_pair, rotated
from tests.cases import CASES, Case

METHODS = sorted(registry())
ALWAYS = ("auto", "propagator", "schur")  # refuse nothing
SOLVED_AT_LEAST = 100  # cases: a method that refuses more is of no use
COMPONENTWISE_AT_LEAST = 300  # of 305, for the methods with a fallback to doubled precision
TOLERANCE = 30 * EPS  # of the equations, relative to their terms; 9 eps is the largest seen

every_method = pytest.mark.parametrize("method", METHODS)


@cache
def outcome(method: str, case: Case) -> Record | MethodError:
    """How a method fares on a case; anything raised but a refusal fails the test that asks."""
    try:
        answer = linode_method(method)(case)
    except MethodError as refusal:
        return refusal
    return score(case, *answer)


def names_an_alternative(refusal: MethodError, method: str) -> bool:
    return any(repr(name) in str(refusal) for name in registry() if name != method)


# ---- the hard cases ----------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_value_and_gradients_are_within_bounds_or_an_alternative_is_named(method: str, case: Case):
    got = outcome(method, case)
    if isinstance(got, MethodError):
        assert method not in ALWAYS
        assert names_an_alternative(got, method)
    else:
        assert got.passes_normwise, "\n".join(lines_of(got))


@every_method
def test_no_method_refuses_most_cases(method: str):
    assert sum(isinstance(outcome(method, case), Record) for case in CASES) >= SOLVED_AT_LEAST


@pytest.mark.parametrize("method", ["auto", "propagator"])
def test_nearly_all_cases_are_accurate_even_entry_by_entry(method: str):
    records = [outcome(method, case) for case in CASES]
    failing = [record for record in records if not record.passes_componentwise]
    report = "\n".join(line for record in failing for line in lines_of(record))
    assert len(CASES) - len(failing) >= COMPONENTWISE_AT_LEAST, report


# ---- many times ---------------------------------------------------------------------------------------------

MANY = ["overscaling_1e+08", "overscaling_triangle_8_100", "overscaling_complex", "robertson_late", "slow_manifold"]
MANY += ["stiff_1e+06_kappa100", "balance_1e8", "balance_complex", "jordan_6_long", "trefethen_transient", "kl_p655"]
MANY += ["defective_oscillator_long", "growth_1e277", "growth_defective", "decay_defective", "masses_lightly_damped"]
MANY += ["absorbing_6", "al_mohy_block", "double_integrator_2d", "augmented_unstable", "bateman_close_rates"]


@cache
def with_many_times(name: str) -> tuple[Case, np.ndarray, oracles.Gradients]:
    """60 times over the range of the case's own and a loss of relative errors, with the true z and gradients."""
    case = next(case for case in CASES if case.name == name)
    rng, size = generator(f"{name}/many"), np.abs(case.t[case.t != 0])
    t = np.concatenate([rng.uniform(case.t.min(), case.t.max(), 30), np.geomspace(size.min(), size.max(), 30)])
    z = oracles.trajectory(case.Xi, case.z0, t)
    g = normal(rng, *z.shape, is_complex=np.iscomplexobj(z)) / np.array([[norm(row)] for row in z])
    return replace(case, t=t, g=g), z, oracles.gradients(case.Xi, case.z0, t, g)


@every_method
@pytest.mark.parametrize("name", MANY)
def test_many_times_and_a_loss_that_weighs_them_alike_keep_the_bounds_of_the_case(method: str, name: str):
    case, z, gradients = with_many_times(name)
    bounds = outcome("auto", next(case for case in CASES if case.name == name)).normwise
    try:
        got = linode_method(method)(case)
    except MethodError:
        assert method not in ALWAYS
        return
    for q, x, true in zip(QUANTITIES, got, (z, *gradients)):
        assert relative_error(x, true, 1.0) <= bounds[q], q


# ---- the defining equations --------------------------------------------------------------------------------


def equation_problems() -> list[Case]:
    """Well-scaled problems with many times."""
    rng = generator("equations")
    upper = np.triu(normal(rng, 5, 5), 1)
    half = normal(rng, 8, 8)
    matrices = {  # matrix, number of times, first and last time
        "random": (normal(rng, 8, 8) / 3, 60, 0.0, 2.0),
        "random_dense_times": (normal(rng, 8, 8) / 3, 700, 0.0, 2.0),
        "random_complex": (normal(rng, 5, 5, is_complex=True) / 2, 60, -2.0, 2.0),
        "times_of_both_signs": (normal(rng, 6, 6) / 3, 60, -2.0, 2.0),
        "skew": ((half - half.T) / 4, 60, 0.0, 20.0),
        "symmetric_repeated": (rotated(rng, np.diag([-1.0, -1, -1, 0.5, 0.5, 0])), 60, 0.0, 3.0),
        "stable_long": (normal(rng, 6, 6) / 3 - 1.5 * np.eye(6), 60, 0.0, 20.0),
        "defective": (rotated(rng, jordan(5, -0.5)), 60, 0.0, 5.0),
        "defective_pairs": (rotated(rng, real_jordan_pair(3, -0.2, 2.0)), 60, 0.0, 5.0),
        "defective_nilpotent": (upper, 60, -1.0, 2.0),
    }
    problems = []
    rates = 10.0 ** rng.uniform(-2, 1, (6, 6)) * (1 - np.eye(6))
    matrices |= {  # without a negative entry off the diagonal
        "positive_compartments": (rates - np.diag(rates.sum(0) + rng.uniform(0, 1, 6)), 60, 0.0, 3.0),
        "positive_generator_dense_times": (rates - np.diag(rates.sum(0)), 700, 0.0, 2.0),
        "positive_generator_of_rows": ((rates - np.diag(rates.sum(0))).T, 60, 0.0, 2.0),
        "positive_growth": (np.abs(normal(rng, 5, 5)), 60, 0.0, 2.0),
        "defective_positive": (np.triu(np.abs(normal(rng, 5, 5)), 1), 60, 0.0, 2.0),
    }
    for name, (Xi, T, first, last) in matrices.items():
        z0, g = (normal(rng, *shape, is_complex=np.iscomplexobj(Xi)) for shape in ((len(Xi),), (T, len(Xi))))
        problems.append(Case(name, "equation", Xi, z0, rng.uniform(first, last, T), g, ""))
    return problems


EQUATION_PROBLEMS = equation_problems()
every_equation_problem = pytest.mark.parametrize("problem", EQUATION_PROBLEMS, ids=[p.name for p in EQUATION_PROBLEMS])


@cache
def answer(method: str, problem: Case) -> tuple[np.ndarray, ...] | None:
    """(z, S, a, dt), or None where a method that may refuse does so and Xi is defective, or not of its kind."""
    try:
        return linode_method(method)(problem)
    except MethodError:
        assert method not in ALWAYS
        assert problem.name.startswith("defective") or (method in SPECIAL and "positive" not in problem.name)
        return None


def commutator_residual(problem: Case, z: np.ndarray, S: np.ndarray, a: np.ndarray) -> float:
    """What is left of the commutator equation, relative to the sum of its terms' norms."""
    H, outer = problem.Xi.conj().T, np.outer(a, problem.z0.conj())
    residual = H @ S - S @ H - outer + problem.g.T @ z.conj()
    return norm(residual) / (2 * norm(H) * norm(S) + norm(outer) + sum(norm(p) * norm(q) for p, q in zip(problem.g, z)))


@every_method
@every_equation_problem
def test_gradient_solves_the_commutator_equation(method: str, problem: Case):
    if (got := answer(method, problem)) is None:
        return
    assert commutator_residual(problem, *got[:3]) <= TOLERANCE


@every_method
@every_equation_problem
def test_gradient_along_powers_of_Xi_is_that_of_moving_time(method: str, problem: Case):
    if (got := answer(method, problem)) is None:
        return
    z, S, _, _ = got
    E = np.eye(len(problem.Xi), dtype=problem.Xi.dtype)
    for _ in range(len(E)):
        for unit in (1, 1j) if np.iscomplexobj(E) else (1,):
            moved = (problem.g.conj() * (z @ (unit * E).T)).sum(1).real * problem.t
            size = norm(S) * norm(E) + np.abs(moved).sum()
            assert abs((S.conj() * unit * E).sum().real - moved.sum()) <= TOLERANCE * size
        E = E @ problem.Xi / norm(problem.Xi)


@every_method
@every_equation_problem
def test_gradients_in_z0_and_t_satisfy_their_definitions(method: str, problem: Case):
    if (got := answer(method, problem)) is None:
        return
    z, _, a, dt = got
    by_states = (problem.g.conj() * z).real
    assert abs((a.conj() * problem.z0).real.sum() - by_states.sum()) <= TOLERANCE * np.abs(by_states).sum()
    rates = problem.g.conj() * (z @ problem.Xi.T)
    assert np.all(np.abs(dt - rates.sum(1).real) <= TOLERANCE * np.abs(rates).sum(1).max())


def test_the_commutator_equation_shows_an_error_in_the_twelfth_digit():
    problem = EQUATION_PROBLEMS[0]
    z, S, a, _ = answer("auto", problem)
    wrong = S * (1 + 1e-12 * np.arange(len(S)))
    assert commutator_residual(problem, z, wrong, a) > TOLERANCE > commutator_residual(problem, z, S, a)
