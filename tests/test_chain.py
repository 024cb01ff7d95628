"""The chain: truth of its states and gradients, its check of rounding, and when it is taken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch

from linode import LinearODE, MethodError, OptionError
from linode.kernels.stepping import Stepper
from linode.kernels.taylor import DOUBLE
from linode.methods import Auto, Chain, Workload
from linode.methods.chain import REACH, make_step, rounding, step_for
from tests import oracles
from tests.accuracy import differentiate, norm, relative_error
from tests.case_builders import generator, grcar, jordan, normal, rotated
from tests.cases import Case

UNIT_ROUNDOFF = 2.0**-53


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


def equal_to_rounding(x: torch.Tensor, y: torch.Tensor, tolerance: float = 1e-13) -> bool:
    x, y = (torch.as_tensor(a).numpy() for a in (x, y))
    return x.shape == y.shape and norm(x - y) <= tolerance * norm(y)


# ---- the bound of rounding -----------------------------------------------------------------------------------


def humped() -> np.ndarray:
    """Powers of exp(Xi H) that grow to some thousand before they decay."""
    return np.diag(np.full(5, -1.0)) + np.diag(np.full(4, 6.0), 1)


BOUNDED = {
    "random": normal(generator("bounded"), 8, 8) / 8**0.5 - 1.5 * np.eye(8),
    "humped": humped(),
    "skew": np.triu(np.ones((6, 6)), 1) - np.tril(np.ones((6, 6)), -1),
    "complex": normal(generator("bounded"), 4, 4, is_complex=True),
    "grcar": -grcar(16),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_the_bound_is_above_the_error_of_every_power_of_the_step(name: str):
    Xi, t_max = BOUNDED[name], 10.0
    step, size = make_step(torch.tensor(Xi)[None], t_max)
    H = float(step.H)
    N = int(t_max / H + 1.5)
    bound = float(rounding(step, size, torch.tensor([N]))) * UNIT_ROUNDOFF
    worst = 0.0
    for level in range(max(1, (N - 1).bit_length())):
        true = oracles.expm(Xi * (H * 2**level))
        worst = max(worst, norm(step.E(level)[0].numpy() - true) / norm(true))
    assert worst <= bound
    assert bound <= 1e8 * worst or name == "humped"  # of no use else


def test_a_matrix_that_rounding_would_hurt_is_refused_with_the_bound():
    hurt = np.array([[-1.0, 40.0, 0.0], [0.0, -1.0, 40.0], [0.0, 0.0, -1.0]])
    with pytest.raises(MethodError, match=r"rounding [0-9.e+]+ > 1.05e\+06 units"):
        LinearODE(rotated(generator("hurt"), hurt), np.ones(3), method="chain")([10.0])


@pytest.mark.parametrize("max_rounding", [0, -1.0, "few", None])
def test_a_limit_that_is_no_positive_number_is_refused(max_rounding: object):
    with pytest.raises(OptionError, match="max_rounding must be a positive number"):
        Chain(max_rounding=max_rounding)


def test_too_many_steps_are_refused_with_their_number():
    with pytest.raises(MethodError, match=r"steps of H = .*, more than 256, for times up to"):
        LinearODE(np.diag([-1.0, -1e6]), np.ones(2), method="chain")([1.0])


@pytest.mark.parametrize("size", [1e160, 1e307])
def test_entries_whose_powers_overflow_are_refused(size: float):
    with pytest.raises(MethodError, match="steps of H"):
        LinearODE(size * np.ones((2, 3, 3)), np.ones((2, 3)), method="chain")([1.0, 2.0])
    assert np.isposinf(LinearODE(size * np.ones((3, 3)), np.ones(3))([1.0, 2.0])).all()


@pytest.mark.parametrize("size", [1e160, 1e200, 1e300])
def test_a_refusal_of_large_entries_has_figures(size: float):
    with pytest.raises(MethodError) as refusal:
        LinearODE(size * np.eye(3), np.ones(3), method="chain")([1.0, 2.0])
    assert "more than 256" in str(refusal.value)


def test_whole_numbers_stay_whole():
    z = LinearODE([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0] * 3], [1.0, 2.0, 2.0], method="chain")(np.arange(-3.0, 40.0))
    t = np.arange(-3.0, 40.0)
    assert np.array_equal(z, np.stack([1 + 2 * t + t**2, 2 + 2 * t, 2 + 0 * t], -1))


@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_what_is_conserved_keeps_its_digits_beside_fast_decay(scale: float):
    """The shift that shortens the series costs at most 1e-14."""
    Xi = np.array([[-1.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]) * scale
    t, z0 = np.linspace(0.0, 10.0, 20), np.array([1.0, 0.0, 2.0])
    z = LinearODE(Xi, z0, method="chain")(t)
    assert np.abs(z.sum(1) - 3.0).max() < 2e-14
    assert np.abs(z - oracles.trajectory(Xi, z0, t)).max() < 2e-14


def test_later_times_than_a_plan_was_made_for_are_planned_anew():
    Xi = rotated(generator("longer"), jordan(3, -0.5))
    ode, late = LinearODE(Xi, np.ones(3), method="chain"), np.array([8.0, 1.0])
    ode([1.0])
    first = ode.decomposition
    assert ode.decomposition is first
    assert "1 steps" in ode.explain([1.0])
    assert relative_error(ode(late), oracles.trajectory(Xi, np.ones(3), late), 1.0) < 1e-13
    assert ode.decomposition is not first


# ---- steps and times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-300, 0.3, 1.0, 7.7, 1e5, 1e200])
@pytest.mark.parametrize("t_max", [1e-9, 1.0, 123.4])
def test_multiples_of_a_step_are_exact_and_times_lie_within_half_a_step(rate: float, t_max: float):
    H = float(step_for(torch.tensor([rate], dtype=torch.float64), t_max, torch.tensor([256.0]).double()))
    assert rate * H <= REACH
    assert rate * H > 0.9 * REACH or t_max <= H
    t = generator("step").uniform(0, min(t_max, 200 * H), 100)
    step = Stepper(torch.zeros(1, 1, 1).double(), torch.tensor([H]).double(), DOUBLE)
    k, s = (x[0, 0].numpy() for x in step.split(torch.tensor(t)[None, None]))
    assert all(Fraction(int(i)) * Fraction(H) == Fraction(float(i * H)) for i in k)
    assert np.abs(s).max() <= 0.5 + 1e-12
    assert np.abs((k + s) * H - t).max() <= 4 * UNIT_ROUNDOFF * t_max


def clustered(rng: np.random.Generator, T: int) -> np.ndarray:
    """Most times at two places, so that most nodes have none and two have more than a group."""
    return np.concatenate([2.0 + 1e-3 * rng.uniform(size=T // 2), 7.5 + 0.1 * rng.uniform(size=T - T // 2)])


GRIDS = {
    "even": lambda rng, T: np.linspace(0.0, 8.0, T),
    "irregular": lambda rng, T: np.sort(rng.uniform(0.0, 8.0, T)),
    "unsorted": lambda rng, T: rng.uniform(0.0, 8.0, T),
    "clustered": clustered,
    "zero": lambda rng, T: np.zeros(T),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("S", "R", "T"), [(1, 1, 50), (3, 1, 1), (2, 3, 40), (1, 5, 300)])
@pytest.mark.parametrize("is_complex", [False, True])
def test_times_of_their_own_give_what_shared_ones_give(grid: str, S: int, R: int, T: int, is_complex: bool):
    rng = generator(f"grids {grid}")
    Xi, z0 = (normal(rng, *shape, is_complex=is_complex) for shape in ((S, 4, 4), (S, R, 4)))
    g, t = normal(rng, S, R, T, 4, is_complex=is_complex), GRIDS[grid](rng, T)
    Xi, z0, g, t = map(torch.tensor, (Xi, z0, g, t))
    plan = Chain().plan(Xi - torch.eye(4), None, Workload(S, R, T, 4, 1.0, 8.0))
    shared, own = t.expand(S, R, T), t.repeat(S, R, 1)
    z, pullback = plan.record(z0, shared)
    others, own_pullback = plan.record(z0, own)
    assert equal_to_rounding(others, z)
    assert torch.equal(plan.evaluate(z0, own), others)
    gradients = pullback(g)
    for x, y in zip(own_pullback(g), gradients):
        assert equal_to_rounding(x, y)
    assert all(torch.equal(x, y) for x, y in zip(gradients, pullback(g)))  # a graph that is kept
    for s in range(S):
        assert equal_to_rounding(plan.subset(torch.tensor([s])).evaluate(z0[s : s + 1], own[s : s + 1]), z[s : s + 1])


def test_systems_of_unlike_rates_do_not_overflow_at_nodes_that_only_others_need():
    rates = [1e-3, 5.0, -40.0]
    Xi = torch.tensor([[[rate, 0.3 * rate], [0.0, rate]] for rate in rates], dtype=torch.float64, requires_grad=True)
    z0, t = np.array([1e300, 1e280]), np.linspace(0.0, 1.5, 6)
    z = LinearODE(Xi, torch.tensor(z0), method="chain")(torch.tensor(t))
    (z * 1e-300).sum().backward()
    for s, A in enumerate(Xi.detach().numpy()):
        assert relative_error(z[s].detach().numpy(), oracles.trajectory(A, z0, t), 1.0) < 1e-13
        assert relative_error(Xi.grad[s].numpy(), oracles.gradients(A, z0, t, np.full((6, 2), 1e-300)).S, 1.0) < 1e-12


@pytest.mark.parametrize("sharing", ["shared", "own"])
def test_shares_of_systems_and_of_trajectories_are_put_together(sharing: str, monkeypatch: pytest.MonkeyPatch):
    rng = generator("shares")
    Xi, z0, g = normal(rng, 7, 3, 3) - np.eye(3), normal(rng, 7, 5, 3), normal(rng, 7, 5, 20, 3)
    t = rng.uniform(0, 3, (7, 5, 20) if sharing == "own" else 20)
    Xi, z0, g, t = map(torch.tensor, (Xi, z0, g, t))
    t = t.expand(7, 5, 20)
    plan = Chain().plan(Xi, None, Workload(7, 5, 20, 3, 1.0, 3.0))
    whole = plan.record(z0, t)
    for entries in (1, 3000, 12_000):
        monkeypatch.setattr("linode.methods.chain.PART_ENTRIES", entries)
        z, pullback = plan.record(z0, t)
        for x, y in zip((z, *pullback(g)), (whole[0], *whole[1](g))):
            assert equal_to_rounding(x, y)


def test_threads_do_not_disturb_each_other():
    problems = [case(n, np.linspace(0.0, 5.0, 400)) for n in (3, 5, 8, 13)]

    def answer(problem: Case) -> list[np.ndarray]:
        return [np.copy(x) for x in differentiate(problem, lambda *x: LinearODE(*x[:2], method="chain")(x[2]))]

    expected = [answer(problem) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        for got, right in zip(pool.map(answer, problems * 20), expected * 20):
            assert all(np.array_equal(x, y) for x, y in zip(got, right))


def test_auto_takes_it_where_eigenvalues_cost_more_than_its_calls():
    def first(n: int, n_times: int, norm: float) -> str:
        return Auto().ranked(Workload(1, 1, n_times, n, norm, 10.0))[0].name

    assert first(40, 1000, 8.0) == "chain"
    assert first(40, 1000, 1e6) == "eig"  # stiff
    assert first(300, 1000, 20.0) == "taylor"
