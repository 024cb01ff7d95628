"""The chain: truth of its states and gradients, its check of rounding, and when it is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linode import LinearODE, MethodError
from linode.kernels.chain import ChainStates, Powers
from linode.methods import Auto, Chain, Workload
from tests import oracles
from tests.accuracy import differentiate, norm, relative_error
from tests.case_builders import generator, jordan, normal, rotated
from tests.cases import Case


def case(n: int, times: np.ndarray, is_complex: bool = False) -> Case:
    rng = generator(f"chain {n} {is_complex}")
    Xi = normal(rng, n, n, is_complex=is_complex) / np.sqrt(n) - np.eye(n)
    z0, g = (normal(rng, *shape, is_complex=is_complex) for shape in ((n,), (len(times), n)))
    return Case("chain", "chain", Xi, z0, times, g, "")


TIMES = {
    "sorted": np.linspace(0.0, 6.0, 13) ** 1.1,
    "unsorted_and_repeated": np.array([3.0, 0.0, 5.5, 3.0, 1e-3, 5.5, 0.25]),
    "both_signs": np.array([1.0, -1.0, 0.0, -0.3, 2.0, -2.5]),
    "one": np.array([2.0]),
    "short": np.array([1e-12, 0.0, 3e-9]),
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("n", "is_complex"), [(1, False), (5, False), (4, True), (20, False)])
def test_states_and_gradients_are_those_of_ball_arithmetic(n: int, is_complex: bool, name: str):
    problem = case(n, TIMES[name], is_complex)
    z, S, a, dt = differentiate(problem, lambda Xi, z0, t: LinearODE(Xi, z0, method="chain")(t))
    true = oracles.gradients(problem.Xi, problem.z0, problem.t, problem.g)
    assert relative_error(z, oracles.trajectory(problem.Xi, problem.z0, problem.t), 1.0) < 5e-15 * n**0.5
    for got, expected in zip((S, a, dt), true):
        assert relative_error(got, expected, 1.0) < 2e-14


def test_systems_and_trajectories_of_a_batch_have_their_own_states_and_gradients():
    rng = generator("chain batch")
    Xi, z0 = normal(rng, 2, 1, 4, 4) - np.eye(4), normal(rng, 2, 3, 4)
    t, g = rng.uniform(0.0, 4.0, (2, 3, 9)), normal(rng, 2, 3, 9, 4)
    A, v = torch.tensor(Xi, requires_grad=True), torch.tensor(z0, requires_grad=True)
    z = LinearODE(A, v, method="chain")(torch.tensor(t))
    z.backward(torch.tensor(g))
    for s in range(2):
        true = [oracles.gradients(Xi[s, 0], z0[s, r], t[s, r], g[s, r]) for r in range(3)]
        assert relative_error(A.grad[s, 0].numpy(), sum(x.S for x in true), 1.0) < 1e-14
        for r in range(3):
            assert (
                relative_error(z[s, r].detach().numpy(), oracles.trajectory(Xi[s, 0], z0[s, r], t[s, r]), 1.0) < 1e-14
            )
            assert relative_error(v.grad[s, r].numpy(), true[r].a, 1.0) < 1e-14


def test_gradcheck_passes_in_all_arguments():
    problem = case(3, np.array([0.0, 2.0, 0.7]))
    arguments = [torch.tensor(x, requires_grad=True) for x in (problem.Xi, problem.z0, problem.t)]
    assert torch.autograd.gradcheck(lambda Xi, z0, t: LinearODE(Xi, z0, method="chain")(t), arguments)
    assert torch.autograd.gradgradcheck(lambda Xi, z0, t: LinearODE(Xi, z0, method="chain")(t), arguments)


def states(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> ChainStates:
    plan = Chain().plan(torch.tensor(Xi)[None], t_max=float(t.max()))
    return ChainStates.of(Powers.of(Xi[None]), plan._steps(t.max()[None]), z0[None, None], t[None, None])


def test_the_second_chain_exceeds_the_error_where_rounding_hurts_and_stays_small_where_it_does_not():
    unit = 2.0**-53
    fine = case(6, np.linspace(0.0, 8.0, 30))
    assert states(fine.Xi, fine.z0, fine.t).rounding(fine.Xi[None]) * unit < 2e-14
    # growth that z0 excites by rounding only
    basis = np.linalg.qr(normal(generator("hurt"), 3, 3))[0]
    Xi, z0 = basis @ np.diag([3.0, -1.0, -2.0]) @ basis.T, basis[:, 1]
    t = np.linspace(0.0, 8.0, 30)
    chain = states(Xi, z0, t)
    true = oracles.trajectory(Xi, z0, t)
    error = max(norm(x - y) / norm(y) for x, y in zip(chain.states()[0, 0], true))
    assert error > 1e-10  # Xi and z0 as rounded grow, too: their condition is large
    assert chain.rounding(Xi[None]) * unit > error / 100


def test_trajectories_that_rounding_hurts_are_handed_to_the_propagator():
    basis = np.linalg.qr(normal(generator("handed"), 3, 3))[0]
    Xi, t = basis @ np.diag([2.0, -1.0, -2.0]) @ basis.T, np.linspace(0.0, 9.0, 40)
    for z0, is_handed in ((basis[:, 1], True), (basis.sum(1), False)):
        ode = LinearODE(Xi, z0, method="chain")
        z = ode(t)
        assert (ode.decomposition._whole is not None) == is_handed
        assert np.array_equal(z, LinearODE(Xi, z0, method="propagator")(t)) == is_handed


@pytest.mark.parametrize(
    ("Xi", "t", "why"),
    [
        (np.diag([-1.0, -1e6]), 1.0, "more than 512 steps"),
        (np.array([[0.0, 1e6], [0.0, 0.0]]), 1.0, "overscaled"),
        (np.eye(65) * -0.1, 1.0, "65 states, more than 64"),
    ],
)
def test_what_it_is_not_made_for_is_refused_with_the_reason(Xi: np.ndarray, t: float, why: str):
    with pytest.raises(MethodError, match=why):
        LinearODE(Xi, np.ones(len(Xi)), method="chain")([t])


def test_a_plan_serves_longer_times_by_the_propagator():
    Xi = rotated(generator("longer"), jordan(3, -0.5))
    ode = LinearODE(Xi, np.ones(3), method="chain")
    ode([1.0])
    late = np.array([2000.0, 1.0])
    assert relative_error(ode(late), oracles.trajectory(Xi, np.ones(3), late), 1.0) < 1e-13


def test_auto_takes_it_where_eigenvalues_cost_more_than_its_calls():
    def first(n: int, n_times: int, norm: float) -> str:
        return Auto().ranked(Workload(1, 1, n_times, n, norm, 10.0), "cpu")[0]

    assert first(40, 1000, 8.0) == "chain"
    assert first(3, 50, 3.0) == "eig"  # fewer calls
    assert first(40, 1000, 1e6) == "eig"  # stiff
    assert first(300, 1000, 20.0) == "taylor"
