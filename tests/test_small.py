"""The compiled kernel by itself: its functions of time to units of rounding, free strides and types, threads, refusals.

That methods give the same answers with it and without is the contract's business (tests/test_contract.py runs either
way, and .ci/run does both).
"""

from __future__ import annotations

import os
import subprocess
import sys

import flint
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import linode
from linode.kernels import small
from tests.case_builders import generator, normal

EPS = 2.0**-53
CAN_RUN = small.is_in_use()
needs_kernel = pytest.mark.skipif(not CAN_RUN, reason="the compiled kernel was not built, or is turned off")


def problem(
    S: int = 3, R: int = 2, T: int = 70, n: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, ...]:
    """Xi, z0, t >= 0 and g."""
    rng = generator(f"small {S} {R} {T} {n}")

    def draw(*shape: int) -> torch.Tensor:
        x = normal(rng, *shape)
        return torch.from_numpy(x + 1j * normal(rng, *shape) if dtype.is_complex else x).to(dtype)

    t = torch.from_numpy(rng.uniform(0.0, 5.0, (S, R, T)))
    return draw(S, n, n) / n**0.5 - 0.3 * torch.eye(n, dtype=dtype), draw(S, R, n), t, draw(S, R, T, n)


def answers(kind: int, Xi: torch.Tensor, z0: torch.Tensor, t: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    limit = 1e9 if kind == small.EIG else 2.0**20
    made = small.make_plans(kind, Xi, limit, float(t.max()) if t.numel() else 1.0)
    assert made is not None
    assert made.n_refused == 0
    question = small.asked(z0, t)
    return [question.states(made.plans), *question.vjp(made.plans, g)[:2]]


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y))


both_kinds = pytest.mark.parametrize("kind", [small.EIG, small.CHAIN], ids=["eig", "chain"])


@needs_kernel
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 40.0, 1e5, 1e9, 1e15])
def test_sine_and_cosine_are_true_to_two_units_of_rounding(scale: float):
    flint.ctx.prec = 300
    Xi = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]], dtype=torch.float64)
    plan = linode.methods.Eig().plan(Xi)
    t = torch.from_numpy(generator(f"angles {scale}").uniform(-scale, scale, (1, 1, 203)))
    z = plan.evaluate(torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), t)[0, 0]
    for (cosine, sine), time in zip(z.tolist(), t[0, 0].tolist()):
        angle = flint.arb(time)
        assert abs(float(angle.cos() - flint.arb(cosine))) <= 3 * EPS
        assert abs(float(-angle.sin() - flint.arb(sine))) <= 3 * EPS


@needs_kernel
def test_exponentials_are_true_to_two_units_of_rounding_down_to_the_smallest_number():
    flint.ctx.prec = 300
    plan = linode.methods.Eig().plan(torch.ones(1, 1, 1, dtype=torch.float64))
    t = torch.cat([torch.linspace(-746, 710, 1501), torch.tensor([0.0, 1e-300, -1e-8, 709.78, -745.1])]).double()
    z = plan.evaluate(torch.ones(1, 1, 1, dtype=torch.float64), t[None, None])[0, 0, :, 0]
    for value, time in zip(z.tolist(), t.tolist()):
        true = flint.arb(time).exp()
        if time > 709.8:
            assert value == np.inf
        else:
            assert abs(float(true - flint.arb(value))) <= 2 * EPS * float(true) + 5e-324
    assert float(z[-5]) == 1.0


@needs_kernel
@both_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_states_and_gradients_keep_the_precision_that_came(kind: int, dtype: torch.dtype):
    wide = torch.promote_types(dtype, torch.float64)
    given = problem(dtype=dtype)
    own = answers(kind, *given)
    double = answers(kind, *(x.to(wide) if x.dtype == dtype else x for x in given))
    for x, y in zip(own, double):
        assert x.dtype == dtype
        assert distance(x.to(wide), y) <= 4 * torch.finfo(dtype).eps


