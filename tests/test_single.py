"""One real system with few states has a path of its own: it is the general one, to rounding."""

from __future__ import annotations

import flint
import numpy as np
import pytest
import torch

import linode
from linode.kernels.arrays import FEW_VALUES, polar
from linode.kernels.pairs import less_one
from linode.methods.eig import ModalPlan, SinglePlan
from tests.case_builders import generator, normal

EPS = 2.0**-53


def problem(n: int, T: int, span: float = 10.0) -> tuple[np.ndarray, ...]:
    rng = generator(f"single {n} {T}")
    Xi = normal(rng, n, n) / np.sqrt(n) - 0.3 * np.eye(n)
    return Xi, normal(rng, 1, 1, n), np.sort(rng.uniform(-0.1 * span, span, T))[None, None], normal(rng, 1, 1, T, n)


@pytest.mark.parametrize("n", [2, 3, 6, 20])
@pytest.mark.parametrize("T", [1, 7, 500])
@pytest.mark.parametrize("span", [1e-9, 1.0, 10.0])
def test_states_and_gradients_are_those_of_the_general_modes(n: int, T: int, span: float):
    Xi, z0, t, g = problem(n, T, span)
    plan = linode.methods.Eig(max_condition=1e4).plan(Xi[None])
    assert isinstance(plan, SinglePlan)
    z, pullback = plan.record(z0, t)
    own = (z, *pullback(g, True))
    general = plan.general.record(z0, t)
    for x, y in zip(own, (general[0], *general[1](g, True))):
        assert x.shape == y.shape
        assert np.linalg.norm(x - y) <= 1e-12 * np.linalg.norm(y)
    assert np.array_equal(plan.evaluate(z0, t), z)
    again = pullback(g, True)
    assert all(np.array_equal(x, y) for x, y in zip(own[1:], again))  # a graph that is kept


def test_eigenvalues_near_each_other_are_left_to_the_general_modes():
    basis = np.array([[1.0, 0.5], [0.2, 1.0]])
    Xi = basis @ np.diag([-1.0, -1.001]) @ np.linalg.inv(basis)
    plan = linode.methods.Eig(max_condition=1e6).plan(Xi[None])
    assert isinstance(plan, SinglePlan)
    assert plan.single._adjoint is None
    z0, t, g = problem(2, 20)[1:]
    for x, y in zip(plan.vjp(z0, t, g, True), plan.general.vjp(z0, t, g, True)):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("n_systems", [1, 3])
def test_recurrences_go_through_modes(n_systems: int, monkeypatch: pytest.MonkeyPatch):
    Xi = np.stack([problem(4, 5)[0]] * n_systems) + np.arange(n_systems)[:, None, None] * 0.01
    plan = linode.methods.Eig(max_condition=1e6).plan(Xi)
    assert isinstance(plan, ModalPlan)
    assert plan.modes_for(Xi).lam.shape == (n_systems, 4)
    monkeypatch.setattr("linode.engine.recurrences.propagators", None)  # would be called for every step
    rng = generator("recurrence")
    z0, h, d = normal(rng, n_systems, 1, 4), rng.uniform(0, 1, (n_systems, 1, 9)), normal(rng, n_systems, 1, 9, 4)
    x = linode.engine.recurrences.recur(plan, *map(torch.from_numpy, (z0, h, d)))
    for k in range(9):
        step = plan.evaluate(x[:, :, k].numpy(), h[:, :, k : k + 1])[:, :, 0] + d[:, :, k]
        assert np.allclose(x[:, :, k + 1], step, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 100.0, 1e8, 1e15])
@pytest.mark.parametrize("n", [300, FEW_VALUES[True] + 1])
def test_sine_and_cosine_from_one_tangent_are_true_to_some_units_of_rounding(scale: float, n: int):
    flint.ctx.prec = 200
    omega, t = np.array([[scale]]), generator(f"{scale}").uniform(-1, 1, (1, n))
    cosine, sine = np.ones((1, n)), np.empty((1, n))
    polar(cosine, omega, t, sine)
    for i in range(0, n, max(1, n // 300)):
        angle = flint.arb(float(omega[0, 0] * t[0, i]))
        assert abs(float(angle.cos() - flint.arb(cosine[0, i]))) <= 3 * EPS
        assert abs(float(angle.sin() - flint.arb(sine[0, i]))) <= 3 * EPS


def test_exponentials_less_one_keep_their_digits_at_short_times():
    flint.ctx.prec = 200
    lam = np.array([[-0.3 + 2j, 0.5 - 0.1j, 1e-3 + 1j]])
    for t in (1e-12, 1e-6, 1e-2, 0.4):
        values = less_one(lam, np.array([[t]]))[0]
        for x, value in zip(lam[0], values):
            true = (flint.acb(x.real, x.imag) * flint.arb(t)).exp().real - 1
            size = abs(x.real * t) + (x.imag * t) ** 2
            assert abs(float(true - flint.arb(value))) <= 8 * EPS * size
