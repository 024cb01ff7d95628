"""linode.odeint: torchdiffeq's shapes and origin of time, without its tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import linode
from tests import oracles
from tests.accuracy import GENERAL

METHODS = GENERAL
XI = torch.tensor([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
TIMES = torch.tensor([0.5, 0.75, 1.5, 3.0], dtype=torch.float64)
ORDERS = {
    "increasing": [0.5, 0.75, 1.5, 3.0],
    "decreasing": [3.0, 1.5, 0.75, 0.5],
    "mixed": [0.5, -1.0, 2.0, 0.5, 0.0],
    "one": [0.7],
    "repeated_start": [0.5, 0.5, 1.0],
}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def close(got: Tensor, true: Tensor, tolerance: float = 1e-13) -> bool:
    return got.shape == true.shape and torch.allclose(got.detach(), true.detach(), rtol=tolerance, atol=tolerance)


# ---- by itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_initial_state_holds_at_the_first_time_in_whatever_order(method: str, order: str):
    t = np.array(ORDERS[order])
    z = linode.odeint(XI, Z0, torch.tensor(t), method=method)
    assert close(z, torch.tensor(oracles.trajectory(XI.numpy(), Z0.numpy(), t - t[0])))


def test_the_first_state_is_exactly_the_initial_state():
    assert torch.equal(linode.odeint(XI, Z0, TIMES)[0], Z0)


@pytest.mark.parametrize(
    ("Xi_batch", "z0_batch"), [((), ()), ((), (4,)), ((4,), ()), ((2, 1), (1, 4)), ((2,), (4, 2)), ((0,), ())]
)
def test_time_comes_first_and_the_batch_after_it(Xi_batch: tuple[int, ...], z0_batch: tuple[int, ...]):
    Xi, z0 = XI + 0.01 * draw(*Xi_batch, 3, 3), draw(*z0_batch, 3)
    z = linode.odeint(Xi, z0, TIMES)
    assert z.shape == (4, *torch.broadcast_shapes(Xi_batch, z0_batch), 3)
    assert torch.equal(z, linode.LinearODE(Xi, z0)(TIMES - TIMES[0]).movedim(-2, 0))


def test_gradients_are_those_of_the_oracle_and_the_first_time_takes_the_rest():
    x = [arg.clone().requires_grad_() for arg in (XI, Z0, TIMES)]
    g = draw(4, 3)
    S, a, dt = torch.autograd.grad((g * linode.odeint(*x)).sum(), x)
    true = oracles.gradients(XI.numpy(), Z0.numpy(), (TIMES - TIMES[0]).numpy(), g.numpy())
    assert close(S, torch.tensor(true.S))
    assert close(a, torch.tensor(true.a))
    assert close(dt[1:], torch.tensor(true.dt[1:]))
    assert close(dt[0], -torch.tensor(true.dt[1:]).sum())


def test_moving_all_times_together_changes_nothing():
    t = TIMES.clone().requires_grad_()
    z = linode.odeint(XI, Z0, t + 1024.0)
    assert torch.equal(z, linode.odeint(XI, Z0, TIMES))
    (dt,) = torch.autograd.grad(z.square().sum(), t)
    assert abs(float(dt.sum())) <= 1e-13 * float(dt.abs().sum())


def test_differences_of_single_precision_times_are_exact():
    t = torch.tensor([1e6, 1e6 + 0.5, 1e6 + 3.25])  # exact in float32
    z = linode.odeint(XI.float(), Z0.float(), t)
    assert z.dtype == torch.float32
    assert close(z, linode.odeint(XI, Z0, torch.tensor([0.0, 0.5, 3.25])).float(), 1e-6)


def test_integer_times_are_exact():
    start = 1_700_000_000  # seconds, no float32
    for t in (torch.tensor([start, start + 1]), np.array([start, start + 1]), [start, start + 1]):
        assert close(torch.as_tensor(linode.odeint(XI, Z0, t)), linode.odeint(XI, Z0, torch.tensor([0.0, 1.0])))


def test_options_reach_the_solver():
    shear = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(linode.MethodError, match="eig"):
        linode.odeint(shear, Z0[:2].float(), TIMES, method="eig")
    skewed = torch.tensor([[1.0, 1e4], [0.0, 1.5]], dtype=torch.float64)  # kappa(V) is about 1e9
    with pytest.raises(linode.MethodError):
        linode.odeint(skewed, Z0[:2], TIMES, method="eig")
    assert linode.odeint(skewed, Z0[:2], TIMES, method="eig", rtol=1e-3).isfinite().all()


# ---- beside torchdiffeq ------------------------------------------------------------------------------------------


def peer(*args: Tensor) -> Tensor:
    """torchdiffeq's answer to the same question, good to about 1e-9."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    Xi, z0, t = args
    return torchdiffeq.odeint(lambda _, z: (Xi @ z[..., None])[..., 0], z0, t, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("order", ["increasing", "decreasing"])
def test_states_are_those_of_torchdiffeq(order: str, batch: tuple[int, ...]):
    args = (XI, draw(*batch, 3), torch.tensor(ORDERS[order], dtype=torch.float64))
    assert close(linode.odeint(*args), peer(*args), 1e-7)


def test_gradients_are_those_of_torchdiffeq():
    grads = []
    for solve in (linode.odeint, peer):
        x = [arg.clone().requires_grad_() for arg in (XI, draw(2, 3), TIMES)]
        grads.append(torch.autograd.grad(solve(*x).square().sum(), x))
    (S, a, dt), (S_peer, a_peer, dt_peer) = grads
    assert close(S, S_peer, 1e-6)
    assert close(a, a_peer, 1e-6)
    assert close(dt[1:], dt_peer[1:], 1e-6)
    # its own derivative in t[0] is that of an autonomous system too, by whatever route
    assert close(dt[0], dt_peer[0], 1e-6)
