"""Systems that switch: against ball arithmetic, against LinearODE where nothing switches, and their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import linode
from tests import forced_oracles as oracle

RNG = np.random.default_rng(11)
SWITCHES = np.array([-0.6, 0.7])
SYSTEMS = {
    "random": RNG.standard_normal((3, 3, 3)),
    "integrators": np.stack([np.diag([1.0, 1.0], 1), np.zeros((3, 3)), np.diag([2.0, -1.0], -1)]),
    "unlike": np.stack([-np.eye(3), np.diag([0.0, -1e4, -1.0]) + np.diag([1.0, 1.0], 1), RNG.standard_normal((3, 3))]),
}
every_system = pytest.mark.parametrize("system", SYSTEMS)
KINDS = {
    "zero": (oracle.zero_order, linode.ZeroOrderHold),
    "first": (oracle.first_order, linode.FirstOrderHold),
    "impulses": (oracle.impulses, linode.Impulses),
}
Z0, FORCE, GAIN = RNG.standard_normal(3), RNG.standard_normal(3), RNG.standard_normal((3, 2))
TIMES, VALUES = np.array([-0.4, 0.2, 0.9]), RNG.standard_normal((3, 2))
AT = np.array([0.0, 1.5, 0.3, 0.7, -0.5, -1.5, 0.3])
I2 = np.eye(2)
NAMES = ("Xi", "z0", "t", "b", "B", "times", "values", "switches")


def solve(kind: str, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any, switches: Any) -> Any:
    pieces = [(-9.0, Xi[0]), *zip(switches, Xi[1:])]
    return linode.PiecewiseLinearODE(pieces, z0, b=b, B=B, u=KINDS[kind][1](times, values))(t)


def error(got: Any, true: np.ndarray) -> float:
    return float(np.abs(np.asarray(got) - true).max() / np.abs(true).max())


@pytest.mark.parametrize("kind", KINDS)
@every_system
def test_solution_and_gradients_are_those_of_ball_arithmetic(kind: str, system: str):
    t = AT[AT >= 0] if system == "unlike" else AT[AT != 0.7]  # against time the stiff piece grows by e^6000
    t = t[t != 0.7]
    arguments = [SYSTEMS[system], Z0, t, FORCE, GAIN, TIMES, VALUES, SWITCHES]
    true = oracle.solution(KINDS[kind][0], *arguments)
    tensors = [torch.tensor(x, requires_grad=True) for x in arguments]
    z = solve(kind, *tensors)
    assert error(z.detach(), true) < 1e-13
    g = np.random.default_rng(1).standard_normal(true.shape)
    (z * torch.tensor(g)).sum().backward()
    for name, x, grad in zip(NAMES, tensors, oracle.gradients(KINDS[kind][0], g, *arguments)):
        if np.abs(grad).max() > 0:
            assert error(x.grad, grad) < 1e-11, name


@every_system
def test_without_forcing_it_is_a_product_of_exponentials(system: str):
    Xi = SYSTEMS[system]
    ode = linode.PiecewiseLinearODE([(0.0, Xi[0]), (0.5, Xi[1]), (1.25, Xi[2])], Z0)
    P = [linode.expm(Xi[0] * 0.5), linode.expm(Xi[1] * 0.75), linode.expm(Xi[2] * 0.25)]
    assert np.allclose(ode(1.5), P[2] @ P[1] @ P[0] @ Z0, rtol=1e-12, atol=1e-13)
    assert np.allclose(ode.propagator([1.25, 1.5])[1], P[2] @ P[1] @ P[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_switching_to_the_same_system_changes_nothing(kind: str):
    Xi = SYSTEMS["random"][0]
    got = solve(kind, np.stack([Xi] * 3), Z0, AT, FORCE, GAIN, TIMES, VALUES, SWITCHES)
    true = linode.LinearODE(Xi, Z0, b=FORCE, B=GAIN, u=KINDS[kind][1](TIMES, VALUES))(AT)
    assert np.allclose(got, true, rtol=1e-12, atol=1e-13)


def test_harmonics_drive_switching_systems():
    Xi, u = SYSTEMS["random"], linode.Harmonics([2j, -0.5], [[1.0, 0.5], [0.0, 1.0]])
    ode = linode.PiecewiseLinearODE([(0.0, Xi[0]), (0.5, Xi[1])], Z0, B=GAIN, u=u)
    first = linode.LinearODE(Xi[0], Z0, B=GAIN, u=u)
    assert np.allclose(ode([0.3, -0.5]), first([0.3, -0.5]), rtol=1e-12)
    later = linode.Harmonics(u.rates, u.amplitudes.numpy() * np.exp(u.rates.numpy() * 0.5)[:, None])
    rest = linode.LinearODE(Xi[1], first(0.5), B=GAIN, u=later)
    assert np.allclose(ode(1.2), rest(0.7), rtol=1e-12)


def test_many_times_between_few_switches_and_many_switches_agree_with_stepping():
    rng = np.random.default_rng(3)
    Xi, switches = 0.3 * rng.standard_normal((60, 4, 4)), np.arange(60) * 0.25
    z0, t = rng.standard_normal(4), np.sort(rng.uniform(0, 16, 500))
    ode = linode.PiecewiseLinearODE(list(zip(switches, Xi)), z0)
    states = [z0]
    for A in Xi:
        states.append(linode.expm(A * 0.25) @ states[-1])
    k = np.minimum((t // 0.25).astype(int), 59)
    true = np.stack([linode.LinearODE(Xi[i], states[i])(s - 0.25 * i) for i, s in zip(k, t)])
    assert np.allclose(ode(t), true, rtol=1e-10, atol=1e-11 * np.abs(true).max())


def test_times_before_the_first_piece_belong_to_it_and_z0_holds_at_0():
    ode = linode.PiecewiseLinearODE([(2.0, [[1.0]]), (3.0, [[0.0]])], [1.0])
    assert np.allclose(ode([0.0, 1.0, -1.0, 3.0, 5.0])[:, 0], np.exp([0.0, 1.0, -1.0, 3.0, 3.0]))


def test_solve_explain_and_condition_are_there():
    Xi = SYSTEMS["random"]
    ode = linode.PiecewiseLinearODE([(0.0, Xi[0]), (0.5, Xi[1])], Z0, b=FORCE)
    solution = ode.solve(AT)
    assert np.array_equal(solution.z, ode(AT))
    assert solution.status
    assert solution.stats.n_systems == 2
    assert float(ode.condition(AT)) == pytest.approx(float(solution.condition))
    assert "2 systems of 3 x 3" in ode.explain(AT)
    assert "constant b" in ode.explain()
    assert "PiecewiseLinearODE" in repr(ode)


def test_condition_is_that_of_the_jacobian():
    """Largest singular value of the derivative by all matrices, times their norm, over that of z."""
    Xi, z0 = torch.tensor(SYSTEMS["random"][:2]), torch.tensor(Z0)

    def f(Xi: torch.Tensor) -> torch.Tensor:
        return linode.PiecewiseLinearODE([(0.0, Xi[0]), (0.5, Xi[1])], z0)([0.3, 1.0])

    J = torch.autograd.functional.jacobian(f, Xi).reshape(6, 18)
    true = torch.linalg.matrix_norm(J, 2) * Xi.norm() / f(Xi).norm()
    ode = linode.PiecewiseLinearODE([(0.0, Xi[0]), (0.5, Xi[1])], z0)
    assert 0.8 * true <= ode.condition([0.3, 1.0]) <= 1.001 * true


def test_arrays_in_are_arrays_out():
    ode = linode.PiecewiseLinearODE([(0.0, I2), (1.0, -I2)], [1.0, 1.0])
    assert isinstance(ode([1.0]), np.ndarray)
    assert isinstance(ode.propagator([1.0]), np.ndarray)


def test_batches_of_switching_systems_have_propagators():
    Xi = torch.tensor(SYSTEMS["random"])
    ode = linode.PiecewiseLinearODE([(0.0, Xi), (0.5, -Xi)], torch.tensor(Z0))
    P = ode.propagator([0.25, 1.0])
    assert P.shape == (3, 2, 3, 3)
    assert torch.allclose(P[:, 1], torch.eye(3, dtype=torch.float64).expand(3, 3, 3), atol=1e-12)
    assert torch.allclose(ode([0.25, 1.0]), (P @ torch.tensor(Z0)), atol=1e-12)


@pytest.mark.parametrize(
    ("pieces", "kind", "message"),
    [
        ([(0.0, I2), (0.0, I2)], linode.OrderError, r"times of pieces\[1\] = 0 repeats 0"),
        ([(1.0, I2), (0.0, I2)], linode.OrderError, r"times of pieces must increase"),
        ([(0.0, I2), (np.nan, I2)], linode.NonFiniteError, r"times of pieces\[1\] is nan"),
        ([(0.0, I2), (1.0, np.eye(3))], linode.ShapeError, r"Xi of piece 1 has shape \(3, 3\)"),
        ([(0.0, np.ones((2, 3)))], linode.ShapeError, r"Xi of piece 0 has shape \(2, 3\)"),
        ([(0.0, I2), (1.0, np.full((2, 2), np.inf))], linode.NonFiniteError, "Xi"),
        ([([0.0, 1.0], I2)], linode.ShapeError, r"time of piece 0 has shape \(2,\)"),
        ([(1j, I2)], linode.DtypeError, "time of piece 0 must be real"),
        ([], linode.ShapeError, "pieces must be a sequence of pairs"),
        (I2, linode.ShapeError, "Xi of piece 0"),
        (3.0, linode.ShapeError, "pieces must be a sequence of pairs"),
    ],
)
def test_pieces_that_cannot_be_used_are_named(pieces: Any, kind: type, message: str):
    with pytest.raises(kind, match=message):
        linode.PiecewiseLinearODE(pieces, [1.0, 1.0])


def test_inputs_with_times_of_their_own_raise():
    u = linode.ZeroOrderHold(np.zeros((2, 3)) + np.arange(3), np.zeros((2, 3, 2)))
    with pytest.raises(linode.ShapeError, match=r"times of an input have shape \(2, 3\)"):
        linode.PiecewiseLinearODE([(0.0, I2), (1.0, I2)], [1.0, 1.0], u=u)([1.0])
