"""Times: any order, repeated, zero, negative, empty, one, scalar; few or many. And what a flow must satisfy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import linode
from tests import oracles
from tests.accuracy import GENERAL
from tests.case_builders import jordan, real_jordan_pair

EPS = 2.0**-52
MATRICES = {
    "generic": np.array([[-1.0, 0.2, 0.0], [0.0, 0.2, 1.5], [0.1, -1.5, 0.2]]),
    "jordan": jordan(3, -0.5),
    "defective_pair": real_jordan_pair(2, -0.25, 1.5),
    "skew": np.array([[0.0, 1.0, -0.5], [-1.0, 0.0, 2.0], [0.5, -2.0, 0.0]]),
    "zero": np.zeros((2, 2)),
    "complex": np.array([[0.5j, 1.0], [0.25, -0.5 + 1j]]),
}
METHODS = GENERAL
FEW = torch.tensor([0.75, -0.5, 0.0, 3.0, 0.75, -2.0, 1e-9, 0.0], dtype=torch.float64)
MANY = torch.linspace(-2.0, 3.0, 400, dtype=torch.float64) ** 3 / 9  # irregular, dense
TIMES = {"few": FEW, "many": MANY}


def accepted(method: str, Xi: np.ndarray) -> bool:
    return bool(linode.methods.registry()[method]().plan(torch.tensor(Xi)[None]).accepted.all())


PAIRS = [(method, name) for method in METHODS for name, Xi in MATRICES.items() if accepted(method, Xi)]
every_pair = pytest.mark.parametrize(("method", "name"), PAIRS)
every_grid = pytest.mark.parametrize("grid", TIMES)


def start(name: str) -> Tensor:
    z0 = np.random.default_rng(3).standard_normal(len(MATRICES[name]))
    return torch.tensor(z0 * (1 - 0.5j) if np.iscomplexobj(MATRICES[name]) else z0)


def solver(name: str, method: str = "auto") -> linode.LinearODE:
    return linode.LinearODE(torch.tensor(MATRICES[name]), start(name), method=method)


def close(got: Tensor, true: Tensor, rtol: float = 1e-12) -> bool:
    """Relative to the largest state; rounding of systems of norm about 2 over |t| <= 3, grown by e^3 at most."""
    return got.shape == true.shape and bool((got - true).abs().amax() <= rtol * true.abs().amax().clamp(min=1.0))


# ---- grids -------------------------------------------------------------------------------------------------------


@every_grid
@every_pair
def test_states_at_any_times_are_those_of_the_oracle(method: str, name: str, grid: str):
    t = TIMES[grid][:: max(1, len(TIMES[grid]) // 16)]
    z = solver(name, method)(TIMES[grid])[:: max(1, len(TIMES[grid]) // 16)]
    assert close(z, torch.tensor(oracles.trajectory(MATRICES[name], start(name).numpy(), t.numpy())))


@every_grid
@every_pair
def test_states_follow_a_permutation_of_the_times(method: str, name: str, grid: str):
    t, ode = TIMES[grid], solver(name, method)
    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(1))
    assert close(ode(t[order]), ode(t)[order])


@every_grid
@every_pair
def test_decreasing_times_equal_increasing_times_reversed(method: str, name: str, grid: str):
    t, ode = TIMES[grid].sort().values, solver(name, method)
    assert close(ode(t.flip(0)), ode(t).flip(0))


@every_grid
@every_pair
def test_gradients_follow_a_permutation_of_the_times(method: str, name: str, grid: str):
    order = torch.randperm(len(TIMES[grid]), generator=torch.Generator().manual_seed(1))
    ode, g = solver(name, method), torch.sin(torch.arange(len(order), dtype=torch.float64))

    def gradients(t: Tensor, weights: Tensor) -> list[Tensor]:
        x = [ode.Xi.clone().requires_grad_(), ode.z0.clone().requires_grad_(), t.clone().requires_grad_()]
        z = linode.LinearODE(x[0], x[1], method=method)(x[2])
        return list(torch.autograd.grad((weights[:, None] * z.abs().square()).sum(), x))

    *got, dt = gradients(TIMES[grid][order], g[order])
    *true, dt_true = gradients(TIMES[grid], g)
    assert all(close(a, b, 1e-11) for a, b in zip([*got, dt], [*true, dt_true[order]]))


@every_pair
def test_the_state_at_zero_is_the_initial_state(method: str, name: str):
    ode = solver(name, method)
    assert close(ode(torch.zeros(3)), ode.z0.expand(3, -1), 4 * EPS)
    assert close(ode(FEW)[2], ode.z0, 4 * EPS)


def test_the_state_at_zero_is_exactly_the_initial_state():
    for name in MATRICES:
        for t in (torch.zeros(1), FEW[[2, 0]], torch.zeros(50)):
            assert torch.equal(solver(name)(t)[0], start(name)), name


@every_pair
def test_repeated_times_have_equal_states(method: str, name: str):
    z = solver(name, method)(FEW)
    assert torch.equal(z[0], z[4])
    assert torch.equal(z[2], z[7])


@every_grid
@every_pair
def test_a_uniform_grid_equals_the_same_times_among_others(method: str, name: str, grid: str):
    uniform, ode = torch.linspace(0.0, 3.0, 31, dtype=torch.float64), solver(name, method)
    assert close(ode(torch.cat([uniform, TIMES[grid]]))[:31], ode(uniform))


@every_pair
def test_one_time_equals_the_same_time_among_many(method: str, name: str):
    ode = solver(name, method)
    z = ode(MANY)
    for i in (0, 77, 399):
        assert close(ode(MANY[i : i + 1])[0], z[i])
        assert close(ode(MANY[i]), z[i])


@pytest.mark.parametrize("method", METHODS)
def test_times_that_are_all_zero_have_gradients_of_nilpotent_systems(method: str):
    """Its series ends, so that no step is too long for it; its powers overflow all the same."""
    Xi = torch.diag(torch.ones(2, dtype=torch.float64), 1).requires_grad_()
    if not accepted(method, Xi.detach().numpy()):
        pytest.skip("not accepted")
    z0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    linode.LinearODE(Xi, z0, method=method)([0.0, 0.0]).sum().backward()
    assert torch.equal(Xi.grad, torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(z0.grad, torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("name", MATRICES)
def test_a_solver_gives_the_same_states_whatever_it_was_asked_before(name: str):
    fresh = solver(name)(FEW)
    used = solver(name)
    used(MANY)
    used(torch.zeros(0))
    assert close(used(FEW), fresh)


# ---- what times may be -------------------------------------------------------------------------------------------


def test_no_times_give_no_states():
    assert solver("generic")(torch.zeros(0)).shape == (0, 3)
    assert linode.LinearODE([[1.0]], [1.0])([]).shape == (0, 1)


def test_a_scalar_time_gives_one_state():
    ode = solver("generic")
    for t in (0.75, torch.tensor(0.75), np.float64(0.75), np.array(0.75)):
        assert torch.equal(torch.as_tensor(ode(t)), ode(torch.tensor([0.75]))[0])


def test_integers_and_lists_are_times_too():
    ode = solver("generic")
    true = ode(torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64))
    for t in (
        [0, 1, -2],
        (0.0, 1.0, -2.0),
        np.array([0, 1, -2]),
        torch.tensor([0, 1, -2]),
        torch.tensor([0, 1, -2]).int(),
    ):
        assert torch.equal(torch.as_tensor(ode(t)), true)


def test_integer_times_beyond_the_default_dtype_are_exact():
    t = 2**24 + 1  # no float32
    omega = torch.pi / 2
    z = linode.LinearODE(torch.tensor([[0.0, omega], [-omega, 0.0]], dtype=torch.float64), torch.tensor([1.0, 0.0]))
    assert close(z(torch.tensor([t])), z(torch.tensor([float(t)], dtype=torch.float64)), 1e-7)
    assert close(z([t]), z(torch.tensor([float(t)], dtype=torch.float64)), 1e-7)


def test_single_precision_times_are_taken_as_they_are():
    t = torch.tensor([0.1, 2.7], dtype=torch.float32)
    assert torch.equal(solver("generic")(t), solver("generic")(t.double()))


# ---- the flow ----------------------------------------------------------------------------------------------------

seconds = st.floats(-2.0, 2.0, allow_subnormal=False)
entries = st.integers(-16, 16).map(lambda k: k / 8)
flow = settings(max_examples=25, deadline=None, derandomize=True)


def matrices(n: int) -> st.SearchStrategy[Tensor]:
    return st.lists(entries, min_size=n * n, max_size=n * n).map(
        lambda x: torch.tensor(x, dtype=torch.float64).reshape(n, n)
    )


def vectors(n: int) -> st.SearchStrategy[Tensor]:
    return st.lists(entries, min_size=n, max_size=n).map(lambda x: torch.tensor(x, dtype=torch.float64))


def state(Xi: Tensor, z0: Tensor, t: float) -> Tensor:
    return linode.LinearODE(Xi, z0)(t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64))


def growth(Xi: Tensor, *times: float) -> float:
    """A bound on how much rounding may grow: e^(|Xi| |t|), and the matrix must not make it useless."""
    exponent = float(torch.linalg.matrix_norm(Xi, 2)) * sum(map(abs, times))
    assume(exponent < 12.0)
    return 100 * EPS * np.exp(exponent)


@flow
@given(matrices(3), vectors(3), seconds, seconds)
def test_moving_by_s_then_by_t_is_moving_by_their_sum(Xi: Tensor, z0: Tensor, s: float, t: float):
    bound = growth(Xi, s, t) * (1 + float(z0.norm()))
    assert (state(Xi, state(Xi, z0, s), t) - state(Xi, z0, s + t)).norm() <= bound


@flow
@given(matrices(3), vectors(3), seconds)
def test_moving_back_returns_to_the_start(Xi: Tensor, z0: Tensor, t: float):
    bound = growth(Xi, t, t) * (1 + float(z0.norm()))
    assert (state(Xi, state(Xi, z0, t), -t) - z0).norm() <= bound


@flow
@given(matrices(3), vectors(3), seconds)
def test_running_time_backwards_is_solving_the_negative_system(Xi: Tensor, z0: Tensor, t: float):
    bound = growth(Xi, t) * (1 + float(z0.norm()))
    assert (state(Xi, z0, -t) - state(-Xi, z0, t)).norm() <= bound


@flow
@given(matrices(3), vectors(3), vectors(3), entries, seconds)
def test_states_are_linear_in_the_start(Xi: Tensor, u: Tensor, v: Tensor, c: float, t: float):
    bound = growth(Xi, t) * (1 + float(u.norm()) + abs(c) * float(v.norm()))
    assert (state(Xi, u + c * v, t) - state(Xi, u, t) - c * state(Xi, v, t)).norm() <= bound


@flow
@given(matrices(3), vectors(3), seconds, st.floats(0.125, 8.0))
def test_scaling_the_system_is_scaling_time(Xi: Tensor, z0: Tensor, t: float, scale: float):
    bound = growth(Xi, scale * t, scale * t) * (1 + float(z0.norm()))
    assert (state(scale * Xi, z0, t) - state(Xi, z0, scale * t)).norm() <= bound


@flow
@given(matrices(2), vectors(2), st.lists(seconds, max_size=5))
def test_the_derivative_in_time_is_the_system_applied_to_the_state(Xi: Tensor, z0: Tensor, times: list[float]):
    t = torch.tensor(times, dtype=torch.float64, requires_grad=True)
    z = state(Xi, z0, t)
    (rate,) = torch.autograd.grad(z.sum(), t)
    bound = growth(Xi, *times, 1.0) * (1 + float(z0.norm()))
    assert ((z.detach() @ Xi.mT).sum(-1) - rate).norm() <= bound


@flow
@given(matrices(3), vectors(3), st.lists(seconds, max_size=6))
def test_small_problems_are_solved_as_the_oracle_solves_them(Xi: Tensor, z0: Tensor, times: list[float]):
    bound = growth(Xi, *times[:1], 2.0) * (1 + float(z0.norm()))
    t = torch.tensor(times, dtype=torch.float64)
    true = torch.tensor(oracles.trajectory(Xi.numpy(), z0.numpy(), t.numpy()))
    assert (state(Xi, z0, t) - true).norm() <= bound * (1 + len(times))
