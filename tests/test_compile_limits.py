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


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("name", ["jvp", "vmap", "grad", "hessian"])
def test_func_transforms_inside_a_compiled_function_raise_or_are_right(name: str, fullgraph: bool):
    def transformed(Xi: Tensor) -> Tensor:
        def one(A: Tensor) -> Tensor:
            return misfit(A, Z0, TIMES)

        if name == "jvp":
            return torch.func.jvp(one, (Xi,), (Xi,))[1]
        if name == "vmap":
            return torch.func.vmap(one)(torch.stack([Xi, Xi.mT]))
        return getattr(torch.func, name)(one)(Xi)

    true = transformed(XI)
    try:
        got = compile_(transformed, fullgraph=fullgraph)(XI)
    except Exception:
        return
    assert same([got], [true], 1e-12)


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
