"""Batches: each element of a broadcast problem has the values and gradients that it has alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgError, schur
from torch import Tensor

import linode
from linode.methods import Schur
from linode.methods import schur as schur_module
from linode.methods.propagator import PropagatorPlan
from linode.methods.schur import SchurForm, TriangularPlan
from tests import oracles
from tests.accuracy import GENERAL
from tests.case_builders import direct_sum, generator, jordan, normal, real_jordan_pair, rotated, scaled_basis, similar

METHODS = GENERAL
every_method = pytest.mark.parametrize("method", METHODS)
ROUNDING = 1e-12  # relative to the norm; problems of condition below a hundred
N = 3

# shapes of Xi's, z0's and t's batches
SHAPES = [
    ((), (), ()),
    ((), (4,), ()),
    ((4,), (), ()),
    ((4,), (4,), ()),
    ((), (), (4,)),
    ((4,), (), (4,)),
    ((3, 1), (1, 4), ()),
    ((1, 4), (3, 1), ()),
    ((4,), (3, 1), (1, 4)),
    ((3, 1), (), (4,)),
    ((), (3, 4), (4,)),
    ((3, 4), (4,), (3, 1)),
    ((2, 1, 4), (3, 1), (2, 3, 1)),
    ((1,), (4,), ()),
    ((1, 1), (4,), (1,)),
    ((0,), (), ()),
    ((), (0,), ()),
    ((), (), (0,)),
    ((3, 0), (1, 1), (3, 1)),
]
every_shape = pytest.mark.parametrize("shapes", SHAPES, ids=str)


def draw(*shape: int, seed: int = 0, is_complex: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.complex128 if is_complex else torch.float64)


def systems(*batch: int, is_complex: bool = False) -> Tensor:
    """Near a matrix with eigenvalues -1, 0.2 +- 1.5i, so that every method accepts them."""
    centre = torch.tensor([[-1.0, 0.2, 0.0], [0.0, 0.2, 1.5], [0.1, -1.5, 0.2]], dtype=torch.float64)
    return centre + 0.05 * draw(*batch, N, N, seed=1, is_complex=is_complex)


def solve(Xi: Tensor, z0: Tensor, t: Tensor, method: str = "auto") -> Tensor:
    return linode.LinearODE(Xi, z0, method=method)(t)


def with_gradients(Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, method: str = "auto") -> list[Tensor]:
    """z and the gradients of Re <g, z>."""
    x = [arg.detach().clone().requires_grad_() for arg in (Xi, z0, t)]
    z = solve(*x, method)
    return [z.detach(), *torch.autograd.grad((g.conj() * z).real.sum(), x)]


def close(got: Tensor, true: Tensor, rtol: float = ROUNDING) -> bool:
    size = torch.linalg.vector_norm(true)
    return got.shape == true.shape and bool(torch.linalg.vector_norm(got - true) <= rtol * size.clamp(min=1e-3))


def one_by_one(Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor, method: str = "auto") -> list[Tensor]:
    """The same from unbatched problems, gradients summed over what was broadcast."""
    batch, T = g.shape[:-2], g.shape[-2]
    whole = [Xi.expand(*batch, N, N), z0.expand(*batch, N), t.expand(*batch, T)]
    z, *grads = torch.empty_like(g), *(torch.zeros(x.shape, dtype=x.dtype) for x in whole)
    for index in np.ndindex(*batch):
        z[index], *parts = with_gradients(*(x[index] for x in whole), g[index], method)
        for total, part in zip(grads, parts):
            total[index] = part
    return [z, *(total.sum_to_size(x.shape) for total, x in zip(grads, (Xi, z0, t)))]


def problem(shapes: tuple[tuple[int, ...], ...], T: int = 2, *, is_complex: bool = False) -> list[Tensor]:
    Xi_batch, z0_batch, t_batch = shapes
    batch = torch.broadcast_shapes(*shapes)
    Xi = systems(*Xi_batch, is_complex=is_complex)
    z0, g = draw(*z0_batch, N, seed=2, is_complex=is_complex), draw(*batch, T, N, seed=4, is_complex=is_complex)
    return [Xi, z0, draw(*t_batch, T, seed=3), g]


# ---- shapes ------------------------------------------------------------------------------------------------------


@every_shape
@every_method
def test_values_and_gradients_of_a_broadcast_problem_are_those_of_its_elements(method: str, shapes: tuple):
    args = problem(shapes)
    assert all(close(a, b) for a, b in zip(with_gradients(*args, method), one_by_one(*args, method)))


@pytest.mark.parametrize("shapes", SHAPES[6:9], ids=str)
def test_complex_problems_broadcast_too(shapes: tuple):
    args = problem(shapes, is_complex=True)
    assert all(close(a, b) for a, b in zip(with_gradients(*args), one_by_one(*args)))


@pytest.mark.parametrize("shapes", [((), (), ()), ((4,), (), ()), ((3, 1), (4,), ())], ids=str)
def test_many_times_broadcast_too(shapes: tuple):
    args = problem(shapes, T=300)
    assert all(close(a, b) for a, b in zip(with_gradients(*args), one_by_one(*args)))


@every_shape
def test_a_scalar_time_drops_the_time_dimension(shapes: tuple):
    Xi, z0, _, _ = problem(shapes)
    z = solve(Xi, z0, torch.tensor(0.75, dtype=torch.float64))
    assert torch.equal(z, solve(Xi, z0, torch.tensor([0.75], dtype=torch.float64))[..., 0, :])


@every_method
def test_no_times_give_no_states_and_zero_gradients(method: str):
    Xi, z0 = systems(4), draw(2, 1, N)
    z, *grads = with_gradients(Xi, z0, torch.empty(0, dtype=torch.float64), torch.empty(2, 4, 0, N), method)
    assert z.shape == (2, 4, 0, N)
    assert all(torch.equal(g, torch.zeros_like(x)) for g, x in zip(grads, (Xi, z0, torch.empty(0))))


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_propagators_have_the_batch_of_Xi_and_t(shapes: tuple):
    Xi, z0, t, _ = problem(shapes)
    P = linode.LinearODE(Xi, z0).propagator(t)
    assert P.shape == (*torch.broadcast_shapes(shapes[0], shapes[2]), 2, N, N)
    assert close((P @ z0[..., None, :, None])[..., 0], solve(Xi, z0, t))


def test_expanded_arguments_are_not_multiplied_out_in_the_gradient():
    Xi = systems().requires_grad_()
    solve(Xi.expand(5, N, N), draw(5, N), torch.ones(2)).sum().backward()
    assert close(Xi.grad, with_gradients(Xi, draw(5, N), torch.ones(2), torch.ones(5, 2, N))[1])


def test_transposed_and_strided_batches_equal_contiguous_ones():
    Xi, z0, t, g = problem(((4,), (4,), (4,)))
    strided = [torch.stack([x, -x], -1)[..., 0] for x in (Xi, z0, t)]
    assert not any(x.is_contiguous() for x in strided)
    true = with_gradients(Xi, z0, t, g)
    assert all(close(a, b) for a, b in zip(with_gradients(*strided, g), true))
    assert all(close(a, b) for a, b in zip(with_gradients(Xi.mT.contiguous().mT, z0.mT.contiguous().mT, t, g), true))


# ---- neighbours --------------------------------------------------------------------------------------------------

SHEAR = np.array([[-0.5, 1.0, 0.0], [0.0, -0.5, 0.0], [0.0, 0.0, 2.0]])
MIXED = {
    "defective": jordan(3, -0.5),
    "partly_defective": SHEAR,
    "zero": np.zeros((3, 3)),
    "multiple_of_identity": -0.25 * np.eye(3),
    "no_pair": np.array([[-1.0, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 1.0]]),
    "one_pair": systems().numpy(),
    "symmetric": np.array([[-1.0, 0.5, 0.25], [0.5, 0.25, 0.0], [0.25, 0.0, 1.0]]),
    "skew": np.array([[0.0, 1.0, -0.5], [-1.0, 0.0, 2.0], [0.5, -2.0, 0.0]]),
    "stiff": np.diag([-1e4, -1.0, -1e-3]) + 1e-3 * np.ones((3, 3)),
    "diagonal": np.diag([-1.0, -1.0, 0.5]),
    "nilpotent": np.eye(3, k=1),
}
STACK = torch.tensor(np.stack(list(MIXED.values())))


def test_a_batch_of_every_kind_gives_each_element_its_own_trajectory():
    t, z0 = torch.tensor([0.0, 0.5, -0.001, 2.0], dtype=torch.float64), draw(N)
    for got, Xi in zip(solve(STACK, z0, t), STACK):
        assert close(got, torch.tensor(oracles.trajectory(Xi.numpy(), z0.numpy(), t.numpy())), 1e-11)


def test_a_batch_of_every_kind_gives_each_element_its_own_gradient():
    t, z0 = torch.tensor([0.5, -0.001, 2.0], dtype=torch.float64), draw(len(STACK), N)
    g = draw(len(STACK), 3, N, seed=8)
    _, *got = with_gradients(STACK, z0, t, g)
    dt = torch.zeros(3, dtype=torch.float64)
    for i, Xi in enumerate(STACK):
        true = oracles.gradients(Xi.numpy(), z0[i].numpy(), t.numpy(), g[i].numpy())
        assert close(got[0][i], torch.tensor(true.S), 1e-11)
        assert close(got[1][i], torch.tensor(true.a), 1e-11)
        dt += torch.tensor(true.dt)
    assert close(got[2], dt, 1e-11)


@pytest.mark.parametrize("method", ["auto", "schur", "propagator"])
@pytest.mark.parametrize("name", MIXED)
def test_an_element_does_not_depend_on_its_neighbour(method: str, name: str):
    Xi, z0, t = torch.tensor(MIXED[name]), draw(N), torch.tensor([0.5, -0.001, 2.0], dtype=torch.float64)
    alone, g = with_gradients(Xi[None], z0, t, torch.ones(1, 3, N), method), torch.ones(2, 3, N)
    for other in (systems(), torch.tensor(SHEAR)):
        together = with_gradients(torch.stack([other, Xi]), z0, t, g, method)
        assert close(together[0][1:], alone[0], 1e-11)
        assert close(together[1][1:], alone[1], 1e-11)


def test_eig_names_the_system_of_the_batch_that_it_cannot_take():
    with pytest.raises(linode.MethodError, match="system 1 of the batch"):
        solve(torch.stack([systems(), torch.tensor(SHEAR)]), draw(N), torch.ones(1), "eig")


def test_a_trajectory_that_overflows_leaves_its_neighbours_alone():
    Xi = torch.stack([2000.0 * torch.eye(N, dtype=torch.float64), systems()])
    z = solve(Xi, torch.ones(N, dtype=torch.float64), torch.ones(2))
    assert z[0].isinf().all()
    assert close(z[1], solve(Xi[1], torch.ones(N, dtype=torch.float64), torch.ones(2)))


def test_a_large_batch_equals_its_elements():
    Xi, z0, t = systems(200), draw(200, N), draw(200, 2, seed=3)
    assert close(solve(Xi, z0, t), torch.stack([solve(*args) for args in zip(Xi, z0, t)]))


# ---- Schur forms of one batch -------------------------------------------------------------------------------

RNG = generator("blocks of a batch")
BLOCKED = {
    "simple_real": rotated(RNG, np.diag([-3.0, -1.0, -0.4, 0.1, 0.5, 1.0])),
    "simple_pairs": similar(
        RNG, direct_sum(*(real_jordan_pair(1, *x) for x in [(-0.1, 1.0), (-0.3, 2.5), (0.2, 6.0)])), 5.0
    ),
    "one_block": rotated(RNG, jordan(6, -0.5)),
    "two_of_one_size": similar(RNG, direct_sum(jordan(2, -2.0), jordan(2, 0.5), real_jordan_pair(1, -0.2, 5.0)), 5.0),
    "two_sizes": similar(RNG, direct_sum(jordan(3, -2.0), jordan(2, 0.5), 3.0), 5.0),
    "pair_of_blocks": rotated(RNG, direct_sum(real_jordan_pair(2, -0.3, 3.0), -2.0, 1.0)),
    "badly_scaled": scaled_basis(
        direct_sum(jordan(3, -1.0), normal(RNG, 3, 3)), 10.0 ** np.array([0, 4, -4, 8, 0, -8])
    ),
    "nilpotent": np.eye(6, k=1),
    "zero": np.zeros((6, 6)),
}
COMPLEX_BLOCKED = [
    similar(RNG, np.diag([1j, 2j, -1.0, 1.0, 3.0 + 1j]), 5.0),
    similar(RNG, direct_sum(jordan(3, 2j), jordan(2, -2j)), 5.0),
    similar(RNG, direct_sum(jordan(2, 2j), 1.0 + 0j, 3.0, -1.0 - 1j), 5.0),
    rotated(RNG, jordan(5, -0.5 + 1j)),
]
BLOCKED_TIMES = torch.tensor([0.0, 0.4, -0.3, 1e-9, 2.0], dtype=torch.float64)


def blocked(is_complex: bool = False) -> list[Tensor]:
    """Xi, z0, t and g of systems whose blocks differ; times of their own."""
    Xi = torch.tensor(np.stack(COMPLEX_BLOCKED if is_complex else list(BLOCKED.values())))
    S, n, T = len(Xi), Xi.shape[-1], len(BLOCKED_TIMES)
    z0, g = draw(S, n, seed=5, is_complex=is_complex), draw(S, T, n, seed=6, is_complex=is_complex)
    return [Xi, z0, BLOCKED_TIMES * (1 + 0.1 * torch.arange(S)[:, None]), g]


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_schur_forms_of_a_batch_have_the_values_and_gradients_they_have_alone(is_complex: bool):
    args = blocked(is_complex)
    together = with_gradients(*args, "schur")
    for i, system in enumerate(zip(*args)):
        assert all(close(got[i], alone) for got, alone in zip(together, with_gradients(*system, "schur")))


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_schur_forms_of_a_batch_have_their_true_values_and_gradients(is_complex: bool):
    args = blocked(is_complex)
    z, *gradients = with_gradients(*args, "schur")
    for i, system in enumerate(zip(*(x.numpy() for x in args))):
        assert close(z[i], torch.tensor(oracles.trajectory(*system[:3])), 1e-11)
        for got, true in zip(gradients, oracles.gradients(*system)):
            assert close(got[i], torch.tensor(true), 1e-11)


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_schur_forms_need_no_second_method_to_be_true(is_complex: bool):
    """Without the check that would turn to `propagator` where they are not."""
    Xi, z0, t, g = blocked(is_complex)
    t = t.abs()
    form, args = Schur().plan(Xi).form, [x[:, None] for x in (z0, t, g)]
    z, (S, a) = form.evaluate(*args[:2]), form.vjp(*args)
    for i, system in enumerate(zip(*(x.numpy() for x in (Xi, z0, t, g)))):
        assert close(z[i, 0], torch.tensor(oracles.trajectory(*system[:3])), 1e-10)
        true = oracles.gradients(*system)
        assert close(S[i], torch.tensor(true.S), 1e-10)
        assert close(a[i, 0], torch.tensor(true.a), 1e-10)


@pytest.mark.parametrize("times", [torch.tensor([1.0, 0.5]), torch.linspace(0.0, 1.0, 20_000)], ids=["few", "dense"])
@pytest.mark.parametrize("rate", [-1e6, -3e3])
def test_powers_that_only_a_faster_system_needs_do_not_reach_the_gradients_of_a_slow_one(times: Tensor, rate: float):
    """exp(Xi H)^(2^j) overflows for the slow system where the fast one needs it."""
    Xi = torch.tensor([[[1.0, 0.5], [0.0, 1.0]], [[rate, 3.0], [0.0, rate]]], dtype=torch.float64)
    z0, t = torch.ones(2, dtype=torch.float64), times.double()
    both, alone = Xi.clone().requires_grad_(), Xi[0].clone().requires_grad_()
    linode.LinearODE(both, z0, method="propagator")(t)[0].sum().backward()
    linode.LinearODE(alone, z0, method="propagator")(t).sum().backward()
    assert close(both.grad[0], alone.grad)
    assert not both.grad[1].any()


def test_several_trajectories_share_the_schur_form_of_their_system():
    Xi, z0, t, g = blocked()
    starts, cotangents = torch.stack([z0, z0.flip(0)]), torch.stack([g, g.flip(0)])
    z, S, a, dt = with_gradients(Xi, starts, t, cotangents, "schur")
    each = [with_gradients(Xi, z0_i, t, g_i, "schur") for z0_i, g_i in zip(starts, cotangents)]
    assert close(z, torch.stack([x[0] for x in each]))
    assert close(S, each[0][1] + each[1][1])
    assert close(a, torch.stack([x[2] for x in each]))
    assert close(dt, each[0][3] + each[1][3])


def test_some_systems_of_a_plan_give_what_the_whole_plan_gives_them_repeated_or_not():
    Xi, z0, t, g = blocked()
    plan, args = Schur().plan(Xi), [x[:, None] for x in (z0, t.abs(), g)]
    whole = [plan.evaluate(*args[:2]), *plan.vjp(*args)]
    for index in (torch.tensor([3]), torch.tensor([5, 2, 3, 3, 0, 3])):
        some, own = plan.subset(index), [x[index] for x in args]
        assert some.details["residual"] == [plan.details["residual"][i] for i in index]
        assert all(close(a, b[index]) for a, b in zip([some.evaluate(*own[:2]), *some.vjp(*own)], whole))


def test_a_system_that_lapack_cannot_factor_leaves_its_neighbours_alone(monkeypatch: pytest.MonkeyPatch):
    Xi, z0, t, g = blocked()
    true = with_gradients(Xi, z0, t, g, "schur")
    failing = list(BLOCKED).index("two_sizes")

    def factor(matrix: np.ndarray, output: str) -> tuple[np.ndarray, np.ndarray]:
        if np.array_equal(matrix, Xi[failing]):
            raise LinAlgError("did not converge")
        return schur(matrix, output=output)

    monkeypatch.setattr(schur_module, "schur", factor)
    plan = Schur().plan(Xi)
    assert [i for i, residual in enumerate(plan.details["residual"]) if not np.isfinite(residual)] == [failing]
    plan.evaluate(z0[:, None], t[:, None])
    assert plan.details["passed"][failing - 1 : failing + 2] == [True, False, True]
    assert all(close(a, b, 1e-11) for a, b in zip(with_gradients(Xi, z0, t, g, "schur"), true))


def test_a_larger_batch_takes_no_more_evaluations_of_schur_forms(monkeypatch: pytest.MonkeyPatch):
    n_calls = 0

    def counted(function: Callable) -> Callable:
        def call(*args: object, **options: object) -> object:
            nonlocal n_calls
            n_calls += 1
            return function(*args, **options)

        return call

    for kind in (SchurForm, TriangularPlan, PropagatorPlan):
        for name in ("evaluate", "vjp", "subset"):
            monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
    counts = []
    for copies in (1, 10):
        n_calls = 0
        with_gradients(*(x[2:5].repeat(copies, *[1] * (x.ndim - 1)) for x in blocked()), "schur")
        counts.append(n_calls)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("own_times", [False, True])
@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("method", sorted(linode.methods.registry()))
def test_members_of_a_batch_are_independent(method: str, n: int, own_times: bool):
    generator = torch.Generator().manual_seed(n)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def answers(Xi: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        z0, t, g = others
        leaves = [x.clone().requires_grad_() for x in (Xi, z0)]
        z = linode.LinearODE(*leaves, method=method)(t)
        return [z.detach(), *torch.autograd.grad(z, leaves, g)]

    S, T = 4, 9
    Xi, z0, g = normal(S, n, n) / n**0.5, normal(S, n), normal(S, T, n)
    Xi = Xi.abs() if method == "metzler" else Xi
    t = 2 * torch.rand(*((S, T) if own_times else (T,)), dtype=torch.float64, generator=generator)
    together = answers(Xi, z0, t, g)
    for scale in (1.5, 100.0):
        changed = Xi.clone()
        changed[1] *= scale
        try:
            beside = answers(changed, z0, t, g)
        except linode.MethodError:  # refused for the one that was changed
            continue
        for x, y in zip(together, beside):
            for i in (0, 2, 3):
                assert float((x[i] - y[i]).norm() / x[i].norm()) <= 5e-14
    for i in range(S):
        alone = answers(Xi[i], z0[i], t[i] if own_times else t, g[i])
        for x, y in zip(together, alone):
            assert float((x[i] - y).norm() / y.norm()) <= 5e-14


def test_batched_expm_passes_gradcheck_to_second_order():
    A = torch.randn(3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(linode.expm, (A,))
    assert torch.autograd.gradgradcheck(linode.expm, (A,))
