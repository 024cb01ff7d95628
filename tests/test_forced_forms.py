"""Forced problems in every form that torch offers: batches, transforms, derivatives of second order, types, updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import linode
from linode.engine.evaluation import Planner
from linode.kernels import forced

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

KINDS = {"zero": linode.ZeroOrderHold, "first": linode.FirstOrderHold, "impulses": linode.Impulses}
every_kind = pytest.mark.parametrize("kind", KINDS)
NAMES = ("Xi", "z0", "t", "b", "B", "times", "values")
TIMES = torch.tensor([-0.7, 0.2, 0.9], dtype=torch.float64)
ROUNDING = {"rtol": 1e-11, "atol": 1e-12}


def draw(*shape: int, seed: int = 0, is_complex: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.complex128 if is_complex else torch.float64)


def problem(**batches: tuple[int, ...]) -> list[Tensor]:
    """Arguments with batch dimensions by name."""

    def of(name: str) -> tuple[int, ...]:
        return batches.get(name, ())

    return [
        draw(*of("Xi"), 2, 2, seed=1),
        draw(*of("z0"), 2, seed=2),
        torch.tensor([1.3, 0.0, -0.4, 0.5], dtype=torch.float64) + 0.01 * draw(*of("t"), 4, seed=3),
        draw(*of("b"), 2, seed=4),
        draw(*of("B"), 2, 2, seed=5),
        TIMES + 0.05 * draw(*of("times"), 3, seed=6),
        draw(*of("values"), 3, 2, seed=7),
    ]


def solve(kind: str, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any) -> Any:
    return linode.LinearODE(Xi, z0, b=b, B=B, u=KINDS[kind](times, values))(t)


def switched(kind: str, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any) -> Any:
    pieces = [(-0.3, Xi), (0.4, -0.5 * Xi), (1.1, Xi.mT)]
    return linode.PiecewiseLinearODE(pieces, z0, b=b, B=B, u=KINDS[kind](times, values))(t)


# ---- batches -----------------------------------------------------------------------------------------------------

BATCHES = [{name: (3,)} for name in NAMES] + [
    {"Xi": (2, 1), "values": (3,)},
    {"t": (3,), "times": (3,), "values": (3,)},
    {"z0": (2, 1), "b": (3,), "B": (2, 3)},
]


@every_kind
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_batches_equal_the_loop(kind: str, batches: dict[str, tuple[int, ...]]):
    arguments = problem(**batches)
    shape = torch.broadcast_shapes(*batches.values())
    z = solve(kind, *arguments)
    assert z.shape == (*shape, 4, 2)
    own = (2, 1, 1, 1, 2, 1, 2)
    whole = [x.expand(*shape, *x.shape[x.ndim - k :]) for x, k in zip(arguments, own)]
    for index in np.ndindex(*shape):
        assert torch.allclose(z[index], solve(kind, *(x[index] for x in whole)), **ROUNDING)


@pytest.mark.parametrize("batches", [{"Xi": (3,)}, {"values": (3,)}, {"z0": (2, 1), "b": (3,)}, {"t": (3,)}], ids=str)
def test_batches_of_switching_systems_equal_the_loop(batches: dict[str, tuple[int, ...]]):
    arguments = problem(**batches)
    shape = torch.broadcast_shapes(*batches.values())
    z = switched("first", *arguments)
    own = (2, 1, 1, 1, 2, 1, 2)
    whole = [x.expand(*shape, *x.shape[x.ndim - k :]) for x, k in zip(arguments, own)]
    for index in np.ndindex(*shape):
        assert torch.allclose(z[index], switched("first", *(x[index] for x in whole)), **ROUNDING)


def test_gradients_of_batches_equal_those_of_the_loop():
    for kind in KINDS:
        arguments = [x.requires_grad_() for x in problem(t=(3,), times=(3,), values=(3,))]
        g = draw(3, 4, 2, seed=9)
        got = torch.autograd.grad((solve(kind, *arguments) * g).sum(), arguments)
        total = 0
        for i in range(3):
            own = [x[i] if x.ndim > r else x for x, r in zip(arguments, (2, 1, 1, 1, 2, 1, 2))]
            total = total + (solve(kind, *own) * g[i]).sum()
        assert all(torch.allclose(x, y, **ROUNDING) for x, y in zip(got, torch.autograd.grad(total, arguments)))


@every_kind
def test_large_batches_of_long_inputs_have_the_gradients_of_their_elements(kind: str):
    """More states than NumPy is used for, few in each system."""
    Xi, z0, _, b, B, *_ = problem()
    times, values, g = torch.arange(500) / 50.0, draw(48, 500, 2, seed=1), draw(48, 500, 2, seed=2)
    arguments = [x.clone().requires_grad_() for x in (Xi - 2 * torch.eye(2), z0, b, B, values)]

    def run(Xi: Tensor, z0: Tensor, b: Tensor, B: Tensor, values: Tensor) -> Tensor:
        return solve(kind, Xi, z0, times.double(), b, B, times.double(), values)

    got = torch.autograd.grad((run(*arguments) * g).sum(), arguments)
    one = torch.autograd.grad((run(*arguments[:4], arguments[4][7]) * g[7]).sum(), arguments)
    assert torch.allclose(got[4][7], one[4][7], **ROUNDING)
    shares = [
        torch.autograd.grad((run(*arguments[:4], arguments[4][i]) * g[i]).sum(), arguments[:4]) for i in range(48)
    ]
    for x, parts in zip(got, zip(*shares)):
        assert torch.allclose(x, sum(parts), rtol=1e-10, atol=1e-10)


# ---- derivatives and transforms ------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("solver", [solve, switched])
def test_first_and_second_derivatives_pass_gradcheck(kind: str, solver: Any):
    arguments = [x.requires_grad_() for x in problem()]
    assert torch.autograd.gradcheck(lambda *x: solver(kind, *x), arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *x: solver(kind, *x), arguments)


def test_complex_derivatives_pass_gradcheck():
    arguments = problem()
    for i in (0, 1, 3, 4, 6):
        arguments[i] = draw(*arguments[i].shape, seed=i, is_complex=True)
    arguments = [x.requires_grad_() for x in arguments]
    assert torch.autograd.gradcheck(lambda *x: solve("first", *x), arguments)
    assert torch.autograd.gradgradcheck(lambda *x: solve("first", *x), arguments, fast_mode=True)


@every_kind
@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_any_argument_equals_the_loop(kind: str, name: str):
    arguments = problem(**{name: (3,)})
    dims = tuple(0 if x == name else None for x in NAMES)
    got = vmap(lambda *x: solve(kind, *x), dims)(*arguments)
    for i in range(3):
        own = (x[i] if dim == 0 else x for x, dim in zip(arguments, dims))
        assert torch.allclose(got[i], solve(kind, *own), **ROUNDING)


@every_kind
def test_per_sample_gradients_by_vmap_of_grad_equal_the_loop(kind: str):
    arguments = problem(values=(3,), z0=(3,))
    dims = tuple(0 if name in ("values", "z0") else None for name in NAMES)
    which = (0, 1, 4, 6)

    def loss(*x: Tensor) -> Tensor:
        return solve(kind, *x).square().sum()

    got = vmap(grad(loss, which), dims)(*arguments)
    for i in range(3):
        own = [x[i] if dim == 0 else x for x, dim in zip(arguments, dims)]
        own = [x.clone().requires_grad_(k in which) for k, x in enumerate(own)]
        true = torch.autograd.grad(loss(*own), [own[k] for k in which])
        assert all(torch.allclose(x[i], y, **ROUNDING) for x, y in zip(got, true))


@every_kind
def test_jacobians_and_hessians_agree_in_every_mode(kind: str):
    arguments = problem()

    def loss(Xi: Tensor) -> Tensor:
        return solve(kind, Xi, *arguments[1:]).square().sum()

    def outputs(values: Tensor) -> Tensor:
        return solve(kind, *arguments[:-1], values)

    assert torch.allclose(jacrev(outputs)(arguments[-1]), jacfwd(outputs)(arguments[-1]), **ROUNDING)
    true = torch.autograd.functional.hessian(loss, arguments[0])
    assert torch.allclose(hessian(loss)(arguments[0]), true, **ROUNDING)
    assert torch.allclose(jacrev(jacrev(loss))(arguments[0]), true, **ROUNDING)


@every_kind
def test_long_inputs_have_second_derivatives(kind: str):
    """Enough samples for one propagator (uniform) or digits and series (irregular) to serve all of them."""
    Xi, z0, _, b, B, *_ = problem()
    values = draw(20, 2, seed=3)
    for times in (torch.arange(20, dtype=torch.float64) / 8, draw(20, seed=1).abs().cumsum(0)):

        def f(Xi: Tensor, B: Tensor, values: Tensor, times: Tensor = times) -> Tensor:
            return solve(kind, 0.3 * Xi, z0, times[[3, 19]], b, B, times, values)

        inputs = [x.requires_grad_() for x in (Xi.clone(), B.clone(), values.clone())]
        assert torch.autograd.gradcheck(f, inputs)
        assert torch.autograd.gradgradcheck(f, inputs, atol=1e-4, fast_mode=True)


# ---- types and updates ---------------------------------------------------------------------------------------------


def test_float32_in_is_float32_out_and_right_to_float32():
    arguments = problem()
    z = solve("first", *arguments)
    single = solve("first", *(x.float() for x in arguments))
    assert single.dtype == torch.float32
    exact = solve("first", *(x.float().double() for x in arguments))
    assert torch.allclose(single.double(), exact, rtol=3e-7, atol=3e-7)
    assert z.dtype == torch.float64


def test_gradients_come_in_the_dtype_of_their_arguments():
    arguments = [x.float().requires_grad_() for x in problem()]
    solve("zero", *arguments).sum().backward()
    assert all(x.grad.dtype == torch.float32 and x.grad.isfinite().all() for x in arguments)


def test_numpy_in_is_numpy_out_and_lists_are_taken():
    z = linode.LinearODE([[0.0]], [1], b=[1], u=linode.ZeroOrderHold([0, 1], [[1], [2]]))([0, 1, 2])
    assert isinstance(z, np.ndarray)
    assert z.ravel().tolist() == [1.0, 3.0, 6.0]
    assert isinstance(linode.LinearODE([[0.0]], [1.0], u=linode.ZeroOrderHold([0.0], torch.ones(1, 1)))([0.0]), Tensor)


def test_integers_in_b_and_B_are_of_the_type_of_Xi():
    u = linode.ZeroOrderHold([0.0], [[1.0]])
    z = linode.LinearODE([[0.0]], [0.0], b=[2**24 + 1], B=[[2**25 + 1]], u=u)([1.0])
    assert z.tolist() == [[2.0**24 + 2.0**25 + 2]]


def test_a_solver_sees_what_an_optimiser_changed():
    """In samples, B, b and Xi, in place."""
    Xi, z0, t, b, B, times, values = problem()
    ode = linode.LinearODE(Xi, z0, b=b, B=B, u=linode.ZeroOrderHold(times, values))
    ode(t)
    for x in (Xi, z0, b, B, values):
        x.mul_(1.5)
    assert torch.equal(ode(t), solve("zero", Xi, z0, t, b, B, times, values))


def test_a_solver_forgets_no_plan_while_Xi_stays(monkeypatch):
    made = []
    plan = Planner.plan
    monkeypatch.setattr(Planner, "plan", lambda self, *args: made.append(args) or plan(self, *args))
    Xi, z0, t, b, B, times, values = problem()
    values.requires_grad_()
    ode = linode.LinearODE(Xi, z0, b=b, B=B, u=linode.FirstOrderHold(times, values))
    ode(t).sum().backward()
    assert made
    made.clear()
    ode(t).sum().backward()
    assert not made


def test_backwards_a_held_input_needs_no_plan_beside_those_of_Xi_and_of_the_block(monkeypatch):
    sizes, plan = [], linode.methods.Auto.plan

    def counted(self: linode.methods.Auto, Xi: Tensor, *rest: object) -> linode.methods.Plan:
        sizes.append(Xi.shape[-1])
        return plan(self, Xi, *rest)

    monkeypatch.setattr(linode.methods.Auto, "plan", counted)
    monkeypatch.setattr(forced, "_forced", None)  # the compiled kernel needs no plan
    Xi, values = (draw(4, 4) - 2 * torch.eye(4).double()).requires_grad_(), draw(9, 2, seed=1)
    times = torch.linspace(0.0, 3.0, 9).double() ** 1.5
    linode.LinearODE(Xi, torch.ones(4).double(), B=draw(4, 2, seed=2), u=linode.FirstOrderHold(times, values))(
        times
    ).sum().backward()
    assert sorted(sizes) == [4, 4 + 2 * 2]


@pytest.mark.parametrize("method", ["eig", "schur", "propagator", "taylor"])
def test_a_method_by_name_solves_forced_problems_also_where_the_input_makes_them_defective(method: str):
    arguments = problem()
    ode = linode.LinearODE(
        *arguments[:2], b=arguments[3], B=arguments[4], u=linode.FirstOrderHold(*arguments[5:]), method=method
    )
    assert torch.allclose(ode(arguments[2]), solve("first", *arguments), **ROUNDING)


def test_training_with_forcing_recovers_xi_and_b():
    true, B, times = (
        torch.tensor([[0.0, 1.0], [-4.0, -0.4]]).double(),
        torch.tensor([[0.0], [1.0]]).double(),
        torch.arange(60) / 10.0,
    )
    u = linode.ZeroOrderHold(times.double(), draw(60, 1, seed=2))
    z = linode.LinearODE(true, torch.zeros(2).double(), B=B, u=u)(times)
    Xi, gain = (true + 0.3 * draw(2, 2)).requires_grad_(), (B + 0.3).requires_grad_()
    optimiser = torch.optim.LBFGS([Xi, gain], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (linode.LinearODE(Xi, torch.zeros(2).double(), B=gain, u=u)(times) - z).square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert torch.allclose(Xi.detach(), true, atol=1e-4)
    assert torch.allclose(gain.detach(), B, atol=1e-4)
