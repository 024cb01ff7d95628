"""torch.compile's limits: what cannot work raises and never gives wrong numbers; and the operators themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import linode
from linode.engine import evaluation
from tests.compiling import TARGET, TIMES, XI, Z0, compile_, leaves, misfit, quiet, same

pytestmark = quiet


# ---- errors, never wrong numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", range(3))
def test_bad_values_raise_and_name_the_argument(bad: int):
    x = [XI.clone(), Z0.clone(), TIMES.clone()]
    step = compile_(misfit)
    step(*x)
    x[bad].view(-1)[1] = float("nan")
    with pytest.raises(linode.NonFiniteError, match=f"^{('Xi', 'z0', 't')[bad]} must be finite"):
        step(*x)


def test_wrong_shapes_raise():
    with pytest.raises(Exception, match="z0 has last size 2"):  # the compiler wraps what is raised while it traces
        compile_(misfit)(XI, Z0[:2], TIMES)


def test_a_method_that_cannot_be_accurate_raises():
    with pytest.raises(linode.MethodError, match="eig"):
        compile_(misfit)(torch.eye(3, dtype=torch.float64).roll(1, 0).triu(), Z0, TIMES, "eig")


def test_second_derivatives_of_a_compiled_function_raise():
    x = leaves()

    def second() -> None:
        first = torch.autograd.grad(compile_(misfit)(*x), x, create_graph=True)
        torch.autograd.grad(sum(d.sum() for d in first), x)

    with pytest.raises(RuntimeError):
        second()


@pytest.mark.parametrize("fullgraph", [True, False])
def test_forward_mode_through_a_compiled_function_raises_or_is_right(fullgraph: bool):
    true = torch.func.jvp(lambda A: misfit(A, Z0, TIMES), (XI,), (XI,))[1]
    step = compile_(misfit, fullgraph=fullgraph)
    step(XI, Z0, TIMES)  # compiled without a tangent, and called with one
    with forward_ad.dual_level():
        try:
            got = forward_ad.unpack_dual(step(forward_ad.make_dual(XI, XI), Z0, TIMES)).tangent
        except Exception:
            return
        assert got is not None
        assert same([got], [true])


def loss(A: Tensor) -> Tensor:
    return misfit(A, Z0, TIMES)


FIRST = {
    "grad": torch.func.grad(loss),
    "jacrev": torch.func.jacrev(lambda A: linode.LinearODE(A, Z0)(TIMES)),
    "vmap": lambda A: torch.func.vmap(loss)(torch.stack([A, A.mT])),
    "vmap of grad": lambda A: torch.func.vmap(torch.func.grad(loss))(torch.stack([A, A.mT])),
    "grad of vmap": torch.func.grad(lambda A: torch.func.vmap(loss)(torch.stack([A, 2 * A])).sum()),
    "vmap of vmap": lambda A: torch.func.vmap(torch.func.vmap(loss))(torch.stack([A, A.mT])[:, None]),
    "gradients of z0 for each sample": lambda A: torch.func.vmap(torch.func.grad(lambda v: misfit(A, v, TIMES)))(
        torch.stack([Z0, 2 * Z0])
    ),
    "grad of times": lambda A: torch.func.grad(lambda t: misfit(A, Z0, t))(TIMES),
    "expm": torch.func.grad(lambda A: linode.expm(A).sum()),
}
HIGHER = {
    "jvp": lambda A: torch.func.jvp(loss, (A,), (A,))[1],
    "grad of grad": torch.func.grad(lambda A: torch.func.grad(loss)(A).square().sum()),
    "forward over reverse": lambda A: torch.func.jvp(torch.func.grad(loss), (A,), (A,))[1],
}


@pytest.mark.parametrize("name", FIRST)
def test_first_derivatives_by_torch_func_are_one_graph(name: str):
    assert same([compile_(FIRST[name])(XI)], [FIRST[name](XI)], 1e-12)


@pytest.mark.parametrize("name", HIGHER)
def test_higher_derivatives_leave_the_graph_or_say_why_they_cannot_be_in_it(name: str):
    with pytest.raises(Exception, match=r"inside torch\.compile linode has first derivatives in reverse mode only"):
        compile_(HIGHER[name])(XI)


def test_a_hessian_product_leaves_the_graph_and_is_right():
    name = "forward over reverse"
    assert same([compile_(HIGHER[name], fullgraph=False)(XI)], [HIGHER[name](XI)], 1e-12)


@pytest.mark.parametrize("name", HIGHER)
def test_the_operators_alone_have_no_higher_derivatives(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        linode.ode, "trajectory", lambda Xi, z0, t, planner: torch.ops.linode.trajectory(Xi, z0, t, planner.key)
    )
    with pytest.raises(linode.NotDifferentiableError, match=r"torch\.compile"):
        HIGHER[name](XI)


READS = {
    "solve": lambda A: linode.LinearODE(A, Z0).solve(TIMES).z,
    "condition": lambda A: linode.LinearODE(A, Z0).condition(TIMES),
    "decomposition": lambda A: linode.LinearODE(A, Z0).decomposition.Xi,
    "explain": lambda A: A * len(linode.LinearODE(A, Z0).explain()),
}


@pytest.mark.parametrize("name", READS)
def test_what_reads_values_leaves_the_graph_or_says_what_to_do(name: str):
    assert same([compile_(READS[name], fullgraph=False)(XI)], [READS[name](XI)])
    with pytest.raises(Exception, match=f"{name} of linode reads values, .* or compile with fullgraph=False"):
        compile_(READS[name])(XI)


def test_lists_and_numbers_inside_a_compiled_function_are_double():
    def states(A: Tensor) -> Tensor:
        return linode.LinearODE(A, [1.0, 2.0, 3.0])([0, 1, 0.5])

    assert same([compile_(states)(XI)], [states(XI)])


# ---- the operators -----------------------------------------------------------------------------------------------


def key() -> str:
    return evaluation.Planner(linode.methods.Auto()).key


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_trajectory_operator_passes_opcheck(dtype: torch.dtype):
    x = [x.clone().requires_grad_() for x in (XI.to(dtype), Z0.to(dtype), TIMES)]
    assert set(torch.library.opcheck(torch.ops.linode.trajectory.default, (*x, key())).values()) == {"SUCCESS"}


def test_the_gradient_operator_passes_opcheck():
    args = (torch.stack([XI, XI.mT]), Z0, TIMES, TARGET.expand(2, 4, 3), key(), True)
    assert set(torch.library.opcheck(torch.ops.linode.trajectory_vjp.default, args).values()) == {"SUCCESS"}


def test_the_gradient_operator_is_right_beneath_a_dispatch_mode():
    args = (XI, Z0, TIMES, TARGET, key(), True)
    true = torch.ops.linode.trajectory_vjp(*args)
    with _Passing():
        assert same(list(torch.ops.linode.trajectory_vjp(*args)), list(true))


class _Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))