@needs_kernel
@both_kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_any_strides_give_the_same_bits(kind: int, dtype: torch.dtype):
    Xi, z0, t, g = problem(dtype=dtype)
    t = t[:1, :1].expand_as(t)
    g = g[..., :1, :1].expand_as(g)
    plain = answers(kind, *(x.contiguous() for x in (Xi, z0, t, g)))
    turned = (Xi.mT.contiguous().mT, z0.flip(-1).flip(-1).transpose(0, 1).contiguous().transpose(0, 1), t, g)
    padded = torch.zeros(*g.shape[:3], 9, dtype=dtype)[..., ::2]
    padded[:] = g
    for form in (turned, (*turned[:3], padded)):
        assert all(torch.equal(x, y) for x, y in zip(plain, answers(kind, *form)))
    if dtype.is_complex:
        lazy = answers(kind, Xi.conj().resolve_conj().conj(), z0.conj().resolve_conj().conj(), t, g)
        assert all(torch.equal(x, y) for x, y in zip(plain, lazy))


@needs_kernel
@both_kinds
def test_the_number_of_threads_changes_no_bit(kind: int):
    given, known = problem(S=40, R=1, T=300, n=8), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = answers(kind, *given)
        torch.set_num_threads(4)
        assert small._small.n_threads(4e7) == 4
        assert all(torch.equal(x, y) for x, y in zip(one, answers(kind, *given)))
    finally:
        torch.set_num_threads(known)


@needs_kernel
@both_kinds
def test_states_at_time_0_are_the_initial_states_to_the_last_bit(kind: int):
    Xi, z0, t, g = problem()
    t[..., ::3] = 0.0
    z = answers(kind, Xi, z0, t, g)[0]
    assert torch.equal(z[:, :, ::3], z0[:, :, None].expand_as(z[:, :, ::3]))


@needs_kernel
@both_kinds
@pytest.mark.parametrize("shape", [(2, 3, 0), (1, 1, 1), (1, 20, 1), (1, 1, 200)])
def test_many_few_and_no_times(kind: int, shape: tuple[int, int, int]):
    S, R, T = shape
    Xi, z0, t, g = problem(S, R, T)
    z, of_Xi, a = answers(kind, Xi, z0, t, g)
    assert z.shape == g.shape
    if T == 0:
        assert not of_Xi.any()
        assert not a.any()
    pairs = [(slice(s, s + 1), slice(r, r + 1)) for s in range(S) for r in range(R)]
    each = [answers(kind, Xi[s], *(x[s, r] for x in (z0, t, g))) for s, r in pairs]
    total = torch.stack([x[1] for x in each]).reshape(S, R, *Xi.shape[1:]).sum(1)
    assert torch.allclose(of_Xi, total, rtol=1e-12, atol=1e-12)
    assert torch.allclose(z.flatten(0, 1), torch.stack([x[0][0, 0] for x in each]), rtol=1e-13, atol=1e-13)


@needs_kernel
@pytest.mark.parametrize("method", ["eig", "chain"])
@pytest.mark.parametrize(
    "shapes", [((), (5,), ()), ((), (5,), (5,)), ((5,), (5,), ()), ((5,), (5,), (5,)), ((1,), (1,), ())]
)
def test_a_batch_in_its_own_shapes_is_that_of_its_members(method: str, shapes: tuple[tuple[int, ...], ...]):
    Xi, z0, t, g = problem(*((5, 1) if shapes[0] else (1, 5)), 40, 4)
    Xi = Xi[: shapes[0][0]] if shapes[0] else Xi[0]
    z0, t, g = (x.reshape(5, *x.shape[2:])[: shapes[1][0]] for x in (z0, t, g))
    t = t if shapes[2] else t[0]
    Xi, z0 = Xi.requires_grad_(), z0.requires_grad_()
    z = linode.LinearODE(Xi, z0, method=method)(t)
    of_Xi, a = torch.autograd.grad(z, (Xi, z0), g)
    assert z.shape == g.shape
    total = torch.zeros_like(Xi)
    for i in range(len(z0)):
        A, start = (x.detach().requires_grad_() for x in (Xi[i] if shapes[0] else Xi, z0[i]))
        own = linode.LinearODE(A, start, method=method)(t[i] if shapes[2] else t)
        S, s = torch.autograd.grad(own, (A, start), g[i])
        (total[i] if shapes[0] else total).add_(S)
        assert distance(z[i].detach(), own.detach()) <= 1e-13
        assert distance(a[i], s) <= 1e-13
    assert distance(of_Xi, total) <= 1e-13


