"""Trajectories that leave the range of floats: infinities of the right sign, right values elsewhere, never NaN."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from flint import arb, ctx

from linode import LinearODE, Solution, Status
from linode.kernels import wide
from linode.methods import registry
from tests import oracles
from tests.accuracy import EPS, relative_error
from tests.balls import matrix, real_parts

GROW_AND_DECAY = np.diag([1.0, -1.0])
BLOCKS = np.array([[1.0, 2, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, -1]])  # defective, growing and decaying
ROTATING = np.array([[1.0, 2], [-2, 1]])
COMPLEX = np.array([[1 + 2j, 0], [0, -1 + 1j]])
COUPLED = np.array([[1.0, 0.5, 0], [0.2, -1, 0.3], [0, 0.1, 0.5]])
DEFECTIVE = np.array([[1.0, 2], [0, 1]])
SYSTEMS = {
    "grow_and_decay": GROW_AND_DECAY,
    "blocks": BLOCKS,
    "rotating": ROTATING,
    "complex": COMPLEX,
    "coupled": COUPLED,
    "defective": DEFECTIVE,
}
# for their eigenvectors, for their long times
REFUSED = {"eig": ("blocks", "defective"), "taylor": tuple(SYSTEMS), "chain": tuple(SYSTEMS)}
ACCEPTED = [(method, name) for method in sorted(registry()) for name in SYSTEMS if name not in REFUSED.get(method, ())]
TIMES = np.array([1000.0, 1.0, -1000.0, 709.0, 0.0, 3.0, 2000.0, -2.0])
TINY = float(np.finfo(float).tiny)
every_system = pytest.mark.parametrize(("method", "name"), ACCEPTED)
two_systems = pytest.mark.parametrize(("method", "name"), [x for x in ACCEPTED if x[1] in ("coupled", "defective")])
every_method = pytest.mark.parametrize("method", sorted(registry()))
every_method_for_long_times = pytest.mark.parametrize("method", sorted(registry().keys() - {"taylor", "chain"}))


def start(Xi: np.ndarray) -> np.ndarray:
    return np.array([-1.0, 0.7, 1.3, -0.4])[: len(Xi)].astype(Xi.dtype)


def true_states(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(T, n) by ball arithmetic, with infinities where the true value rounds to one."""
    with ctx.workprec(8000):
        balls = [x for s in t for x in ((matrix(Xi) * arb(float(s))).exp() * matrix(z0[:, None])).entries()]
        values = np.array([float(part.mid()) for part in real_parts(balls)])
    return (values.view(complex) if np.iscomplexobj(Xi) else values).reshape(len(t), len(Xi))


def assert_same_states(got: np.ndarray, true: np.ndarray, tolerance: float = 1e-11) -> None:
    """Entry by entry: the same infinities, and small relative errors elsewhere but for what is below normal floats."""
    got, true = (np.ascontiguousarray(x).view(float) for x in (got, true))
    infinite = np.isinf(true)
    assert np.array_equal(got[infinite], true[infinite])
    assert np.all(np.abs(got[~infinite] - true[~infinite]) <= tolerance * np.abs(true[~infinite]) + TINY)


# ---- states ------------------------------------------------------------------------------------------------


@cache
def true_system(name: str) -> np.ndarray:
    return true_states(SYSTEMS[name], start(SYSTEMS[name]), TIMES)


@every_system
def test_infinite_entries_have_their_sign_and_finite_ones_are_right(method: str, name: str):
    Xi, true = SYSTEMS[name], true_system(name)
    assert np.isinf(true).any()
    assert np.isfinite(true).any()
    assert_same_states(LinearODE(Xi, start(Xi), method=method)(TIMES), true)


@two_systems
def test_other_times_that_overflow_do_not_change_a_state(method: str, name: str):
    Xi = SYSTEMS[name]
    fine = np.abs(TIMES) < 600
    ode = LinearODE(Xi, start(Xi), method=method)
    assert_same_states(ode(TIMES)[fine], ode(TIMES[fine]), 1e-12)


@every_method_for_long_times
def test_states_are_finite_up_to_the_largest_float(method: str):
    log_max = np.log(np.finfo(float).max)
    z = LinearODE([[1.0]], [1.0], method=method)([log_max - 1e-3, log_max + 1e-3])
    assert z[0, 0] == pytest.approx(np.exp(log_max - 1e-3), rel=1e-12)
    assert z[1, 0] == np.inf


