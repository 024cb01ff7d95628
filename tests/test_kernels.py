"""Stepping and eigenmodes: agreement of their branches, counts of products, and truth across thresholds."""

from __future__ import annotations

from fractions import Fraction

import flint
import numpy as np
import pytest
import torch
from torch import Tensor

from linode import LinearODE
from linode.kernels.dense import dense, dense_vjp
from linode.kernels.eigenpairs import eigenpairs
from linode.kernels.modes import NEAR, NEAR_RELATIVE, less_one
from linode.kernels.stepping import Stepper, choose_step, power_norm, scattered, scattered_vjp
from linode.kernels.taylor import DOUBLE
from linode.kernels.tensors import one_norm
from linode.methods import Eig
from tests import oracles
from tests.accuracy import EPS, differentiate, norm, relative_error
from tests.case_builders import direct_sum, generator, normal, rotated
from tests.cases import Case


def stepper(A: Tensor) -> Stepper:
    """A (S, n, n)."""
    return Stepper(A, choose_step(*power_norm(A)), DOUBLE)


def problem(is_complex: bool, S: int = 2, R: int = 3, T: int = 300, n: int = 5) -> tuple[Tensor, ...]:
    """A, z0, t in [0, 4] and g, with S systems and R trajectories each."""
    rng = generator(f"stepping {is_complex}")
    A, z0, g = (normal(rng, *shape, is_complex=is_complex) for shape in ((S, n, n), (S, R, n), (S, R, T, n)))
    return tuple(map(torch.tensor, (A, z0, rng.uniform(0, 4, (S, R, T)), g)))


# ---- stepping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_complex", [False, True])
def test_dense_and_scattered_times_agree_to_rounding(is_complex: bool):
    A, z0, t, g = problem(is_complex)
    z, w = dense(stepper(A), z0, t), scattered(stepper(A), z0, t)
    assert norm((z - w).numpy()) <= 100 * EPS * norm(w.numpy())
    for x, y in zip(dense_vjp(stepper(A), z0, t, g), scattered_vjp(stepper(A), z0, t, g)):
        assert norm((x - y).numpy()) <= 100 * EPS * norm(y.numpy())


@pytest.mark.parametrize("vjp", [dense_vjp, scattered_vjp])
def test_stepping_gives_the_gradients_of_ball_arithmetic(vjp):
    A, z0, t, g = problem(False, T=40)
    S, a = vjp(stepper(A), z0, t, g)
    z = dense(stepper(A), z0, t)
    for s in range(2):
        true = [oracles.gradients(*(x.numpy() for x in (A[s], z0[s, r], t[s, r], g[s, r]))) for r in range(3)]
        assert relative_error(S[s].numpy(), sum(x.S for x in true), 1.0) < 1e-13
        assert relative_error(a[s].numpy(), np.stack([x.a for x in true]), 1.0) < 1e-13
        states = oracles.trajectory(A[s].numpy(), z0[s, 0].numpy(), t[s, 0].numpy())
        assert relative_error(z[s, 0].numpy(), states, 1.0) < 1e-13


def test_a_time_is_exactly_its_node_and_remainder():
    A, _, t, _ = problem(False)
    t[0, 0, :3] = torch.tensor([0.0, 1e-300, 1e9])
    step = stepper(A)
    k, s = step.split(t)
    assert s.abs().max() <= 0.5
    for system in range(2):
        H = Fraction(float(step.H[system]))
        for time, node, rest in zip(*(x[system].flatten().tolist() for x in (t, k, s))):
            assert (node + Fraction(rest)) * H == Fraction(time)


@pytest.mark.parametrize("scheme", [dense, scattered])
def test_product_count_does_not_jump_between_200_and_201_times(scheme):
    A, z0, t, _ = problem(False, S=1, R=1, T=201)
    t[0, 0, 0] = 4.0
    counts = []
    for T in (200, 201):
        step = stepper(A)
        scheme(step, z0, t[:, :, :T])
        counts.append(step.n_products)
    assert counts[0] == counts[1]


def test_product_count_grows_by_one_with_every_doubling_of_the_last_time():
    A, z0, t, _ = problem(False, S=1, R=1, T=50)
    counts = []
    for doubling in range(12):
        step = stepper(A)
        scattered(step, z0, t / t.max() * 1.5 * 2.0**doubling)
        counts.append(step.n_products)
    assert np.all(np.diff(counts) == 1)
    assert counts[-1] < 30


def test_products_of_one_call_are_not_repeated_by_the_next():
    A, z0, t, g = problem(False)
    step = stepper(A)
    scattered(step, z0, t)
    before = step.n_products
    scattered(step, z0, t / 2)
    scattered_vjp(step, z0, t, g)
    assert step.n_products == before


def test_a_subset_of_the_systems_steps_as_they_do_alone():
    A, z0, t, _ = problem(False, S=3)
    whole = stepper(A)
    scattered(whole, z0, t)
    for index in ([2], [2, 0], [1, 1, 0]):
        i = torch.tensor(index)
        got = scattered(whole.subset(i), z0[i], t[i])
        torch.testing.assert_close(got, scattered(stepper(A[i]), z0[i], t[i]), rtol=1e-13, atol=0)


