"""torch.compile: the same numbers as eager code, and new values seen.

The default backend (inductor) needs a C++ compiler and runs once; the rest uses aot_eager, which traces the same
graphs, forward and backward, and compiles nothing.
"""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from torch import Tensor, nn

import linode
from linode.engine import evaluation
from tests.accuracy import GENERAL
from tests.compiling import TARGET, TIMES, XI, Z0, compile_, leaves, misfit, quiet, same, with_gradients

pytestmark = quiet

METHODS = GENERAL
CHOICES = [*METHODS, linode.methods.Eig(max_condition=20.0), linode.methods.Propagator(precision="double")]


# ---- the same numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CHOICES, ids=str)
def test_loss_and_gradients_equal_eager_ones_with_the_constructor_inside(method: object):
    got = with_gradients(compile_(lambda *x: misfit(*x, method)), leaves())
    assert same(got, with_gradients(misfit, leaves(), method))


STRUCTURES = {
    "rotation": [[0.0, 1.0], [-1.0, 0.0]],
    "symmetric": [[-1.0, 0.5], [0.5, 0.25]],
    "conjugate_pair": [[-0.25, 1.5], [-0.75, 0.125]],
    "jordan": [[-0.5, 1.0], [0.0, -0.5]],
    "hermitian": [[-1.0, 0.5 + 0.25j], [0.5 - 0.25j, 0.25]],
    "complex_symmetric": [[-1.0, 0.5 + 0.25j], [0.5 + 0.25j, 0.25]],
    "skew_hermitian": [[0.75j, 0.5 + 0.25j], [-0.5 + 0.25j, -0.25j]],
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_first_call_and_the_second_are_right_for_every_structure(name: str):
    # AOTAutograd runs a graph in a TorchDispatchMode once, beneath which x.conj() is silently x in an operator's body
    Xi = torch.tensor(STRUCTURES[name], dtype=torch.complex128 if name in list(STRUCTURES)[4:] else torch.float64)
    evaluation.recall.cache_clear()  # no plan from another test
    states = compile_(lambda A, v: linode.LinearODE(A, v)(TIMES))
    for _ in range(2):
        assert same([states(Xi, Z0[:2])], [linode.LinearODE(Xi, Z0[:2])(TIMES)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_other_dtypes_give_eager_numbers(dtype: torch.dtype):
    got = with_gradients(compile_(misfit), leaves(dtype))
    assert same(got, with_gradients(misfit, leaves(dtype)), 1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_solver_made_outside_gives_eager_numbers(fullgraph: bool):
    Xi, z0, t = leaves()
    ode = linode.LinearODE(Xi, z0)
    value = compile_(lambda s: ode(s).square().sum(), fullgraph=fullgraph)(t)
    got = torch.autograd.grad(value, (Xi, z0, t))
    true = torch.autograd.grad(ode(t).square().sum(), (Xi, z0, t))
    assert same(got, true)


def test_only_what_requires_grad_gets_one():
    Xi, z0, t = leaves()
    compile_(misfit)(Xi, z0.detach(), t.detach()).backward()
    true = torch.autograd.grad(misfit(Xi, z0, t), Xi)
    assert same([Xi.grad], true)
    assert (z0.grad, t.grad) == (None, None)


def test_batches_and_scalar_times_give_eager_shapes_and_numbers():
    def states(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
        return linode.LinearODE(Xi, z0)(t)

    x = (torch.stack([XI, XI.mT])[:, None], torch.stack([Z0, 2 * Z0, -Z0]), TIMES[1])
    assert same([compile_(states)(*x)], [states(*x)])
    assert compile_(states)(*x).shape == (2, 3, 3)


def test_expm_and_odeint_give_eager_numbers():
    def total(Xi: Tensor, z0: Tensor, t: Tensor) -> Tensor:
        return linode.expm(Xi).sum() + linode.odeint(Xi, z0, t).square().sum()

    assert same(with_gradients(compile_(total), leaves()), with_gradients(total, leaves()))


class Fit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Xi, self.z0 = nn.Parameter(XI.clone()), nn.Parameter(Z0.clone())

    def forward(self, t: Tensor) -> Tensor:
        return misfit(self.Xi, self.z0, t)


def trained(step, model: Fit, n_steps: int = 4) -> list[Tensor]:
    """Losses of a few steps, and the parameters after them."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(n_steps):
        optimiser.zero_grad()
        value = step(TIMES)
        value.backward()
        optimiser.step()
        losses.append(value.detach())
    return [*losses, *(p.detach() for p in model.parameters())]


@pytest.mark.skipif(shutil.which("g++") is None or sys.platform == "win32", reason="inductor needs a C++ compiler")
def test_training_with_the_default_compiler_equals_eager_training():
    compiled_model, eager_model = Fit(), Fit()
    got = trained(compile_(compiled_model, backend="inductor"), compiled_model)
    assert same(got, trained(eager_model, eager_model))


def test_training_with_a_solver_made_outside_equals_eager_training():
    model, eager_model = Fit(), Fit()
    ode = linode.LinearODE(model.Xi, model.z0)
    got = trained(compile_(lambda t: (ode(t) - TARGET).square().mean()), model)
    assert same(got, trained(eager_model, eager_model))


# ---- nothing stale -----------------------------------------------------------------------------------------------


def test_changed_values_give_new_numbers_without_compiling_again():
    count = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    step = compile_(misfit, backend=count)
    for scale in (1.0, 0.5, 2.0):
        x = [scale * XI, Z0, TIMES]
        assert same([step(*x)], [misfit(*x)])
    assert count.frame_count == 1


def test_other_numbers_of_times_give_eager_numbers():
    step = compile_(lambda t: linode.LinearODE(XI, Z0)(t))
    for n_times in (4, 3, 2, 0):
        assert same([step(TIMES[:n_times])], [linode.LinearODE(XI, Z0)(TIMES[:n_times])])


def test_another_method_gives_another_plan():
    # kappa(V) of XI is above 1 and below 20: the first accepts it, the second must refuse
    step = compile_(misfit)
    step(XI, Z0, TIMES, linode.methods.Eig(max_condition=20.0))
    with pytest.raises(linode.MethodError, match=r"max_condition|kappa"):
        step(XI, Z0, TIMES, linode.methods.Eig(max_condition=1.0))


def test_two_solvers_with_different_options_do_not_share_them():
    strict = linode.LinearODE(XI, Z0, method=linode.methods.Eig(max_condition=1.0))
    loose = linode.LinearODE(XI, Z0, method=linode.methods.Eig(max_condition=20.0))
    step = compile_(lambda ode, t: ode(t).sum())
    assert same([step(loose, TIMES)], [loose(TIMES).sum()])
    with pytest.raises(linode.MethodError):
        step(strict, TIMES)


def test_real_and_complex_systems_do_not_share_a_plan():
    step = compile_(lambda Xi, z0: linode.LinearODE(Xi, z0)(TIMES))
    for z0 in (Z0, Z0 * (1 + 1j), Z0):
        assert same([step(XI, z0)], [linode.LinearODE(XI, z0)(TIMES)])


# ---- forcing -------------------------------------------------------------------------------------------------------


def driven(Xi: Tensor, B: Tensor, values: Tensor) -> Tensor:
    u = linode.ZeroOrderHold(torch.arange(5, dtype=torch.float64) / 4, values)
    return linode.LinearODE(Xi, Z0[:2], B=B, u=u)(TIMES).square().sum()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, at a graph break
def test_forced_problems_break_the_graph_and_give_eager_numbers():
    arguments = [torch.tensor(STRUCTURES["rotation"], dtype=torch.float64, requires_grad=True)]
    arguments += [torch.ones(2, 1, dtype=torch.float64, requires_grad=True)]
    arguments += [torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None].requires_grad_()]
    got = torch.autograd.grad(torch.compile(driven, backend="aot_eager")(*arguments), arguments)
    assert same(got, torch.autograd.grad(driven(*arguments), arguments))


def test_discretize_is_one_graph():
    arguments = [torch.tensor(STRUCTURES["jordan"], dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)]

    def gains(Xi: Tensor, B: Tensor) -> list[Tensor]:
        return list(linode.discretize(Xi, B, 0.5, hold="first"))

    assert same(compile_(gains)(*arguments), gains(*arguments))