@every_method_for_long_times
def test_a_growing_mode_that_is_not_excited_stays_zero(method: str):
    z = LinearODE(GROW_AND_DECAY, [0.0, 1.0], method=method)([1000.0, 1.0])
    assert z.tolist() == [[0.0, 0.0], [0.0, pytest.approx(np.exp(-1.0), rel=1e-15)]]


@pytest.mark.parametrize("method", ["auto", "propagator", "schur"])
def test_an_overflowing_element_leaves_the_rest_of_its_batch_alone(method: str):
    systems = np.stack([DEFECTIVE, np.array([[0.0, 1.0], [-1.0, 0.0]]), GROW_AND_DECAY, -0.1 * DEFECTIVE])
    t = np.array([1000.0, 2.0])
    z = LinearODE(systems, [1.0, -1.0], method=method)(t)
    for one, Xi in zip(z, systems):
        assert_same_states(one, LinearODE(Xi, [1.0, -1.0], method=method)(t), 1e-12)
    assert np.isinf(z[[0, 2], 0]).any(1).all()
    assert np.isfinite(z[[1, 3]]).all()


@cache
def random_problem(seed: int) -> tuple[np.ndarray, ...]:
    """Xi, z0, t and the true states; rates from 0 to 3, so that some times overflow and others do not."""
    rng = np.random.default_rng(seed)
    Xi, z0 = rng.standard_normal((2, 4, 4)) @ np.diag([1.0, 1.0, 0.1, 0.0]), rng.standard_normal(4)
    Xi = Xi[0] + 1j * Xi[1] if seed % 3 == 0 else Xi[0]
    t = rng.uniform(-1500, 1500, 8)
    return Xi, z0, t, true_states(Xi, z0.astype(Xi.dtype), t)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("method", ["auto", "propagator", "schur"])
def test_random_systems_over_long_times_are_never_nan(method: str, seed: int):
    Xi, z0, t, true = random_problem(seed)
    z = LinearODE(Xi, z0, method=method)(t)
    assert not np.isnan(z).any()
    for got, expected in ((z.real, true.real), (z.imag, true.imag)):
        assert np.array_equal(np.isinf(got), np.isinf(expected))
        assert np.array_equal(np.sign(got), np.sign(expected))


def test_growth_past_the_largest_float32_is_infinite_in_float32_only():
    Xi, z0 = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([1.0, -1.0])
    assert LinearODE(Xi, z0).solve(torch.tensor([100.0])).status is Status.OVERFLOW
    assert LinearODE(Xi, z0)(torch.tensor([100.0])).tolist() == [[-np.inf, -np.inf]]
    assert LinearODE(Xi.double(), z0.double()).solve(torch.tensor([100.0])).status is Status.OK


# ---- status ------------------------------------------------------------------------------------------------


def solved(Xi: np.ndarray, t: list[float], method: str = "auto") -> Solution:
    return LinearODE(Xi, start(Xi), method=method).solve(np.array(t))


@two_systems
def test_overflow_is_a_status_that_is_false_and_advises(method: str, name: str):
    solution = solved(SYSTEMS[name], [1000.0, 1.0], method)
    assert solution.status is Status.OVERFLOW
    assert not solution.status
    assert "shorter times" in str(solution.status)
    assert np.isinf(solution.condition)
    assert np.isinf(solution.error_estimate)


def test_the_condition_of_a_batch_is_infinite_only_where_it_overflows():
    systems = np.stack([GROW_AND_DECAY, np.array([[0.0, 1.0], [-1.0, 0.0]])])
    ode = LinearODE(systems, [1.0, 1.0])
    alone = LinearODE(systems[1], [1.0, 1.0]).condition([1000.0, 1.0])
    assert ode.condition([1000.0, 1.0]).tolist() == [np.inf, pytest.approx(float(alone), rel=0.05)]


# ---- gradients ---------------------------------------------------------------------------------------------