def test_the_step_is_a_power_of_two_that_makes_the_norm_at_most_one():
    size = torch.tensor([1e-300, 1e-3, 0.5, 1.0, 1.5, 1e10, 1e300], dtype=torch.float64)
    H = choose_step(size, size)
    assert torch.equal(torch.frexp(H).mantissa, torch.full_like(H, 0.5))
    assert ((size * H <= 1) & (size * H > 0.4)).all()


def test_the_norm_of_an_overscaled_matrix_is_that_of_its_powers():
    A = torch.tensor([[[1.0, 1e6], [0.0, -1.0]]], dtype=torch.float64)
    norm_of_powers, one_norm = power_norm(A)
    assert one_norm.item() == 1e6 + 1
    assert 1 <= norm_of_powers.item() < 40  # (1e6)^(1/4) = 32


# ---- eigenmodes --------------------------------------------------------------------------------------------


def sweep_gaps() -> list[float]:
    """From nothing to 1, with both sides of the thresholds at which close pairs change treatment (t_max = 2)."""
    thresholds = [NEAR / 2, NEAR_RELATIVE]
    return [0.0, *np.geomspace(1e-18, 1, 19), *(x * (1 + s * 1e-6) for x in thresholds for s in (-1, 1))]


def with_gap(kind: str, gap: float) -> np.ndarray:
    """Normal matrices, so that rounding is all that can go wrong, with two eigenvalues `gap` apart."""
    if kind == "real":
        return rotated(generator("real"), np.diag([-1.0, gap - 1, 0.5, -3]))
    if kind == "pairs":
        return rotated(generator("pairs"), direct_sum(*(np.array([[-0.3, w], [-w, -0.3]]) for w in (1.0, 1.0 + gap))))
    if kind == "near_real":  # a pair that almost meets its own conjugate
        return rotated(generator("near"), direct_sum(np.array([[-0.5, gap / 2], [-gap / 2, -0.5]]), 1.0))
    return rotated(generator("complex"), np.diag([1j - 0.5, 1j - 0.5 + gap * (0.6 + 0.8j), -1.0]))


@pytest.mark.parametrize("gap", sweep_gaps())
@pytest.mark.parametrize("kind", ["real", "pairs", "near_real", "complex"])
def test_gradients_are_accurate_at_every_gap_between_eigenvalues(kind: str, gap: float):
    Xi = with_gap(kind, gap)
    rng = generator(f"gap {kind}")
    is_complex = np.iscomplexobj(Xi)
    z0, g = (normal(rng, *shape, is_complex=is_complex) for shape in ((len(Xi),), (6, len(Xi))))
    case = Case("gap", kind, Xi, z0, np.array([2.0, 0.0, 1e-3, 0.7, 1.9, -1.2]), g, "")
    z, *got = differentiate(case, lambda Xi, z0, t: LinearODE(Xi, z0, method="eig")(t))
    assert relative_error(z, oracles.trajectory(Xi, z0, case.t), 1.0) < 5e-14
    for x, y in zip(got, oracles.gradients(Xi, z0, case.t, g)):
        assert relative_error(x, y, 1.0) < 2e-13


@pytest.mark.parametrize("short", [1e-3, 1e-6, 1e-9])
def test_times_too_short_to_tell_modes_apart_keep_their_digits_beside_long_ones(short: float):
    Xi = rotated(generator("short"), np.diag([-1.0, 0.5, -3, 2]))
    z0, g = normal(generator("short vectors"), 2, 4)
    case = Case("short", "short", Xi, z0, np.array([short, 1.0]), np.stack([g / short, g * 1e-3]), "")
    _, *got = differentiate(case, lambda Xi, z0, t: LinearODE(Xi, z0, method="eig")(t))
    for x, y in zip(got, oracles.gradients(Xi, z0, case.t, case.g)):
        assert relative_error(x, y, 1.0) < 1e-13


def test_newtons_step_on_eigenpairs_keeps_the_digits_of_a_close_pair():
    """The inverse of the basis is made anew: corrected by Newton's iteration, it lost kappa(V)^2 eps."""
    V = normal(generator("close pair"), 4, 4)
    Xi = V * np.array([-0.83, -1.78, -1.64924551, -1.64924556]) @ np.linalg.inv(V)
    t = np.linspace(0.2, 0.8, 7)
    for A in (Xi, np.kron(np.diag([1.0, 1e4]), Xi)):  # alone, and graded
        z0 = np.ones(len(A))
        z = LinearODE(A, z0, method=Eig(max_condition=1e6))(t)
        assert relative_error(z, oracles.trajectory(A, z0, t), 1.0) < 1e-13


