"""Taylor polynomials acting on vectors: truth beyond the sizes of the contract, counts of products, when chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from linode import LinearODE, MethodError
from linode.kernels.action import MAX_TERMS, Growth
from linode.kernels.dense import Padded, Runs, group
from linode.methods import Auto, Workload, registry, taylor
from tests import oracles
from tests.accuracy import EPS, norm, relative_error
from tests.case_builders import generator, jordan, normal

LARGE = taylor.EXTENDED_MAX_N + 2  # from here on no rounding is measured, as in `propagator`
TIMES = np.array([2.5, 0.0, -1.25, 4.0, 2.5, 3e-7])  # in no order, one of them twice


def random_matrix(n: int, is_complex: bool = False) -> np.ndarray:
    """Eigenvalues in a disc of radius 1 around -1.5."""
    return normal(generator(f"taylor {n}"), n, n, is_complex=is_complex) / np.sqrt(n) - 1.5 * np.eye(n)


def vectors(Xi: np.ndarray, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = generator(f"taylor vectors {len(Xi)}")
    return [normal(rng, *shape, is_complex=np.iscomplexobj(Xi)) for shape in shapes]


def step(Xi: Any, z0: Any, t: Any, g: Any, method: Any = "taylor") -> tuple[np.ndarray, ...]:
    """z and the gradients of Re <g, z> with respect to Xi, z0 and t."""
    leaves = [torch.tensor(x, requires_grad=True) for x in (Xi, z0, t)]
    z = LinearODE(*leaves[:2], method=method)(leaves[2])
    return tuple(x.detach().resolve_conj().numpy() for x in (z, *torch.autograd.grad(z, leaves, torch.tensor(g))))


def work_of(Xi: np.ndarray, n_times: int, t_max: float) -> Workload:
    return Workload(1, 1, n_times, len(Xi), float(np.abs(Xi).sum(0).max()), t_max)


# ---- truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_complex", [False, True])
def test_large_systems_have_the_states_and_gradients_of_ball_arithmetic(is_complex: bool):
    Xi = random_matrix(LARGE, is_complex)
    t = TIMES[:3] if is_complex else TIMES
    z0, g = vectors(Xi, (LARGE,), (len(t), LARGE))
    z, *gradients = step(Xi, z0, t, g)
    assert relative_error(z, oracles.trajectory(Xi, z0, t), 1.0) < 1e-14
    for got, true in zip(gradients, oracles.gradients(Xi, z0, t, g)):
        assert relative_error(got, true, 1.0) < 1e-13


def test_a_large_nilpotent_matrix_has_its_gradient_though_its_series_ends_early():
    Xi = np.kron(np.eye(LARGE // 2), [[0.0, 1.0], [0.0, 0.0]])  # Xi^2 = 0
    z0, g = vectors(Xi, (LARGE,), (3, LARGE))
    t = np.array([0.5, 1.0, 6.0])
    _, S, *_ = step(Xi, z0, t, g)
    assert relative_error(S, oracles.gradients(Xi, z0, t, g).S, 1.0) < 1e-14


def test_a_large_badly_scaled_matrix_has_its_gradients():
    rng = generator("taylor badly scaled")
    D = 10.0 ** rng.uniform(-5, 5, LARGE)
    Xi = random_matrix(LARGE) * D[:, None] / D
    z0, g = D * normal(rng, LARGE), normal(rng, 2, LARGE) / D
    t = np.array([0.5, 2.0])
    z, *gradients = step(Xi, z0, t, g)
    assert relative_error(z / D, oracles.trajectory(Xi, z0, t) / D, 1.0) < 1e-13
    true = oracles.gradients(Xi, z0, t, g)
    assert relative_error(gradients[0] * D[:, None] / D, true.S * D[:, None] / D, 1.0) < 1e-12
    assert relative_error(gradients[1] * D, true.a * D, 1.0) < 1e-12


def test_many_sorted_times_solve_the_commutator_equation():
    Xi = random_matrix(150)
    z0, g = vectors(Xi, (150,), (900, 150))
    z, S, a, _ = step(Xi, z0, np.sort(generator("taylor times").uniform(0, 10, 900)), g)
    terms = (Xi.T @ S, S @ Xi.T, np.outer(a, z0), g.T @ z)
    residual = terms[0] - terms[1] - terms[2] + terms[3]
    assert norm(residual) <= 30 * EPS * sum(map(norm, terms))


def test_derivatives_are_those_of_finite_differences():
    Xi, t = random_matrix(5), torch.tensor([0.3, -0.7, 1.9], dtype=torch.float64, requires_grad=True)
    (z0,) = vectors(Xi, (5,))
    leaves = [torch.tensor(x, requires_grad=True) for x in (Xi, z0)]
    solve = lambda Xi, z0, t: LinearODE(Xi, z0, method="taylor")(t)  # noqa: E731
    assert torch.autograd.gradcheck(solve, (*leaves, t))
    assert torch.autograd.gradgradcheck(solve, (*leaves, t))


@pytest.mark.parametrize("own_times", [False, True])
def test_a_batch_of_systems_and_trajectories_is_each_alone(own_times: bool):
    rng = generator("taylor batch")
    Xi = np.stack([random_matrix(70), 2 * random_matrix(71)[:70, :70]])[:, None]
    z0, t = normal(rng, 2, 3, 70), rng.uniform(-2, 4, (2, 3, 40) if own_times else 40)
    g = normal(rng, 2, 3, 40, 70)
    z, S, a, dt = step(Xi, z0, t, g)
    alone = [[step(Xi[s, 0], z0[s, r], t[s, r] if own_times else t, g[s, r]) for r in range(3)] for s in range(2)]
    assert relative_error(z, np.stack([[x[0] for x in row] for row in alone]), 1.0) < 1e-13
    assert relative_error(S[:, 0], np.stack([sum(x[1] for x in row) for row in alone]), 1.0) < 1e-13
    assert relative_error(a, np.stack([[x[2] for x in row] for row in alone]), 1.0) < 1e-13
    times = np.stack([[x[3] for x in row] for row in alone])
    assert relative_error(dt, times if own_times else times.sum((0, 1)), 1.0) < 1e-13


def test_trajectories_in_parts_are_those_laid_out_at_once(monkeypatch: pytest.MonkeyPatch):
    Xi = random_matrix(70)
    z0, g = vectors(Xi, (7, 70), (7, 30, 70))
    t = generator("taylor parts").uniform(-1, 3, 30)
    whole = step(Xi, z0, t, g)
    monkeypatch.setattr(taylor, "MOST_ENTRIES", 20_000)
    for got, expected in zip(step(Xi, z0, t, g), whole):
        assert relative_error(got, expected, 1.0) < 1e-14


# ---- counts, refusal and choice -----------------------------------------------------------------------------


def test_a_training_step_needs_as_many_products_backward_as_forward():
    Xi = torch.tensor(random_matrix(200), requires_grad=True)
    t = torch.linspace(0, 10, 500, dtype=torch.float64)
    ode = LinearODE(Xi, torch.ones(200, dtype=torch.float64), method="taylor")
    z = ode(t)
    forward = ode.decomposition.details["n_products"]
    assert 100 < forward < 260  # 10 units of time, powers of radius 1: from 6 steps of 30 terms to 11 of 23
    z.sum().backward()
    assert ode.decomposition.details["n_products"] == 2 * forward
    ode(t)
    assert ode.decomposition.details["n_products"] == 2 * forward


@pytest.mark.parametrize("is_complex", [False, True])
def test_single_precision_needs_fewer_products_and_does_not_reach_what_is_wider(is_complex: bool):
    Xi = torch.tensor(random_matrix(LARGE, is_complex))
    single = torch.complex64 if is_complex else torch.float32
    z0, t = torch.ones(LARGE, dtype=Xi.dtype), torch.linspace(0, 10, 2000, dtype=torch.float64)  # many states
    odes = [LinearODE(Xi.to(dtype), z0.to(dtype), method="taylor") for dtype in (single, Xi.dtype)]
    few, many = ([ode(t), ode.decomposition.details["n_products"]] for ode in odes)
    assert few[1] < 0.8 * many[1]
    solution = odes[0].solve(t)  # its condition number is of trajectories in double precision with the same plan
    assert torch.equal(solution.z, few[0])
    assert float(solution.condition) == pytest.approx(float(odes[1].solve(t).condition), rel=1e-3)


@pytest.mark.parametrize("n_times", [10, 200, 201, 5000])
def test_the_number_of_products_depends_on_the_last_time_only(n_times: int):
    ode = LinearODE(random_matrix(70), np.ones(70), method="taylor")
    ode(np.linspace(0, 5, n_times))
    few = LinearODE(random_matrix(70), np.ones(70), method="taylor")
    few([5.0])
    assert ode.decomposition.details["n_products"] == few.decomposition.details["n_products"]


def test_a_long_span_is_refused_with_its_number_of_products():
    with pytest.raises(MethodError, match=r"products of Xi with a vector .* more than .*'propagator'"):
        LinearODE(1e3 * random_matrix(70), np.ones(70), method="taylor")([100.0])


def test_a_plan_made_for_short_times_is_right_at_long_ones_too():
    Xi = random_matrix(6)
    ode = LinearODE(Xi, np.ones(6), method="taylor")
    ode([1.0])
    assert relative_error(ode([1e4, 2.0]), oracles.trajectory(Xi, np.ones(6), np.array([1e4, 2.0])), 1.0) < 1e-14


def test_auto_takes_it_for_a_large_system_and_powers_of_a_step_for_a_long_span():
    Xi = random_matrix(256)
    plan = Auto().plan(torch.tensor(Xi)[None], None, work_of(Xi, 1000, 10.0))
    assert plan.method == "taylor"
    assert "taylor" not in Auto().plan(torch.tensor(Xi)[None], None, work_of(Xi, 1000, 1e6)).method


@pytest.mark.parametrize("T", [1, 1000])
def test_small_systems_are_left_to_other_methods(T: int):
    costs = {name: registry()[name]().cost(work_of(random_matrix(6), T, 10.0)) for name in Auto().names}
    assert costs["taylor"] > costs["propagator"] > costs["eig"]


# ---- growth of powers, groups of times ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "rank_one", "jordan", "tiny", "huge"])
def test_norms_of_powers_are_not_missed_by_more_than_the_safety_allows(name: str):
    n = 40
    rng = generator("growth")
    A = {
        "random": random_matrix(n),
        "rank_one": np.outer(np.eye(n)[0], rng.standard_normal(n)),
        "jordan": jordan(n, 0.01),
        "tiny": 1e-50 * random_matrix(n),
        "huge": 1e7 * random_matrix(n),
    }[name]
    growth = Growth.of(torch.tensor(A)[None], torch.ones(1, n))
    estimate = np.exp(growth.frobenius[0].numpy())
    for j in range(1, min(MAX_TERMS, 30)):
        true = norm(np.linalg.matrix_power(A, j))
        assert estimate[j] >= 0.01 * true
        assert estimate[j] <= 5 * true or true < 1e-290
    radius, roots = (np.abs(np.linalg.eigvals(A)).max(), [_two_norm(A, p) ** (1 / p) for p in (4, 5)])
    assert 0.7 * radius <= float(growth.rate[0].exp()) <= (1 + 1e-9) * max(roots)


def _two_norm(A: np.ndarray, p: int) -> float:
    size = norm(A)
    return size**p * np.linalg.norm(np.linalg.matrix_power(A / size, p), 2) if p * np.log10(size) < 300 else np.inf


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("order", ["ascending", "any"])
def test_both_groupings_follow_their_definition(order: str, is_complex: bool):
    rng = generator(f"groups {order}")
    S, R, N, m, n, T = 2, 3, 4, 5, 6, 50
    k = rng.choice([0, 1, 3], (S, R, T))  # no time at node 2
    k = torch.tensor(np.sort(k, -1) if order == "ascending" else k)
    C, W, g = (
        torch.tensor(normal(rng, *x, is_complex=is_complex)) for x in ((S, R, T, m), (S, R, N, m, n), (S, R, T, n))
    )
    own = torch.nn.functional.one_hot(k, N).to(C.dtype)
    z = torch.einsum("srtm,srtk,srkmn->srtn", C, own, W)
    gW = torch.einsum("srtm,srtk,srtn->srkmn", C.conj(), own, g)
    first = torch.arange(S * R).reshape(S, R, 1) * N
    for kind in (Runs, Padded):
        groups = kind.of((k + first).flatten(), (S, R, N))
        coefficients, total = groups.coefficients(C), torch.zeros_like(W)
        torch.testing.assert_close(groups.states(coefficients, W), z)
        groups.gather(coefficients, g, total)
        torch.testing.assert_close(total, gW)


def test_runs_are_taken_for_long_stretches_and_padding_for_short_ones():
    k = torch.arange(10_000).reshape(1, 1, -1)
    assert isinstance(group(k // 1000, 10, 100), Runs)
    assert isinstance(group(k // 2, 5000, 100), Padded)