@every_system
def test_a_loss_of_finite_states_has_true_gradients_whatever_overflows(method: str, name: str):
    Xi, n_times = SYSTEMS[name], 6 if name in ("rotating", "defective") else 50
    rng = np.random.default_rng(n_times)
    t = np.concatenate([[2000.0, -2000.0], rng.uniform(-3, 3, n_times - 2)])
    g = rng.standard_normal((n_times, len(Xi)))
    g[:2] = 0
    true = oracles.gradients(Xi, start(Xi), t[2:], g[2:])
    leaves = [torch.tensor(x, requires_grad=True) for x in (Xi, start(Xi), t)]
    z = LinearODE(*leaves[:2], method=method)(leaves[2])
    loss = (z[2:] * torch.tensor(g[2:])).real.sum()
    S, a, dt = (x.numpy() for x in torch.autograd.grad(loss, leaves))
    assert relative_error(S, true.S, 1.0) <= 1e-12
    assert relative_error(a, true.a, 1.0) <= 1e-12
    assert relative_error(dt[2:], true.dt, 1.0) <= 1e-12
    assert dt[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", ["auto", "propagator", "schur"])
def test_a_loss_of_the_finite_element_of_a_batch_has_its_gradients(method: str):
    systems = np.stack([DEFECTIVE, GROW_AND_DECAY, [[0.0, 1.0], [-1.0, 0.0]], -0.1 * DEFECTIVE])
    Xi, t = torch.tensor(systems, requires_grad=True), torch.tensor([1000.0, 2.0], dtype=torch.float64)
    z0 = torch.tensor([1.0, -1.0], dtype=torch.float64)
    (S,) = torch.autograd.grad(LinearODE(Xi, z0, method=method)(t)[2:].sum(), Xi)
    assert not S[:2].any()
    for one, A in zip(S[2:], systems[2:]):
        true = oracles.gradients(A, z0.numpy(), t.numpy(), np.ones((2, 2))).S
        assert relative_error(one.numpy(), true, 1.0) <= 1e-12


# ---- underflow and far times -------------------------------------------------------------------------------


@pytest.mark.parametrize("Xi", [np.diag([-1.0, -2.0]), -DEFECTIVE, ROTATING - 2 * np.eye(2)])
def test_decay_below_the_smallest_float_is_zero_with_zero_gradients(Xi: np.ndarray):
    leaf = torch.tensor(Xi, requires_grad=True)
    solution = LinearODE(leaf, torch.ones(2, dtype=torch.float64)).solve(torch.tensor([800.0], dtype=torch.float64))
    assert solution.z.tolist() == [[0.0, 0.0]]
    assert solution.status is Status.OK
    (S,) = torch.autograd.grad(solution.z.sum(), leaf)
    assert S.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@every_method_for_long_times
def test_ten_million_radians_later_a_rotation_is_as_right_as_its_condition_allows(method: str):
    Xi, z0, t = np.array([[0.0, 1.25], [-0.8, 0.0]]), np.array([1.0, 0.0]), np.array([1e7])
    error = np.linalg.norm(LinearODE(Xi, z0, method=method)(t) - oracles.trajectory(Xi, z0, t))
    assert error <= 10 * oracles.condition(Xi, z0, t).normwise * EPS


@every_method_for_long_times
def test_at_time_1e300_growth_is_infinite_decay_zero_and_what_is_constant_stays(method: str):
    z = LinearODE(np.diag([1.0, -1.0, 0.0]), [-1.0, 1.0, 3.0], method=method)([1e300, -1e300])
    assert z.tolist() == [[-np.inf, 0.0, 3.0], [0.0, np.inf, 3.0]]


@pytest.mark.parametrize("method", ["auto", "propagator", "schur"])
def test_an_integrator_reaches_1e300(method: str):
    z = LinearODE([[0.0, 1.0], [0.0, 0.0]], [2.0, 3.0], method=method)([1e300, -1e300, 1e299])
    assert z[:, 0] == pytest.approx([3e300, -3e300, 3e299], rel=1e-15)
    assert z[:, 1].tolist() == [3.0, 3.0, 3.0]


@every_method_for_long_times
@pytest.mark.parametrize("t", [1e20, 1e300])
def test_a_rotation_keeps_its_norm_when_no_digit_is_sure_and_its_status_says_so(method: str, t: float):
    Xi = np.array([[0.0, 1.0], [-1.0, 0.0]])
    solution, true = solved(Xi, [t], method), oracles.trajectory(Xi, start(Xi), np.array([t]))
    assert np.linalg.norm(solution.z) == pytest.approx(np.linalg.norm(start(Xi)), rel=1e-12)
    if np.linalg.norm(solution.z - true) > 1e-6 * np.linalg.norm(true):
        assert solution.status is Status.ILL_CONDITIONED
    elif t < 1e25 and wide.is_in_use():  # else no arithmetic here can tell
        assert solution.status is Status.OK