@needs_kernel
@pytest.mark.parametrize("times", [[-1.0], [1e9], [np.nan]])
def test_times_that_a_chain_has_no_nodes_for_are_refused(times: list[float]):
    Xi, z0, _, g = problem(1, 1, 1)
    plans = plans_of(small.CHAIN, Xi)
    question = small.asked(z0, torch.tensor([[times]], dtype=torch.float64))
    with pytest.raises(ValueError, match="beyond those of the plan"):
        question.states(plans)
    with pytest.raises(ValueError, match="beyond those of the plan"):
        question.vjp(plans, g)


def plans_of(kind: int, Xi: torch.Tensor) -> bytearray:
    made = small.make_plans(kind, Xi, 2.0**20, 5.0)
    assert made is not None
    return made.plans


@needs_kernel
def test_nothing_that_does_not_fit_reaches_the_kernel():
    Xi, z0, t, g = problem()
    for bad in (Xi[:, :3], Xi.to(torch.int64), torch.eye(small.MOST_STATES + 1)[None], Xi.to("meta")):
        assert small.make_plans(small.EIG, bad, 1e9) is None
    for starts, times in ((z0[:, :1], t), (z0, t.float()), (z0, t[:2]), (z0.to("meta"), t), (z0[0], t[0])):
        with pytest.raises(ValueError, match="the compiled kernel does not take"):
            small.asked(starts, times)
    question, plans = small.asked(z0, t), plans_of(small.EIG, Xi)
    for wrong in (g[:, :, :3], g.float(), g.to("meta")):
        with pytest.raises(ValueError, match="the compiled kernel does not take"):
            question.vjp(plans, wrong)


@needs_kernel
@both_kinds
def test_plans_of_other_systems_are_refused(kind: int):
    Xi, z0, t, g = problem()
    question = small.asked(z0, t)
    complex_Xi, larger = Xi.to(torch.complex128), problem(n=6)[0]
    plans = plans_of(kind, Xi)
    for wrong in (plans_of(kind, complex_Xi), plans_of(kind, larger), plans_of(kind, Xi[:2]), plans[:-8], bytearray()):
        with pytest.raises(ValueError, match="they are of other systems"):
            question.states(wrong)
        with pytest.raises(ValueError, match="they are of other systems"):
            question.vjp(wrong, g)
    with pytest.raises(TypeError, match="must be a bytearray"):
        question.states(bytes(plans))  # type: ignore[arg-type]


@needs_kernel
@pytest.mark.parametrize("change", ["data", "storage"])
def test_memory_that_was_given_back_before_backward_is_not_read(change: str):
    Xi = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    z0, t = torch.ones(2, dtype=torch.float64), torch.linspace(0, 1, 5, dtype=torch.float64)
    z = linode.LinearODE(Xi, z0)(t)
    if change == "data":
        z0.data = torch.zeros(2, dtype=torch.float64)
    else:
        z0.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"elsewhere in memory|modified by an inplace operation"):
        z.sum().backward()


def test_an_environment_variable_turns_it_off():
    script = "from linode.kernels import small; print(small.is_in_use(), small.MOST_STATES)"
    environment = {**os.environ, "LINODE_COMPILED": "0"}
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.split() == ["False", "0"]


# ---- what must not reach the kernel, or must be read as it is ------------------------------------------------------


class Plain(torch.Tensor):
    """A subclass that adds nothing."""


def simple() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    Xi, z0, t, _ = problem(1, 1, 6, 4)
    return Xi[0], z0[0, 0], t[0, 0]


@pytest.mark.parametrize("method", ["eig", "chain", "auto", "propagator"])
def test_another_default_device_is_not_that_of_the_answer(method: str):
    Xi, z0, t = simple()
    z = linode.LinearODE(Xi, z0, method=method)(t)
    with torch.device("meta"):
        assert torch.equal(linode.LinearODE(Xi, z0, method=method)(t), z)