def test_a_delicate_pair_is_divided_analytically_and_keeps_its_digits():
    """A pair whose subtraction the conditions of its eigenvalues do not allow, though the gap would."""
    rng = generator("delicate")
    V = np.eye(3)
    V[:, 1] = V[:, 0] + 0.02 * normal(rng, 3)
    Xi = V * np.array([-1.0, -1.3, -2.0]) @ np.linalg.inv(V)
    A = torch.tensor(Xi)[None]
    pairs = eigenpairs(A, one_norm(A), 1000.0, torch.full((len(A),), 0.4, dtype=torch.float64))
    assert pairs.accepted.all()
    assert pairs.modes.delicate.any()
    z0, t, g = np.ones(3), np.linspace(0.05, 0.4, 6), normal(rng, 6, 3)
    problem = Case("delicate", "delicate", Xi, z0, t, g, "")
    _, *got = differentiate(problem, lambda Xi, z0, t: LinearODE(Xi, z0, method="eig")(t))
    for x, y in zip(got, oracles.gradients(Xi, z0, t, g)):
        assert relative_error(x, y, 1.0) < 1e-12


def test_systems_with_unlike_numbers_of_pairs_share_a_batch_of_modes():
    kinds = [np.diag([-1.0, 0.5, -0.2, 0.1]), direct_sum(np.array([[-0.3, 2.0], [-2.0, -0.3]]), -1.0, 0.4)]
    kinds.append(direct_sum(*(np.array([[-0.1, w], [-w, -0.1]]) for w in (1.0, 3.0))))
    systems = np.stack([rotated(generator(f"kind {i}"), A) + 1e-3 * np.eye(4, k=1) for i, A in enumerate(kinds)])
    z0, t, g = np.ones(4), np.linspace(0.0, 3.0, 8), normal(generator("kinds"), 3, 8, 4)
    Xi = torch.tensor(systems, requires_grad=True)
    z = LinearODE(Xi, torch.tensor(z0), method="eig")(torch.tensor(t))
    z.backward(torch.tensor(g))
    for i, A in enumerate(systems):
        assert relative_error(z[i].detach().numpy(), oracles.trajectory(A, z0, t), 1.0) < 1e-14
        assert relative_error(Xi.grad[i].numpy(), oracles.gradients(A, z0, t, g[i]).S, 1.0) < 1e-13


# ---- conjugate pairs ---------------------------------------------------------------------------------------------


def test_a_system_of_a_mixed_batch_is_the_same_on_its_own():
    Xi = np.stack([np.diag([-1.0, -2.0, -3.0]) + 0.1, [[0.0, 2.0, 0.1], [-2.0, 0.0, 0.3], [0.2, 0.1, -1.0]]])
    z0, t, g = np.ones((2, 1, 3)), np.linspace(0, 3, 7)[None, None].repeat(2, 0), np.ones((2, 1, 7, 3))
    args = tuple(map(torch.tensor, (z0, t, g)))
    whole = Eig().plan(torch.tensor(Xi))
    z, pullback = whole.record(*args[:2])
    grads = pullback(args[2])
    for i in range(2):
        part, own = whole.subset(torch.tensor([i])), [x[i : i + 1] for x in args]
        z_own, own_pullback = part.record(*own[:2])
        assert np.allclose(z_own, z[i : i + 1], rtol=1e-14, atol=1e-15)
        for name, x, y in zip(("S", "a"), own_pullback(own[2]), grads):
            assert np.allclose(x, y[i : i + 1], rtol=1e-12, atol=1e-14), name
        true = oracles.trajectory(Xi[i], z0[i, 0], t[i, 0])
        assert np.allclose(z[i, 0], true, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", ["real", "pairs", "complex", "mixed"])
def test_the_adjoint_of_modes_is_that_of_the_adjoint_matrix(kind: str):
    Xi = normal(generator("adjoint modes"), 2, 4, 4, is_complex=kind == "complex")
    if kind == "real":
        Xi = Xi @ Xi.swapaxes(1, 2) @ np.diag([1.0, 2.0, 3.0, 4.0])  # similar to a symmetric one
    elif kind == "mixed":
        Xi[0] = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.1
    plan = Eig(max_condition=1e8).plan(torch.tensor(Xi)).adjoint()
    assert plan.modes.is_paired == (kind in ("pairs", "mixed"))
    t = torch.tensor([0.0, 0.3], dtype=torch.float64)
    z = plan.evaluate(torch.ones(2, 1, 4).to(plan.Xi), t.expand(2, 1, 2))
    for s in range(2):
        true = oracles.trajectory(Xi[s].conj().T, np.ones(4), t.numpy())
        assert relative_error(z[s, 0].numpy(), true, 1.0) < 1e-13


def test_exponentials_less_one_keep_their_digits_at_short_times():
    flint.ctx.prec = 200
    lam = torch.tensor([[-0.3 + 2j, 0.5 - 0.1j, 1e-3 + 1j]], dtype=torch.complex128)
    for t in (1e-12, 1e-6, 1e-2, 0.4):
        values = less_one(lam, torch.tensor([[t]], dtype=torch.float64))[0].tolist()
        for x, value in zip(lam[0].tolist(), values):
            true = (flint.acb(x.real, x.imag) * flint.arb(t)).exp().real - 1
            size = abs(x.real * t) + (x.imag * t) ** 2
            assert abs(float(true - flint.arb(value))) <= 8 * 2.0**-53 * size
