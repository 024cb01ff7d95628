"""torch.compile: the same numbers as eager code, new values seen, and errors where it cannot follow.

The default backend (inductor) needs a C++ compiler and runs once; the rest uses aot_eager, which traces the same
graphs, forward and backward, and compiles nothing.
"""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import linode
from linode import evaluation

# torch's own, while it imports and traces
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch._prims_common.check:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex:UserWarning"),
]

METHODS = sorted(linode.methods.registry())
CHOICES = [*METHODS, linode.methods.Eig(max_condition=20.0), linode.methods.Propagator(precision="double")]
# near eigenvalues -1, 0.2 +- 1.5i, which every method accepts
XI = torch.tensor([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.5, -0.25, 2.0], dtype=torch.float64)
TARGET = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)
NAN = float("nan")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def misfit(Xi: Tensor, z0: Tensor, t: Tensor, method: object = "auto") -> Tensor:
    return (linode.LinearODE(Xi, z0, method=method)(t) - TARGET.to(z0)).abs().square().mean()


def compile_(function, **options):
    return torch.compile(function, **{"fullgraph": True, "backend": "aot_eager", **options})


def leaves(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in (XI.to(dtype), Z0.to(dtype), TIMES)]


def with_gradients(function, x: list[Tensor], *args: object) -> list[Tensor]:
    value = function(*x, *args)
    return [value.detach(), *torch.autograd.grad(value, x)]


def same(got: list[Tensor], true: list[Tensor], rtol: float = 1e-13) -> bool:
    return all(a.dtype == b.dtype and torch.allclose(a, b, rtol=rtol, atol=rtol) for a, b in zip(got, true))


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


def test_the_gradient_operator_is_right_beneath_a_dispatch_mode():
    args = (XI, Z0, TIMES, TARGET, key(), True)
    true = torch.ops.linode.trajectory_vjp(*args)
    with _Passing():
        assert same(list(torch.ops.linode.trajectory_vjp(*args)), list(true))


class _Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


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
    got = trained(torch.compile(compiled_model, fullgraph=True), compiled_model)
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


# ---- errors, never wrong numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", range(3))
def test_bad_values_raise_and_name_the_argument(bad: int):
    x = [XI.clone(), Z0.clone(), TIMES.clone()]
    step = compile_(misfit)
    step(*x)
    x[bad].view(-1)[1] = NAN
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
    with pytest.raises(RuntimeError):
        first = torch.autograd.grad(compile_(misfit)(*x), x, create_graph=True)
        torch.autograd.grad(sum(d.sum() for d in first), x)


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
