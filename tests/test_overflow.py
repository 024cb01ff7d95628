"""Trajectories that leave the range of floats: infinities of the right sign, right values elsewhere, never NaN."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from flint import arb, ctx

import linode
from linode import LinearODE, Solution, Status
from linode.kernels import wide
from tests import oracles
from tests.accuracy import EPS, GENERAL, relative_error
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
ACCEPTED = [(method, name) for method in GENERAL for name in SYSTEMS if name not in REFUSED.get(method, ())]
TIMES = np.array([1000.0, 1.0, -1000.0, 709.0, 0.0, 3.0, 2000.0, -2.0])
TINY = float(np.finfo(float).tiny)
every_system = pytest.mark.parametrize(("method", "name"), ACCEPTED)
two_systems = pytest.mark.parametrize(("method", "name"), [x for x in ACCEPTED if x[1] in ("coupled", "defective")])
every_method = pytest.mark.parametrize("method", GENERAL)
every_method_for_long_times = pytest.mark.parametrize("method", sorted({*GENERAL} - {"taylor", "chain"}))


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


def true_gradients(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, ...]:
    """S, a and dL/dt of sum <g, z>, real, by ball arithmetic; a sum of numbers too large for a float is infinite."""
    n = len(Xi)
    with ctx.workprec(4000):
        A, start, S, a, rates = matrix(Xi), matrix(z0[:, None]), None, None, []
        for time, row in zip(t, g):
            right = matrix(row[:, None])
            block = np.zeros((2 * n, 2 * n))
            block[:n, :n] = block[n:, n:] = Xi.T
            M = matrix(block)
            outer = right * start.transpose()
            for i in range(n):
                for j in range(n):
                    M[i, n + j] = outer[i, j]
            E = (M * arb(float(time))).exp()  # [[exp(Xi^T t), integral], [0, exp(Xi^T t)]]
            own = [E[i, n + j] for i in range(n) for j in range(n)]
            S = own if S is None else [x + y for x, y in zip(S, own)]
            back = ((A.transpose() * arb(float(time))).exp() * right).entries()
            a = back if a is None else [x + y for x, y in zip(a, back)]
            velocity = A * ((A * arb(float(time))).exp() * start)
            rates.append(sum((x * y for x, y in zip(right.entries(), velocity.entries())), arb(0)))
        of_Xi, of_z0, of_t = ([float(x.mid()) for x in values] for values in (S, a, rates))
    return np.array(of_Xi).reshape(n, n), np.array(of_z0), np.array(of_t)


def gradients(
    Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray, method: str = "auto"
) -> tuple[np.ndarray, ...]:
    x = [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in (Xi, z0, t)]
    z = LinearODE(x[0], x[1], method=method)(x[2])
    return tuple(part.numpy() for part in torch.autograd.grad(z, x, torch.from_numpy(g)))


def assert_same_gradients(got: tuple[np.ndarray, ...], true: tuple[np.ndarray, ...], tolerance: float) -> None:
    for x, y in zip(got, true):
        assert np.array_equal(np.isinf(x), np.isinf(y))
        finite = np.isfinite(y)
        assert np.array_equal(np.sign(x[~finite]), np.sign(y[~finite]))
        assert np.all(np.abs(x[finite] - y[finite]) <= tolerance * np.abs(y[finite]) + TINY)


@every_method_for_long_times
def test_a_growing_mode_that_is_not_excited_has_no_share_in_gradients(method: str):
    t = np.linspace(0, 2000, 20)
    got = gradients(GROW_AND_DECAY, np.array([0.0, 1.0]), t, np.tile([0.0, 1.0], (20, 1)), method)
    assert np.all(got[0].ravel()[:3] == 0)
    assert got[0][1, 1] == pytest.approx(np.sum(t * np.exp(-t)), rel=1e-12)
    assert got[1].tolist() == [0.0, pytest.approx(np.sum(np.exp(-t)), rel=1e-12)]
    assert got[2] == pytest.approx(-np.exp(-t), rel=1e-12, abs=1e-300)


@every_method
def test_a_gradient_that_overflows_is_infinite_in_its_own_entry(method: str):
    Xi, z0 = np.diag([1000.0, -1.0]), np.array([0.0, 1.0])
    if method in ("chain", "taylor"):
        pytest.skip("refuses the span")
    S, a, dt = gradients(Xi, z0, np.array([1.0]), np.ones((1, 2)), method)
    decayed = pytest.approx(np.exp(-1.0), rel=1e-12)
    assert S.tolist() == [[0.0, np.inf], [0.0, decayed]]
    assert a.tolist() == [np.inf, decayed]
    assert -dt == decayed


@pytest.mark.parametrize("seed", range(12))
def test_gradients_without_cancellation_are_true_entry_by_entry(seed: int):
    # nothing is negative but the diagonal, so that no entry is a difference of larger numbers
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    Xi = rng.choice([0.0, 0.0, 0.3, 2.0], (n, n))
    Xi[np.arange(n), np.arange(n)] = rng.choice([-3.0, -1.0, 0.5, 4.0], n)
    z0, t = rng.choice([0.0, 0.7, 1.3], n), np.sort(rng.choice([0.0, 0.5, 3.0, 200.0, 600.0, 1500.0], 4))
    g = rng.choice([0.0, 1.0], (4, n))
    got, true = gradients(Xi, z0, t, g), true_gradients(Xi, z0, t, g)
    assert_same_gradients(got[:2], true[:2], 1e-10)


@every_method_for_long_times
@pytest.mark.parametrize("seed", range(10))
def test_gradients_are_never_nan(method: str, seed: int):
    rng = np.random.default_rng(100 + seed)
    n = int(rng.integers(1, 5))
    Xi = rng.choice([0.0, 0.0, 1.0, -1.0, 30.0, -700.0], (n, n)) * rng.choice([1.0, 1e-3, 1e3])
    z0, t = rng.choice([0.0, 1.0, -2.0, 1e200], n), rng.choice([0.0, 1.0, -1.0, 30.0, -700.0, 1e5], 6)
    g = rng.choice([0.0, 1.0, -1.0, 1e250], (6, n))
    if method == "eig":
        try:
            LinearODE(Xi, z0, method=method)(t)
        except linode.MethodError:
            return
    for gradient in gradients(Xi, z0, t, g, method):
        assert not np.isnan(gradient).any()


def test_infinite_cotangents_leave_what_they_do_not_reach_alone():
    # the loss has squares, so that its own derivative overflows
    Xi = torch.tensor(np.diag([1.0, -1.0]), requires_grad=True)
    z0 = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    (LinearODE(Xi, z0)([800.0, 1.0]) ** 2).sum().backward()
    assert Xi.grad[0, 0] == z0.grad[0] == torch.inf
    assert float(Xi.grad[1, 1]) == pytest.approx(2 * np.exp(-2.0), rel=1e-12)
    assert not torch.isnan(Xi.grad).any()
