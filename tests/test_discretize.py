"""discretize against ball arithmetic and scipy.signal.cont2discrete, and state-space objects of other packages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch

import linode
from tests import forced_oracles as oracle
from tests.test_forced import SYSTEMS

RNG = np.random.default_rng(5)
GAIN = RNG.standard_normal((3, 2))
every_system = pytest.mark.parametrize("system", SYSTEMS)


def error(got: Any, true: np.ndarray) -> float:
    return float(np.abs(np.asarray(got) - true).max() / max(np.abs(true).max(), 1e-300))


def truth(Xi: np.ndarray, dt: float, kind: Any, values: Any) -> np.ndarray:
    """The state at dt from 0, one input sample of each channel at a time: columns of the gain."""
    columns = []
    for channel in np.eye(2):
        samples = np.multiply.outer(values, channel)
        columns.append(oracle.solution(kind, Xi, np.zeros(3), [dt], np.zeros(3), GAIN, [0.0, dt], samples)[0])
    return np.stack(columns, -1)


@every_system
@pytest.mark.parametrize("dt", [0.1, 2.0])
def test_gains_are_those_of_ball_arithmetic(system: str, dt: float):
    Xi = SYSTEMS[system]
    Ad, Bd = linode.discretize(Xi, GAIN, dt)
    start = [
        oracle.solution(oracle.zero_order, Xi, e, [dt], np.zeros(3), GAIN, [0.0], [[0.0, 0.0]])[0] for e in np.eye(3)
    ]
    assert error(Ad, np.stack(start, -1)) < 1e-13
    assert error(Bd, truth(Xi, dt, oracle.zero_order, [1.0, 0.0])) < 1e-13
    Ad, B0, B1 = linode.discretize(Xi, GAIN, dt, hold="first")
    assert error(Ad, np.stack(start, -1)) < 1e-13
    assert error(B0, truth(Xi, dt, oracle.first_order, [1.0, 0.0])) < 1e-13
    assert error(B1, truth(Xi, dt, oracle.first_order, [0.0, 1.0])) < 1e-13


@pytest.mark.parametrize("dt", [1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e9])
def test_gains_are_exact_to_rounding_however_fast_the_samples_are(dt: float, gain: float):
    """Eigenvectors of the system of z and u would make gains a difference of numbers larger by 1 / (|Xi| dt)."""
    Xi, B = np.array([[-1.0, -2.0, 0.0], [5.0, 2.0, 0.0], [1.0, -3.0, -4.0]]), gain * np.array([[-2.0], [1.0], [1.0]])

    def after(kind: Any, values: Any) -> np.ndarray:
        return oracle.solution(kind, Xi, np.zeros(3), [dt], np.zeros(3), B, [0.0, dt], values)[0]

    _, Bd = linode.discretize(Xi, B, dt)
    assert error(Bd[:, 0], after(oracle.zero_order, [[1.0], [0.0]])) < 1e-15
    _, B0, B1 = linode.discretize(Xi, B, dt, "first")
    assert error(B0[:, 0], after(oracle.first_order, [[1.0], [0.0]])) < 1e-15
    assert error(B1[:, 0], after(oracle.first_order, [[0.0], [1.0]])) < 1e-15


@pytest.mark.parametrize("system", ["random", "defective", "oscillator", "integrators"])
def test_results_agree_with_cont2discrete(system: str):
    Xi, C, D = SYSTEMS[system], np.eye(3), np.zeros((3, 2))
    Ad, Bd, *_ = scipy.signal.cont2discrete((Xi, GAIN, C, D), 0.25, "zoh")
    assert all(error(x, y) < 1e-13 for x, y in zip(linode.discretize(Xi, GAIN, 0.25), (Ad, Bd)))
    Ad, Bd, _, Dd, _ = scipy.signal.cont2discrete((Xi, GAIN, C, D), 0.25, "foh")
    phi, B0, B1 = linode.discretize(Xi, GAIN, 0.25, hold="first")
    # scipy's state is z - B1 u
    assert error(phi, Ad) < 1e-13
    assert error(B1, Dd) < 1e-13
    assert error(B0 + phi @ B1, Bd) < 1e-13


@pytest.mark.parametrize(("hold", "cls"), [("zero", linode.ZeroOrderHold), ("first", linode.FirstOrderHold)])
def test_the_recurrence_gives_the_trajectory(hold: str, cls: Any):
    Xi, values, z = SYSTEMS["random"], RNG.standard_normal((9, 2)), RNG.standard_normal(3)
    whole = linode.LinearODE(Xi, z, B=GAIN, u=cls(np.arange(9) * 0.5, values))(np.arange(9) * 0.5)
    Ad, *gains = linode.discretize(Xi, GAIN, 0.5, hold=hold)
    for k in range(8):
        z = Ad @ z + sum(G @ u for G, u in zip(gains, values[k:]))
        assert np.allclose(z, whole[k + 1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("hold", ["zero", "first"])
def test_derivatives_pass_gradcheck_also_of_a_singular_system(hold: str):
    for system in ("random", "integrators"):
        arguments = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (SYSTEMS[system], GAIN, 0.7)]
        assert torch.autograd.gradcheck(lambda *x: linode.discretize(*x, hold=hold), arguments)
        assert torch.autograd.gradgradcheck(lambda *x: linode.discretize(*x, hold=hold), arguments)


def test_batches_equal_the_loop_and_broadcast():
    Xi, B, dt = torch.randn(4, 1, 3, 3).double(), torch.randn(5, 3, 2).double(), torch.rand(4, 5).double()
    for hold in ("zero", "first"):
        out = linode.discretize(Xi, B, dt, hold=hold)
        assert out[0].shape == (4, 5, 3, 3)
        assert all(x.shape == (4, 5, 3, 2) for x in out[1:])
        for i, j in np.ndindex(4, 5):
            own = linode.discretize(Xi[i, 0], B[j], dt[i, j], hold=hold)
            assert all(torch.allclose(x[i, j], y, rtol=1e-12, atol=1e-13) for x, y in zip(out, own))
    per_sample = torch.func.vmap(lambda x: linode.discretize(Xi[0, 0], B[0], x))(dt[0])
    assert torch.allclose(per_sample[1][2], linode.discretize(Xi[0, 0], B[0], dt[0, 2])[1])


def test_types_are_those_of_the_arguments():
    assert all(x.dtype == torch.float32 for x in linode.discretize(torch.eye(2), torch.ones(2, 1), 0.1))
    assert all(isinstance(x, np.ndarray) for x in linode.discretize([[1, 0], [0, 1]], [[1], [0]], 1))
    assert linode.discretize(np.eye(2) * 1j, np.ones((2, 1)), 0.1)[0].dtype == np.complex128


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([[1.0, 2.0]], [[1.0]], 0.1), linode.ShapeError, "Xi has shape"),
        (([[1.0]], [[1.0], [2.0]], 0.1), linode.ShapeError, r"B has shape \(2, 1\), but Xi is 1 x 1"),
        (([[1.0]], [[1.0]], 1j), linode.DtypeError, "dt must be real"),
        (([[1.0]], [[1.0]], np.nan), linode.NonFiniteError, "dt"),
        (([[np.inf]], [[1.0]], 0.1), linode.NonFiniteError, r"Xi\[0, 0\] is inf"),
        (([[1.0]], [[1.0]], 0.1, "third"), linode.OptionError, "hold must be 'zero' or 'first', got 'third'"),
        ((np.zeros((2, 1, 1)), [[1.0]], np.ones(3)), linode.ShapeError, "do not broadcast"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments: Any, kind: type, message: str):
    with pytest.raises(kind, match=message):
        linode.discretize(*arguments)


# ---- state-space objects ---------------------------------------------------------------------------------------------

A, B, C, D = SYSTEMS["oscillator"], GAIN, RNG.standard_normal((1, 3)), RNG.standard_normal((1, 2))


def foreign() -> Any:
    """As control.StateSpace looks from outside: matrices, and dt = 0 for continuous time."""
    return SimpleNamespace(A=A, B=B, C=C, D=D, dt=0)


@pytest.mark.parametrize("system", [scipy.signal.StateSpace(A, B, C, D), foreign()], ids=["scipy", "control"])
def test_state_space_systems_come_in_and_go_out_unchanged(system: Any):
    out = linode.LinearODE.from_statespace(system).to_statespace()
    assert isinstance(out, scipy.signal.StateSpace)
    assert all(np.array_equal(getattr(out, name), getattr(system, name)) for name in "ABCD")
    other = linode.LinearODE.from_statespace(system).to_statespace(lambda *x: SimpleNamespace(**dict(zip("ABCD", x))))
    assert np.array_equal(other.D, D)


def test_systems_of_python_control_come_in_and_go_out_unchanged():
    control = pytest.importorskip("control")
    system = control.StateSpace(A, B, C, D)
    out = linode.LinearODE.from_statespace(system).to_statespace(control.StateSpace)
    assert isinstance(out, control.StateSpace)
    assert all(np.array_equal(getattr(out, name), getattr(system, name)) for name in "ABCD")
    with pytest.raises(linode.OptionError, match="discrete time"):
        linode.LinearODE.from_statespace(control.StateSpace(A, B, C, D, 0.1))
    with pytest.raises(linode.OptionError, match="discrete time"):
        linode.LinearODE.from_statespace(control.StateSpace(A, B, C, D, True))
    t, u = np.arange(100) * 0.05, RNG.standard_normal((100, 2))
    true = control.forced_response(system, t, u.T, np.ones(3))
    ode = linode.LinearODE.from_statespace(system, np.ones(3), u=linode.FirstOrderHold(t, u))
    assert np.allclose(ode(t), true.states.T, rtol=1e-10, atol=1e-11)
    assert np.allclose(ode.output(t), true.outputs.T.reshape(100, 1), rtol=1e-10, atol=1e-11)


def test_output_is_that_of_lsim():
    t, u, z0 = np.arange(200) * 0.05, RNG.standard_normal((200, 2)), RNG.standard_normal(3)
    ode = linode.LinearODE.from_statespace(foreign(), z0, u=linode.FirstOrderHold(t, u))
    _, y, x = scipy.signal.lsim(scipy.signal.StateSpace(A, B, C, D), u, t, z0)
    assert np.allclose(ode.output(t)[:, 0], y, rtol=1e-10, atol=1e-11)
    assert np.allclose(ode(t), x, rtol=1e-10, atol=1e-11)


def test_output_takes_any_mixture_of_types():
    for z0, values in (
        (np.zeros(3), torch.ones(1, 2)),
        (torch.zeros(3), np.ones((1, 2))),
        (np.zeros(3), np.ones((1, 2))),
    ):
        ode = linode.LinearODE.from_statespace(foreign(), z0, u=linode.ZeroOrderHold([0.0], values))
        assert np.allclose(ode.output([1.0]), np.asarray(ode(1.0)) @ C.T + D @ np.ones(2))
        assert ode.output(1.0).shape == (1,)


def test_a_transfer_function_is_converted():
    ode = linode.LinearODE.from_statespace(scipy.signal.TransferFunction([1.0], [1.0, 3.0, 2.0]))
    assert sorted(np.linalg.eigvals(ode.Xi.numpy())) == pytest.approx([-2.0, -1.0])


def test_a_solver_without_output_gives_its_states():
    system = linode.LinearODE(torch.tensor(A), torch.zeros(3), B=torch.tensor(B)).to_statespace()
    assert np.array_equal(system.C, np.eye(3))
    assert np.array_equal(system.D, np.zeros((3, 2)))
    assert linode.LinearODE(A, np.zeros(3), u=linode.Harmonics([1.0], np.ones((1, 3)))).to_statespace().B.shape == (
        3,
        3,
    )
    with pytest.raises(linode.OptionError, match="from_statespace"):
        linode.LinearODE(A, np.zeros(3)).output([1.0])


@pytest.mark.parametrize(
    ("system", "kind", "message"),
    [
        (scipy.signal.StateSpace(A, B, C, D, dt=0.1), linode.OptionError, r"discrete time \(dt = 0.1\)"),
        (SimpleNamespace(A=A, B=B, C=C, D=D, dt=True), linode.OptionError, "discrete time"),
        (SimpleNamespace(A=A, B=B), linode.DtypeError, "has no C, D"),
        ("text", linode.DtypeError, "str has no A, B, C, D"),
    ],
)
def test_systems_that_cannot_be_used_are_named(system: Any, kind: type, message: str):
    with pytest.raises(kind, match=message):
        linode.LinearODE.from_statespace(system)


def test_batches_have_no_state_space_object():
    with pytest.raises(linode.ShapeError, match="no batch dimensions"):
        linode.LinearODE(np.zeros((2, 3, 3)), np.zeros(3)).to_statespace()
