"""Forced problems: values and gradients against ball arithmetic, conventions, and properties that always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import linode
from tests import forced_oracles as oracle

KINDS = {
    "zero": (oracle.zero_order, linode.ZeroOrderHold),
    "first": (oracle.first_order, linode.FirstOrderHold),
    "impulses": (oracle.impulses, linode.Impulses),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
RNG = np.random.default_rng(7)
SYSTEMS = {
    "random": RNG.standard_normal((3, 3)),
    "integrators": np.diag([1.0, 1.0], 1),
    "nothing": np.zeros((3, 3)),
    "singular": np.outer([1.0, 2.0, 3.0], [0.5, -1.0, 0.25]),
    "defective": np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, -1.0]]),
    "stiff": np.array([[-1e4, 1e3, 0.0], [0.0, -1.0, 2.0], [0.0, -2.0, -1.0]]),
    "oscillator": np.array([[0.0, 1.0, 0.0], [-100.0, -0.1, 0.0], [0.0, 1.0, -0.5]]),
    "graded": np.array([[-1e-6, 1e-3, 0.0], [0.0, -1.0, 1e3], [0.0, 0.0, -50.0]]),
}
every_system = pytest.mark.parametrize("system", SYSTEMS)
GRIDS = {
    "after": np.array([0.4, 0.7, 1.3, 1.35]),
    "around": np.array([-0.8, -0.35, 0.25, 1.1]),
    "before": np.array([-2.5, -1.0, -0.9, -0.2]),
    "from 0": np.array([0.0, 0.5, 1.0, 1.5]),
    "one": np.array([0.3]),
}
every_grid = pytest.mark.parametrize("grid", GRIDS)
TIMES = np.array([0.0, 1.7, 0.33, -0.52, -1.5, 0.27, 0.27, 0.9, 2.0])
NAMES = ("Xi", "z0", "t", "b", "B", "times", "values")


def problem(system: str, grid: str, m: int = 2) -> list[np.ndarray]:
    """Xi, z0, t, b, B, times, values."""
    rng = np.random.default_rng(3)
    Xi, times = SYSTEMS[system], GRIDS[grid]
    t = TIMES[TIMES >= 0] if system == "stiff" else TIMES  # against time it grows by e^15000
    return [
        Xi, rng.standard_normal(3), t, rng.standard_normal(3), rng.standard_normal((3, m)), times,
        rng.standard_normal((len(times), m)),
    ]  # fmt: skip


def solve(kind: str, Xi: Any, z0: Any, t: Any, b: Any, B: Any, times: Any, values: Any, **options: Any) -> Any:
    return linode.LinearODE(Xi, z0, b=b, B=B, u=KINDS[kind][1](times, values), **options)(t)


def error(got: Any, true: np.ndarray) -> float:
    """Relative to the largest entry."""
    return float(np.abs(np.asarray(got) - true).max() / np.abs(true).max())


# ---- truth -------------------------------------------------------------------------------------------------------


@every_kind
@every_system
@every_grid
def test_solution_is_that_of_ball_arithmetic(kind: str, system: str, grid: str):
    arguments = problem(system, grid)
    true = oracle.solution(KINDS[kind][0], *arguments)
    assert error(solve(kind, *arguments), true) < 2e-13


@every_kind
@pytest.mark.parametrize("system", ["random", "integrators", "defective", "stiff"])
@pytest.mark.parametrize("grid", ["after", "around"])
def test_gradients_are_those_of_ball_arithmetic(kind: str, system: str, grid: str):
    arguments = problem(system, grid)
    g = RNG.standard_normal((len(arguments[2]), 3))
    truth = oracle.gradients(KINDS[kind][0], g, *arguments)
    tensors = [torch.tensor(x, requires_grad=True) for x in arguments]
    (solve(kind, *tensors) * torch.tensor(g)).sum().backward()
    for name, x, true in zip(NAMES, tensors, truth):
        if np.abs(true).max() > 0:
            assert error(x.grad, true) < 1e-11, name


def test_complex_systems_take_complex_inputs():
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    times = GRIDS["around"]
    arguments = [draw(3, 3), draw(3), TIMES, draw(3), draw(3, 2), times, draw(4, 2)]
    for kind, (pieces, _) in KINDS.items():
        assert error(solve(kind, *arguments), oracle.solution(pieces, *arguments)) < 1e-13


@pytest.mark.parametrize("rates", [[0.5, -2.0], [3j, -0.5 + 2j], [-1.0, 10j]], ids=["real", "complex", "resonant"])
@every_system
def test_harmonics_are_exact_also_in_resonance(rates: list[complex], system: str):
    """Eigenvalues of the defective system and of the oscillator are close to the rates, or equal."""
    Xi, z0, t, b, B, *_ = problem(system, "one")
    amplitudes = np.array([[1.0, -0.5], [0.25, 2.0]]) * (1 if np.isrealobj(rates) else 1 + 0.5j)
    ode = linode.LinearODE(Xi, z0, b=b, B=B, u=linode.Harmonics(rates, amplitudes))
    assert error(ode(t), oracle.harmonic(Xi, z0, t, b, B, rates, amplitudes)) < 2e-13


def test_harmonics_have_gradients_in_rates_and_amplitudes():
    Xi, z0, t, _, B, *_ = (torch.tensor(x) for x in problem("random", "one"))
    rates = torch.tensor([0.3 + 2j, -1.0 + 0j], dtype=torch.complex128, requires_grad=True)
    amplitudes = torch.tensor([[1.0 + 1j, 0.5], [0.2j, -1.0]], dtype=torch.complex128, requires_grad=True)

    def f(rates: torch.Tensor, amplitudes: torch.Tensor) -> torch.Tensor:
        return linode.LinearODE(Xi, z0, B=B, u=linode.Harmonics(rates, amplitudes))(t[:4])

    assert torch.autograd.gradcheck(f, (rates, amplitudes))


def test_constant_forcing_alone_works_for_a_singular_system():
    z = linode.LinearODE([[0.0, 1.0], [0.0, 0.0]], [1.0, 2.0], b=[0.0, 3.0])([0.0, 2.0, -1.0])
    assert np.allclose(z, [[1.0, 2.0], [11.0, 8.0], [0.5, -1.0]], rtol=1e-15)


@pytest.mark.parametrize(("cls", "interp"), [(linode.ZeroOrderHold, False), (linode.FirstOrderHold, True)])
def test_uniform_inputs_agree_with_lsim(cls: Any, interp: bool):
    rng = np.random.default_rng(2)
    A, B = rng.standard_normal((5, 5)) - 2 * np.eye(5), rng.standard_normal((5, 2))
    t, u, z0 = np.arange(3000) * 0.01, rng.standard_normal((3000, 2)), rng.standard_normal(5)
    system = scipy.signal.StateSpace(A, B, np.eye(5), np.zeros((5, 2)))
    _, y, _ = scipy.signal.lsim(system, u, t, z0, interp=interp)
    assert error(linode.LinearODE(A, z0, B=B, u=cls(t, u))(t), y) < 1e-12


@every_kind
@pytest.mark.parametrize("spacing", ["uniform", "irregular"])
def test_long_inputs_are_as_accurate_as_short_ones(kind: str, spacing: str):
    rng = np.random.default_rng(4)
    Xi, z0, _, b, B, *_ = problem("oscillator", "one")
    times = np.arange(400) / 64 if spacing == "uniform" else np.sort(rng.uniform(0, 6, 400))
    values = rng.standard_normal((400, 2))
    t = np.concatenate([times[[5, 399]], rng.uniform(0, 7, 6)])
    true = oracle.solution(KINDS[kind][0], Xi, z0, t, b, B, times, values)
    assert error(solve(kind, Xi, z0, t, b, B, times, values), true) < 1e-13
    whole = solve(kind, Xi, z0, times, b, B, times, values)
    assert error(whole[[5, 399]], true[:2]) < 1e-13


@every_kind
def test_gradients_of_long_inputs_are_those_of_ball_arithmetic(kind: str):
    """Through products with one propagator where samples are uniform, through digits and series where they are not."""
    rng = np.random.default_rng(8)
    Xi, z0, b, B = np.array([[0.0, 1.0], [-9.0, -0.3]]), np.ones(2), np.ones(2), np.array([[0.0], [1.0]])
    for times in (np.arange(14) / 8, np.sort(rng.uniform(0, 2, 14))):
        values, t = rng.standard_normal((14, 1)), np.append(times[[12]], rng.uniform(0, 2, 9))
        t = t[1:] if kind == "impulses" else t  # at an impulse there is no derivative
        g = rng.standard_normal((len(t), 2))
        arguments = [Xi, z0, t, b, B, times, values]
        truth = oracle.gradients(KINDS[kind][0], g, *arguments)
        tensors = [torch.tensor(x, requires_grad=True) for x in arguments]
        (solve(kind, *tensors) * torch.tensor(g)).sum().backward()
        for name, x, true in zip(NAMES, tensors, truth):
            if name in ("Xi", "z0", "b", "B", "values"):
                assert error(x.grad, true) < 1e-12, name
        fixed = [x.detach().requires_grad_(name != "times") for name, x in zip(NAMES, tensors)]
        (solve(kind, *fixed) * torch.tensor(g)).sum().backward()
        for name, x, true in zip(NAMES, fixed, truth):
            if name in ("Xi", "z0", "b", "B", "values"):
                assert error(x.grad, true) < 1e-12, name


# ---- conventions -------------------------------------------------------------------------------------------------


def test_ends_are_held():
    """Before the first sample and after the last one."""
    ode = linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=linode.FirstOrderHold([1.0, 2.0], [[1.0], [3.0]]))
    assert np.allclose(ode([0.5, 1.0, 1.5, 2.0, 4.0, -2.0])[:, 0], [0.5, 1.0, 1.75, 3.0, 9.0, -2.0])


def test_a_jump_shows_at_its_time_and_not_before():
    ode = linode.LinearODE([[0.0]], [1.0], u=linode.Impulses([-1.0, 0.0, 1.0], [[8.0], [2.0], [4.0]]))
    at = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert ode(at)[:, 0].tolist() == [-7.0, 1.0, 1.0, 3.0, 3.0, 7.0, 7.0]


def test_without_B_the_input_acts_on_the_states_themselves():
    Xi, z0, t, b, _, times, values = problem("random", "around", m=3)
    got = solve("first", Xi, z0, t, b, None, times, values)
    assert np.array_equal(got, solve("first", Xi, z0, t, b, np.eye(3), times, values))


def test_at_time_0_the_state_is_z0_to_the_last_bit():
    for kind in ("zero", "first"):
        arguments = problem("random", "around")
        assert np.array_equal(solve(kind, *arguments)[0], arguments[1])


# ---- properties --------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    split=st.floats(-1.4, 1.4),
    kind=st.sampled_from(sorted(KINDS)),
    system=st.sampled_from(["random", "integrators", "defective", "oscillator"]),
)
def test_splitting_an_interval_changes_nothing(seed: int, split: float, kind: str, system: str):
    """From z(split), with the input moved by as much, the solution goes on as it was."""
    Xi, z0, _, b, B, _, values = problem(system, "around")
    rng = np.random.default_rng(seed)
    times, t = np.sort(rng.uniform(-1.5, 1.5, 4)), rng.uniform(-2, 2, 12)
    if kind == "impulses" and np.abs(np.append(times, split) - np.append(0, times)[:, None]).min() < 1e-9:
        return
    whole = solve(kind, Xi, z0, np.append(t, split), b, B, times, values)
    rest = solve(kind, Xi, whole[-1], t - split, b, B, times - split, values)
    assert np.abs(rest - whole[:-1]).max() <= 1e-11 * np.abs(whole).max()


@every_kind
def test_inputs_add_up(kind: str):
    Xi, z0, t, b, B, times, values = problem("random", "around")
    both = KINDS[kind][1](times, values) + linode.Harmonics([2j], [[1.0, 0.5]])
    apart = [KINDS[kind][1](times, values), linode.Harmonics([2j], [[1.0, 0.5]])]
    z = linode.LinearODE(Xi, z0, b=b, B=B, u=both)(t)
    first = linode.LinearODE(Xi, z0, b=b, B=B, u=apart[0])(t)
    second = linode.LinearODE(Xi, np.zeros(3), B=B, u=apart[1])(t)
    assert np.allclose(z, first + second, rtol=1e-13, atol=1e-13)
    assert both.m == 2
    assert len(both.parts) == 2


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e9])
def test_units_of_time_and_of_the_input_do_not_matter(unit: float):
    for kind in KINDS:
        Xi, z0, t, b, B, times, values = problem("random", "around")
        rate = 1.0 if kind == "impulses" else 1 / unit
        got = solve(kind, Xi / unit, z0, t * unit, b / unit, B * rate * 1e8, times * unit, values * 1e-8)
        assert error(got, oracle.solution(KINDS[kind][0], Xi, z0, t, b, B, times, values)) < 1e-12


def test_order_and_repetition_of_times_do_not_matter():
    for kind in KINDS:
        Xi, z0, t, b, B, times, values = problem("random", "around")
        z = solve(kind, Xi, z0, t, b, B, times, values)
        order = np.array([3, 3, 0, 8, 1])
        assert np.allclose(solve(kind, Xi, z0, t[order], b, B, times, values), z[order], rtol=1e-13, atol=1e-14)


def test_samples_beyond_the_times_asked_for_do_not_matter():
    """Not even where the state would overflow by then."""
    times, values = np.arange(0.0, 4000.0, 10.0), np.ones((400, 1))
    z = linode.LinearODE([[1.0]], [1.0], u=linode.ZeroOrderHold(times, values))([1.0])
    assert np.allclose(z, 2 * np.e - 1, rtol=1e-14)


def test_growth_past_the_largest_float_is_infinite_and_said_so():
    ode = linode.LinearODE([[1.0]], [1.0], u=linode.ZeroOrderHold(np.arange(0.0, 1000.0), np.ones((1000, 1))))
    z = ode([1.0, 900.0, 999.0])[:, 0]
    assert np.isclose(z[0], 2 * np.e - 1)
    assert np.isinf(z[1:]).all()
    assert ode.solve([900.0]).status is linode.Status.OVERFLOW
