"""One solver in many hands: its copies, its threads, and autograd's modes."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn

import linode
from linode.engine import evaluation
from tests.accuracy import GENERAL

METHODS = GENERAL
every_method = pytest.mark.parametrize("method", METHODS)
# near eigenvalues -1, 0.2 +- 1.5i, which every method accepts
XI = torch.tensor([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.5, -0.25, 2.0], dtype=torch.float64)


def fresh(Xi: Tensor, z0: Tensor) -> Tensor:
    """What a solver made of these values gives."""
    return linode.LinearODE(Xi.detach().clone(), z0.detach().clone())(TIMES)


def close(got: Tensor, true: Tensor, tolerance: float = 1e-13) -> bool:
    return torch.allclose(got.detach(), true.detach(), rtol=tolerance, atol=tolerance)


def move(x: Tensor) -> None:
    with torch.no_grad():
        x.copy_(x * 0.9 + 0.01)


# ---- copies and threads ------------------------------------------------------------------------------------------


def through_pickle(ode: linode.LinearODE) -> linode.LinearODE:
    return pickle.loads(pickle.dumps(ode))


def through_torch_save(ode: linode.LinearODE) -> linode.LinearODE:
    file = io.BytesIO()
    torch.save(ode, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, through_pickle, through_torch_save])
@pytest.mark.parametrize("choice", [*METHODS, linode.methods.Eig(max_condition=20.0)], ids=str)
def test_a_copy_gives_the_same_states(copied, choice: object):
    ode = linode.LinearODE(nn.Parameter(XI.clone()), Z0, method=choice)
    true = ode(TIMES)
    assert torch.equal(copied(ode)(TIMES), true)
    assert repr(copied(ode)) == repr(ode)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_a_deep_copy_does_not_follow_the_original(copied):
    Xi = nn.Parameter(XI.clone())
    ode = linode.LinearODE(Xi, Z0)
    true = ode(TIMES).detach()
    other = copied(ode)
    move(Xi)
    assert close(other(TIMES), true)
    assert other.Xi.requires_grad


def test_a_solver_in_a_module_is_copied_with_its_parameters():
    module = nn.Module()
    module.Xi = nn.Parameter(XI.clone())
    module.ode = linode.LinearODE(module.Xi, Z0)
    other = copy.deepcopy(module)
    move(other.Xi)
    assert other.ode.Xi is other.Xi
    assert close(other.ode(TIMES), fresh(other.Xi, Z0))
    assert close(module.ode(TIMES), fresh(XI, Z0))


@every_method
def test_eight_threads_may_share_a_solver(method: str):
    ode = linode.LinearODE(XI.clone().requires_grad_(), Z0, method=method)
    grids = [torch.linspace(0.0, 1.0 + k, 2 + 40 * (k % 2), dtype=torch.float64) for k in range(8)]
    alone = [linode.LinearODE(XI, Z0, method=method)(t) for t in grids]

    def ask(k: int) -> bool:
        return all(close(ode(grids[k]), alone[k]) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


@pytest.mark.parametrize(("precision", "n"), [("double", 256), ("double-double", 48)])
def test_threads_that_extend_the_same_powers_do_not_disturb_each_other(precision: str, n: int):
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / n**0.5
    method, z0 = linode.methods.Propagator(precision=precision), torch.ones(n, dtype=torch.float64)
    grids = [torch.tensor([1000.0 + k, 1024.0 - k / 64], dtype=torch.float64) for k in range(8)]  # many binary digits
    alone = [linode.LinearODE(A - A.mT, z0, method=method)(t) for t in grids]
    for _ in range(3):
        ode, barrier = linode.LinearODE(A - A.mT, z0, method=method), Barrier(8)
        ode(torch.tensor([0.1]))  # so that there are powers to extend

        def ask(k: int, ode=ode, barrier=barrier) -> Tensor:
            barrier.wait()
            return ode(grids[k])

        with ThreadPoolExecutor(8) as pool:
            for got, true in zip(pool.map(ask, range(8)), alone):
                assert (got - true).norm() <= 1e-9 * true.norm()


@every_method
def test_threads_with_their_own_matrices_may_share_a_planner(method: str):
    planner = evaluation.Planner(linode.methods.make_method(method))
    matrices = [(1 + 0.1 * k) * XI for k in range(8)]
    alone = [linode.LinearODE(Xi, Z0, method=method)(TIMES) for Xi in matrices]

    def ask(k: int) -> bool:
        return all(close(evaluation.evaluate(planner, matrices[k], Z0, TIMES), alone[k]) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


# ---- autograd's modes --------------------------------------------------------------------------------------------


@every_method
def test_modes_do_not_change_states(method: str):
    Xi = nn.Parameter(XI.clone())
    ode = linode.LinearODE(Xi, Z0, method=method)
    true = ode(TIMES)
    assert true.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            for z in (ode(TIMES), linode.LinearODE(Xi, Z0, method=method)(TIMES), ode.solve(TIMES).z):
                assert torch.equal(z, true)
                assert z.requires_grad == torch.is_grad_enabled()


def test_autocast_does_not_change_gradients():
    Xi, other = nn.Parameter(XI.float()), nn.Parameter(XI.float())
    with torch.autocast("cpu", torch.bfloat16):
        z = linode.LinearODE(Xi, Z0.float())(TIMES.float())
    assert z.dtype == torch.float32
    z.sum().backward()
    linode.LinearODE(other, Z0.float())(TIMES.float()).sum().backward()
    assert torch.equal(Xi.grad, other.grad)


def test_a_plan_made_in_inference_mode_serves_training():
    Xi = nn.Parameter(XI.clone())
    ode = linode.LinearODE(Xi, Z0)
    with torch.inference_mode():
        ode(TIMES)
        repr(ode.decomposition)
    ode(TIMES).sum().backward()
    true = nn.Parameter(XI.clone())
    linode.LinearODE(true, Z0)(TIMES).sum().backward()
    assert close(Xi.grad, true.grad)


def test_anomaly_detection_finds_nothing():
    Xi = nn.Parameter(torch.tensor([[-0.5, 1.0], [0.0, -0.5]]))
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        linode.LinearODE(Xi, torch.ones(2))(torch.linspace(0, 1, 3)).sum().backward()
    assert Xi.grad.isfinite().all()