@pytest.mark.parametrize("method", ["eig", "chain", "auto"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_times_whose_sign_torch_has_put_off_are_read_with_it(method: str, sign: float):
    Xi, z0, t = simple()
    lazy = torch.complex(torch.zeros_like(t), sign * t).conj().imag
    assert lazy.is_neg()
    ode = linode.LinearODE(Xi, z0, method=method)
    assert torch.equal(ode(lazy), ode(lazy.clone()))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_subclass_of_tensor_that_adds_nothing_is_read(which: int):
    given = [*simple()]
    z = linode.LinearODE(*given[:2])(given[2])
    given[which] = given[which].as_subclass(Plain)
    assert distance(linode.LinearODE(*given[:2])(given[2]).as_subclass(torch.Tensor), z) <= 1e-13


@pytest.mark.parametrize("scale", [1e-300, 1e-231, 1e-170, 1e-155, 1e155, 1e230])
@pytest.mark.parametrize("kind", ["diagonal", "Hermitian", "skew"])
def test_gradients_of_matrices_with_unitary_eigenvectors_do_not_depend_on_the_unit_of_time(scale: float, kind: str):
    rng = generator(f"unit {kind}")
    A = normal(rng, 3, 3)
    A = {"diagonal": np.diag(np.diag(A)), "Hermitian": A + A.T, "skew": A - A.T}[kind]
    z0, t, g = normal(rng, 3), np.array([0.3, 1.0, 2.0]), normal(rng, 3, 3)

    def gradients(unit: float) -> list[torch.Tensor]:
        Xi, start = (torch.tensor(x, requires_grad=True) for x in (A * unit, z0))
        z = linode.LinearODE(Xi, start, method="eig")(torch.tensor(t / unit))
        of_Xi, of_z0 = torch.autograd.grad(z, (Xi, start), torch.tensor(g))
        return [z.detach(), of_Xi * unit, of_z0]

    for x, y in zip(gradients(scale), gradients(1.0)):
        assert distance(x, y) <= 1e-12


@pytest.mark.parametrize("times", [[5e-324, 1e-310, 0.0], [1e-308], [1.7e308, 0.0]])
def test_times_at_both_ends_of_the_range_of_floats(times: list[float]):
    z = linode.LinearODE([[0.0, 0.0], [1e-320, 0.0]], [1.0, 2.0])(times)
    assert np.allclose(z[:, 0], 1.0)
    z = linode.LinearODE([[-1.0, 0.3], [0.0, -2.0]], [1.0, 2.0])([x for x in times if x < 1.0])
    assert np.array_equal(z, np.broadcast_to([1.0, 2.0], z.shape))


def test_a_matrix_with_entries_that_are_next_to_nothing_is_not_given_to_lapack_of_torch():
    """MKL's geev, of torch 2.13, writes beyond its memory for some of them."""
    Xi = np.array([[-1e-159, 1e-75, 3.0], [1.0, -1e-160, 1e-299], [1e-268, 1e-10, -1e-131]])
    plan = linode.methods.eig._plan_by_torch(torch.tensor(Xi)[None], None, 1e3, None)
    assert not plan.is_accepted
    assert "lie below 1e-150 of |Xi|" in plan.reason


@needs_kernel
def test_gradients_of_many_trajectories_are_those_of_some_at_a_time():
    Xi, z0, t, g = problem(1, 4000, 3, 8)
    whole = answers(small.EIG, Xi, z0, t, g)
    parts = [answers(small.EIG, Xi, *(x[:, r : r + 500] for x in (z0, t, g))) for r in range(0, 4000, 500)]
    assert torch.equal(whole[2], torch.cat([part[2] for part in parts], 1))
    assert distance(whole[1], sum(part[1] for part in parts)) <= 1e-13


@needs_kernel
def test_what_wants_to_see_every_operator_gets_the_torch_path():
    seen: list[str] = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    Xi, z0, t = simple()
    with Mode():
        z = linode.LinearODE(Xi, z0, method="eig")(t)
    assert any("mm" in name for name in seen)
    assert distance(z, linode.LinearODE(Xi, z0, method="eig")(t)) <= 1e-13
