"""Forced problems at the edges of what floats can tell: found by an adversary, each once wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode
from linode.forcing.drive import Drive
from tests import forced_oracles as oracle
from tests.test_forced import SYSTEMS, error, solve


@pytest.mark.parametrize("rate", [1e-300, 1e-10, 1e-4, 1e-2])
def test_a_slow_system_does_not_hide_what_drives_it(rate: float):
    """Its eigenvectors would make the effect of b the small difference of large states."""
    Xi, z0, t = rate * np.array([[-1.0, 1.0], [0.0, -2.0]]), np.zeros(2), np.array([1.0, 2.0])
    b, B, times, values = np.ones(2), np.eye(2), np.array([0.0]), np.array([[3.0, 4.0]])
    true = oracle.solution(oracle.zero_order, Xi, z0, t, b, B, times, values)
    assert error(solve("zero", Xi, z0, t, b, B, times, values), true) < 1e-13
    assert error(linode.LinearODE(Xi, z0, b=b + B @ values[0])(t), true) < 1e-13


@pytest.mark.parametrize("h", [1e-9, 1e-6, 1e-3])
def test_many_short_samples_are_exact_however_often_they_are_asked_for(h: float):
    times = h * np.arange(1000)
    t = np.concatenate([times, times + 0.3 * h])
    true = np.stack([-np.expm1(-t), -np.expm1(-2 * t) / 2], -1)
    ode = linode.LinearODE(np.diag([-1.0, -2.0]), np.zeros(2), u=linode.ZeroOrderHold(times, np.ones((1000, 2))))
    for _ in range(3):
        assert error(ode(t), true) < 1e-13


def test_gradients_are_finite_where_breaks_lie_far_outside_of_the_times():
    """Against time, and after all times, the solution overflows: nobody asked for it there."""
    Xi = torch.tensor([[-1000.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.1, 1.0], dtype=torch.float64)
    for times in ([[-10.0, -5.0, 0.5], [-9.0, -5.0, 0.6]], [[-10.0, 0.2, 900.0], [-1.0, 0.2, 700.0]]):
        z = linode.LinearODE(Xi, torch.ones(1), u=linode.ZeroOrderHold(times, [[1.0], [2.0], [3.0]]))(t)
        assert torch.isfinite(torch.autograd.grad(z.sum(), Xi)[0]).all()

    def loss(A: torch.Tensor) -> torch.Tensor:
        u = linode.ZeroOrderHold([-10.0, -5.0, 0.5], [[1.0], [2.0], [3.0]])
        return linode.LinearODE(A, torch.ones(1), u=u)(t).sum()

    assert torch.allclose(torch.func.grad(loss)(Xi.detach()), torch.autograd.grad(loss(Xi), Xi)[0], rtol=1e-10)


def test_one_sample_for_each_of_many_trajectories():
    times = np.linspace(0.1, 0.9, 9)[:, None]
    z = linode.LinearODE([[-0.1]], [0.0], u=linode.Impulses(times, [[1.0]]))([1.0])
    assert np.allclose(z[:, 0, 0], np.exp(-0.1 * (1 - times[:, 0])), rtol=1e-14)


@pytest.mark.parametrize("batch", [{"z0": (3,)}, {"b": (3,)}, {"values": (3,)}], ids=str)
def test_batches_can_be_solved_explained_and_have_conditions(batch: dict[str, tuple[int, ...]]):
    def of(name: str, *shape: int) -> np.ndarray:
        return np.random.default_rng(1).standard_normal((*batch.get(name, ()), *shape))

    u = linode.ZeroOrderHold([0.0, 0.5], of("values", 2, 2))
    for ode in (
        linode.LinearODE(SYSTEMS["random"][:2, :2], of("z0", 2), b=of("b", 2), u=u),
        linode.PiecewiseLinearODE([(0.0, np.eye(2)), (0.3, -np.eye(2))], of("z0", 2), b=of("b", 2), u=u),
    ):
        solution = ode.solve([0.2, 1.0])
        assert solution.z.shape == (3, 2, 2)
        assert solution.condition.shape == (3,)
        assert np.isfinite(solution.condition).all()
        assert "condition" in ode.explain([1.0])
        assert ode.solve([]).z.shape == (3, 0, 2)


def test_an_overflow_is_a_status_and_finite_times_beside_it_have_a_condition():
    ode = linode.LinearODE([[500.0]], [1.0], u=linode.ZeroOrderHold([0.0, 1.5], [[1.0], [2.0]]))
    assert ode.solve([1.0, 2.0]).status is linode.Status.OVERFLOW
    assert 400 < float(ode.condition([1.0])) < 600


def test_a_cotangent_that_is_not_a_number_gives_gradients_that_are_none_either():
    """As without forcing: loops that skip such steps rely on it."""
    Xi = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    u = linode.ZeroOrderHold(torch.arange(5.0), torch.ones(5, 1))
    z = linode.LinearODE(Xi, torch.ones(1), u=u)(torch.linspace(0, 4, 30))
    z.backward(torch.full_like(z, torch.nan))
    assert Xi.grad.isnan().all()


def test_times_that_are_not_numbers_are_named():
    ode = linode.LinearODE([[0.0]], [0.0], u=linode.ZeroOrderHold([0.0, 1.0], [[1.0], [2.0]]))
    with pytest.raises(linode.NonFiniteError, match=r"t must be finite, but t\[0\] is nan"):
        ode([np.nan, 1.0])


def test_infinite_states_of_opposite_signs_add_up_to_an_infinite_one():
    ode = linode.LinearODE(
        [[500.0]], [1.0], u=linode.Harmonics([0.0], [[1.0]]) + linode.ZeroOrderHold([0.0, 1.5], [[-9.0], [-9.0]])
    )
    assert np.isinf(ode([3.0])).all()


def test_a_state_that_is_not_a_number_is_not_taken_for_one_that_overflowed(monkeypatch: pytest.MonkeyPatch):
    ode = linode.LinearODE([[-1.0]], [1.0], u=linode.ZeroOrderHold([0.0, 1.5], [[1.0], [2.0]]))
    states = Drive.states
    monkeypatch.setattr(Drive, "states", lambda self, *args: states(self, *args) * torch.nan)
    assert np.isnan(ode([-1.0, 2.0])).all()


@pytest.mark.parametrize("h", [1e-8, 1e-5, 1e-3, 0.01])
@pytest.mark.parametrize("spacing", ["uniform", "irregular"])
def test_from_rest_short_steps_are_exact_to_rounding(h: float, spacing: str):
    """b and held inputs, at the samples, between them and far beyond: eigenvectors of z and u together are not."""
    Xi, zero = np.array([[-1.0, -2.0, 0.0], [5.0, 2.0, 0.0], [1.0, -3.0, -4.0]]), np.zeros(3)
    B, b, values = np.array([[-2.0], [1.0], [1.0]]), np.array([1.0, -1.0, 2.0]), np.arange(1.0, 13.0)[:, None]
    times = h * (np.arange(12.0) if spacing == "uniform" else np.arange(12.0) ** 1.5)
    for kind, cls in ((oracle.zero_order, linode.ZeroOrderHold), (oracle.first_order, linode.FirstOrderHold)):
        for t in (times, times + 0.3 * h):
            z = linode.LinearODE(Xi, zero, b=b, B=B, u=cls(times, values))(t)
            true = oracle.solution(kind, Xi, zero, t, b, B, times, values)
            kept = np.abs(true).max(-1) > 0
            assert (np.abs(z - true).max(-1)[kept] / np.abs(true).max(-1)[kept]).max() < 4e-15
    true = oracle.solution(oracle.zero_order, Xi, zero, times[1:], b, B, [0.0], [[0.0]])
    z = linode.LinearODE(Xi, zero, b=b)(times[1:])
    assert (np.abs(z - true).max(-1) / np.abs(true).max(-1)).max() < 4e-15


@pytest.mark.parametrize("K", [2, 3, 4, 9, 10, 63, 64, 65, 300, 511, 512, 600])
@pytest.mark.parametrize("method", ["auto", "eig", "propagator"])
def test_any_number_of_equal_steps_gives_what_single_steps_give(K: int, method: str):
    rng = np.random.default_rng(K)
    Xi, B, z0 = rng.standard_normal((3, 3)) - 1.5 * np.eye(3), rng.standard_normal((3, 2)), rng.standard_normal(3)
    times, values, b = np.arange(K) / 32, rng.standard_normal((K, 2)), rng.standard_normal(3)
    z = linode.LinearODE(Xi, z0, b=b, B=B, u=linode.ZeroOrderHold(times, values), method=method)(times)
    Ad, Bd = linode.discretize(Xi, np.c_[B, b], 1 / 32)
    looped = [z0]
    for u in values[:-1]:
        looped.append(Ad @ looped[-1] + Bd @ [*u, 1.0])
    assert error(z, np.array(looped)) < 1e-13
