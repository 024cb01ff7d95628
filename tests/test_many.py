"""Many trajectories of one time each, and recurrences: against ball arithmetic and against the loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import linode
from linode.engine import one_time, recurrence
from linode.engine.recurrence import changing, exponents, exponents_of_windows, steady, windowed
from linode.kernels.series import short
from tests import oracles

RNG = np.random.default_rng(6)
SYSTEMS = {
    "random": RNG.standard_normal((3, 3)),
    "nilpotent": np.diag([1.0, 1.0], 1),
    "zero": np.zeros((3, 3)),
    "stiff": np.array([[-1e5, 10.0, 0.0], [0.0, -1.0, 2.0], [0.0, -2.0, -1.0]]),
    "rotation": np.array([[0.0, 300.0, 0.0], [-300.0, 0.0, 1.0], [0.0, 0.0, -0.1]]),
    "complex": RNG.standard_normal((3, 3)) + 1j * RNG.standard_normal((3, 3)),
}
every_system = pytest.mark.parametrize("system", SYSTEMS)
R = 24
GRIDS = {
    "one": np.full(R, 0.7),
    "own": np.abs(RNG.standard_normal(R)),
    "short": 1e-7 * np.abs(RNG.standard_normal(R)),
    "with zeros": np.where(np.arange(R) % 3, RNG.uniform(0, 2, R), 0.0),
    "unlike": 10.0 ** RNG.uniform(-12, 1, R),
    "all zero": np.zeros(R),
}
every_grid = pytest.mark.parametrize("grid", GRIDS)


def error(got: np.ndarray, true: np.ndarray) -> float:
    size = np.abs(true).max()
    return float(np.abs(got - true).max() / size) if size else float(np.abs(got).max())


def starts(system: str, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((2, R, 3))
    return x[0] + 1j * x[1] if np.iscomplexobj(SYSTEMS[system]) else x[0]


@every_system
@every_grid
def test_states_and_gradients_are_those_of_ball_arithmetic(system: str, grid: str):
    Xi, z0, g, t = SYSTEMS[system], starts(system, 1), starts(system, 2), GRIDS[grid]
    tensors = [torch.tensor(x, requires_grad=True) for x in (Xi, z0, t[:, None])]
    z = linode.LinearODE(*tensors[:2])(tensors[2])
    (z[:, 0] * torch.tensor(g).conj()).sum().real.backward()
    true = np.stack([oracles.trajectory(Xi, z0[r], t[r : r + 1])[0] for r in range(R)])
    assert error(z.detach().numpy()[:, 0], true) < 2e-12
    grads = [oracles.gradients(Xi, z0[r], t[r : r + 1], g[r : r + 1]) for r in range(R)]
    assert error(tensors[0].grad.numpy(), sum(grad.S for grad in grads)) < 2e-12
    assert error(tensors[1].grad.numpy(), np.stack([grad.a for grad in grads])) < 2e-12
    assert error(tensors[2].grad.numpy(), np.stack([grad.dt for grad in grads])) < 2e-12


@every_grid
def test_batches_of_systems_equal_the_loop(grid: str):
    Xi = torch.tensor(np.stack([SYSTEMS["random"], SYSTEMS["stiff"]]))
    z0, t = torch.tensor(starts("random", 3)), torch.tensor(GRIDS[grid])[:, None]
    z = linode.LinearODE(Xi[:, None], z0)(t)
    for i in range(2):
        assert torch.allclose(z[i], linode.LinearODE(Xi[i], z0)(t), rtol=1e-11, atol=1e-12)


def test_times_of_both_signs_equal_the_loop():
    Xi, z0 = SYSTEMS["random"], starts("random", 4)
    t = RNG.standard_normal((R, 1))
    z = linode.LinearODE(Xi, z0)(t)
    true = np.stack([oracles.trajectory(Xi, z0[r], t[r])[0] for r in range(R)])
    assert error(z[:, 0], true) < 1e-13


def test_both_kinds_are_used_where_they_suit_and_only_there():
    assert one_time.makes_many(torch.full((R, 1), 0.5), 3) is one_time.OneTime
    assert one_time.makes_many(torch.rand(R, 1), 3) is one_time.OwnTimes
    assert one_time.makes_many(torch.randn(R, 1), 3) is None
    assert one_time.makes_many(torch.rand(6, 1), 3) is None


def test_columns_of_zeros_in_all_states_are_not_multiplied_and_change_nothing():
    Xi, z0, t = (torch.tensor(x) for x in (SYSTEMS["random"], starts("random", 5), GRIDS["own"]))
    z0[:, 1] = 0
    got = short(0.5 * Xi[None], t[None], z0[None])
    true = torch.linalg.matrix_exp(0.5 * Xi * t[:, None, None]) @ z0[..., None]
    assert torch.allclose(got[0], true[..., 0], rtol=1e-12, atol=1e-13)


def test_states_of_zeros_stay_there():
    assert not linode.LinearODE(np.eye(3), np.zeros((R, 3)))(np.full((R, 1), 0.1)).any()
    assert not linode.LinearODE(np.eye(3), np.zeros(3))([0.1]).any()


# ---- recurrences -----------------------------------------------------------------------------------------------------


def looped(E: Tensor, d: Tensor, x: Tensor) -> Tensor:
    """E (K, n, n)."""
    states = []
    for A, c in zip(E, d):
        x = A @ x + c
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("K", [1, 2, 3, 7, 8, 9, 10, 16, 17, 33, 257])
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_recurrences_equal_the_loop(K: int, n: int):
    rng = np.random.default_rng(K)
    A = torch.tensor(rng.standard_normal((n, n)) / n)
    d, x0 = torch.tensor(rng.standard_normal((K, n))), torch.tensor(rng.standard_normal(n))
    true = looped(A.expand(K, n, n), d, x0)
    powers = [torch.stack([torch.linalg.matrix_power(A, e) for e in level]) for level in exponents(K, n)]
    assert torch.allclose(steady(powers, d, x0)[..., 1:, :], true, rtol=1e-11, atol=1e-12)
    powers = [torch.linalg.matrix_power(A, e) for level in exponents_of_windows(K) for e in level]
    assert torch.allclose(windowed(torch.stack(powers), d, x0)[1:], true, rtol=1e-11, atol=1e-12)
    E = torch.tensor(rng.standard_normal((K, n, n)) / n)
    assert torch.allclose(changing(E, d, x0)[1:], looped(E, d, x0), rtol=1e-11, atol=1e-12)
    diagonal = torch.tensor(rng.uniform(-1, 1, (K, n)))
    assert torch.allclose(
        changing(diagonal, d, x0)[1:], looped(torch.diag_embed(diagonal), d, x0), rtol=1e-11, atol=1e-12
    )


def test_recurrences_of_batches_equal_those_of_their_elements():
    rng = np.random.default_rng(0)
    A, d, x0 = (torch.tensor(rng.standard_normal(s)) for s in ((3, 1, 2, 2), (3, 4, 50, 2), (3, 4, 2)))
    A = A / 3
    powers = [torch.stack([torch.linalg.matrix_power(A, e) for e in level], -3) for level in exponents(50, 2)]
    every = [torch.linalg.matrix_power(A, e) for level in exponents_of_windows(50) for e in level]
    other = windowed(torch.stack(every, -3), d, x0)[..., 1:, :]
    z = steady(powers, d, x0)[..., 1:, :]
    assert torch.allclose(z, other, rtol=1e-12, atol=1e-13)
    for i, j in np.ndindex(3, 4):
        assert torch.allclose(z[i, j], looped(A[i, 0].expand(50, 2, 2), d[i, j], x0[i, j]), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", ["eig", "propagator", "auto"])
def test_a_changing_recurrence_is_that_of_its_exponentials_in_windows_or_modes(method: str, monkeypatch):
    """Mode by mode where there are modes, else by the propagators of a few steps at a time."""
    monkeypatch.setattr(recurrence, "WINDOW_ENTRIES", 9 * 13)
    Xi, h = SYSTEMS["random"], np.random.default_rng(1).uniform(0, 0.3, 50)
    d, x = np.random.default_rng(2).standard_normal((50, 3)), np.ones(3)
    plan = linode.methods.make_method(method).plan(torch.tensor(Xi)[None])
    args = (torch.tensor(x)[None, None], torch.tensor(h)[None, None], torch.tensor(d)[None, None])
    got = recurrence.recur(plan, *args)[0, 0, 1:]
    E = torch.tensor(oracles.propagator(Xi, h))
    assert torch.allclose(got, looped(E, torch.tensor(d), torch.tensor(x)), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("n_systems", [1, 3])
def test_recurrences_go_through_modes_where_there_are_modes(n_systems: int, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(7)
    A = rng.standard_normal((4, 4)) / 2 - 0.3 * np.eye(4)
    plan = linode.methods.Eig(max_condition=1e6).plan(
        torch.tensor(np.stack([A * (1 + 0.01 * s) for s in range(n_systems)]))
    )
    monkeypatch.setattr(recurrence, "propagators", None)  # would be called for every step
    shapes = ((n_systems, 1, 4), (n_systems, 1, 9), (n_systems, 1, 9, 4))
    z0, h, d = (torch.tensor(rng.uniform(0, 1, shape)) for shape in shapes)
    x = recurrence.recur(plan, z0, h, d)
    for k in range(9):
        step = plan.evaluate(x[:, :, k], h[:, :, k : k + 1])[:, :, 0] + d[:, :, k]
        assert torch.allclose(x[:, :, k + 1], step, rtol=1e-12, atol=1e-12)
