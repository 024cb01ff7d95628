"""Functions u(t): narrow pulses, jumps, decays, many channels; and that an input which is not resolved is told."""

from __future__ import annotations

import warnings
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import linode
from tests import forced_oracles as oracle

# torch warns about its own code when forward mode is first used
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

CENTRE, STOP, RATE = 14.86, 28.0, 1e-4


def pulse(t: Tensor, width: float) -> Tensor:
    """A flat top of this width and of area about 1."""
    return torch.exp(-((2 * (t - CENTRE) / width) ** 16)) / width


def area_of_pulse(width: float, times: tuple[float, ...] = (STOP,)) -> np.ndarray:
    """The part of z at the times that the pulse makes, z' = -RATE z + pulse."""

    def integrand(s: Any) -> Any:
        return mpmath.exp(RATE * (s - times[-1])) * mpmath.exp(-((2 * (s - CENTRE) / width) ** 16)) / width

    with mpmath.workdps(30):
        places = [CENTRE + width * x for x in (-1.0, -0.6, -0.5, -0.25, 0.0, 0.25, 0.5, 0.6, 1.0)]
        return float(mpmath.quad(integrand, places))


# ---- pulses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2.0, 0.5, 0.25, 0.1, 0.05, 0.02])
def test_a_pulse_is_resolved_and_said_to_be(width: float):
    ode = linode.LinearODE([[-RATE]], [0.0], B=[[1.0]], u=lambda t: 1 + pulse(t, width))
    solution = ode.solve([STOP])
    true = -np.expm1(-RATE * STOP) / RATE + area_of_pulse(width)
    assert abs(solution.z[0, 0] - true) < 1e-10 * true
    assert solution.status
    assert solution.stats.details["input_error"] < 1e-10
    assert ode([STOP])[0, 0] == solution.z[0, 0]


@pytest.mark.parametrize("width", [1.0, 0.1])
def test_a_pulse_has_a_gradient(width: float):
    height = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    ode = linode.LinearODE([[-RATE]], [0.0], B=[[1.0]], u=lambda t: 1 + height * pulse(t, width))
    ode([STOP]).sum().backward()
    assert abs(float(height.grad) - area_of_pulse(width)) < 1e-10


@pytest.mark.parametrize(
    "options", [{"breaks": (CENTRE,)}, {"breaks": [CENTRE - 6e-5, CENTRE + 6e-5]}, {"max_width": 2e-4}], ids=str
)
def test_a_pulse_too_narrow_to_be_met_by_chance_is_found_where_one_says_so(options: dict[str, Any]):
    width = 1e-4
    u = linode.Smooth(lambda t: pulse(t, width), 1, **options, max_evaluations=10_000_000)
    z = linode.LinearODE([[-RATE]], [0.0], B=[[1.0]], u=u)([STOP])
    assert abs(z[0, 0] - area_of_pulse(width)) < 1e-9


def test_the_function_is_looked_at_between_all_times_that_are_asked_for():
    width, times = 1e-5, [CENTRE - 1e-5, CENTRE + 1e-5, STOP]
    z = linode.LinearODE([[-RATE]], [0.0], B=[[1.0]], u=lambda t: pulse(t, width))(times)
    assert abs(z[-1, 0] - area_of_pulse(width)) < 1e-8
    assert z[0, 0] < 1e-8 < z[1, 0]


def test_widths_of_panels_are_at_most_what_is_asked_for_and_breaks_are_their_edges():
    u = linode.Smooth(torch.cos, 1, breaks=[0.7, 2.5, 99.0], max_width=0.3)
    linode.LinearODE([[-1.0]], [0.0], u=u)([3.0])
    edges = np.append(u.panels.numpy(), 3.0)
    assert np.diff(edges).max() <= 0.3 * (1 + 1e-12)
    assert {0.7, 2.5} <= set(edges.tolist())


# ---- other functions that are not smooth everywhere ------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.3, 1 / 3, 0.9999])
def test_a_jump_is_found(at: float):
    solution = linode.LinearODE([[-1.0]], [0.0], u=lambda t: (t > at).double()).solve([1.0])
    assert solution.status
    assert abs(solution.z[0, 0] + np.expm1(at - 1.0)) < 1e-9


def test_a_late_state_is_as_accurate_as_an_input_that_decays():
    """Not only relative to what the input was at first."""
    z = linode.LinearODE([[-10.0]], [0.0], u=lambda t: torch.exp(-t))([30.0])
    assert np.isclose(z[0, 0], np.exp(-30.0) / 9, rtol=1e-8)


def test_channels_of_very_different_size_are_each_resolved():
    def u(t: Tensor) -> Tensor:
        return torch.stack([1e6 * torch.cos(t), 1e-3 * torch.cos(7 * t)], -1)

    z = linode.LinearODE(np.zeros((2, 2)), [0.0, 0.0], u=u)([3.0])
    assert np.allclose(z[0], [1e6 * np.sin(3.0), 1e-3 * np.sin(21.0) / 7], rtol=1e-8)


def test_a_function_may_have_a_batch():
    w, t = torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.tensor([1.0, -2.0]).double()
    zero = torch.zeros(1, 1).double()
    z = linode.LinearODE(zero, zero[0], u=lambda s: torch.cos(w * s)[..., None])(t)
    assert z.shape == (3, 2, 1)
    assert torch.allclose(z[..., 0], torch.sin(w * t) / w, rtol=1e-9, atol=1e-10)


# ---- an input that is not resolved -----------------------------------------------------------------------------------


def noise(t: Tensor) -> Tensor:
    return torch.sin(1e9 * t**2)


def test_no_more_evaluations_are_made_than_were_allowed():
    seen = []

    def counted(t: Tensor) -> Tensor:
        seen.append(len(t))
        return noise(t)

    ode = linode.LinearODE([[-1.0]], [0.0], u=linode.Smooth(counted, 1, max_evaluations=20_000))
    with pytest.warns(linode.UnresolvedInputWarning):
        ode([1.0])
    once = ode.forcing.inputs[0].misfit.n_evaluations
    assert 10_000 < once <= 20_000
    assert sum(seen) <= 3 * once  # twice as many panels, to see what that changes


def test_a_program_can_make_the_warning_an_error():
    ode = linode.LinearODE([[-1.0]], [0.0], u=noise)
    with warnings.catch_warnings():
        warnings.simplefilter("error", linode.UnresolvedInputWarning)
        with pytest.raises(linode.UnresolvedInputWarning, match=r"z\(t\) changes by .* of its size"):
            ode([1.0])


FUNCTIONS = {
    "smooth": torch.cos,
    "noise": noise,
    "jump": lambda t: (t > 1 / 3).double(),
    "corner": lambda t: (t - 1 / 3).abs(),
    "decay": lambda t: torch.exp(-40 * t),
    "fast": lambda t: torch.cos(3000 * t),
    "zero": torch.zeros_like,
}
OPTIONS = [{}, {"n_panels": 3}, {"n_panels": 40}, {"max_evaluations": 2000}, {"max_evaluations": 6000}, {"order": 3}]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rate", [-1e-3, -3.0, -1e4])
def test_calling_warns_just_where_solve_is_not_ok(name: str, options: dict[str, Any], rate: float):
    ode = linode.LinearODE([[rate]], [0.1], u=linode.Smooth(FUNCTIONS[name], 1, **options))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ode([0.5, 1.0])
    status = ode.solve([0.5, 1.0]).status
    assert status in (linode.Status.OK, linode.Status.UNRESOLVED_INPUT)
    assert len(found) == (status is linode.Status.UNRESOLVED_INPUT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_width": 0.0}, "max_width must be None or a positive number"),
        ({"max_width": "wide"}, "max_width"),
        ({"max_evaluations": 0}, "max_evaluations must be a positive integer"),
        ({"max_evaluations": 1e4}, "max_evaluations"),
        ({"breaks": [[0.5]]}, "breaks must be real times"),
        ({"n_panels": 3, "breaks": [0.5]}, "n_panels fixes all panels"),
        ({"n_panels": 3, "max_width": 0.5}, "n_panels fixes all panels"),
    ],
)
def test_options_that_mean_nothing_are_named(options: dict[str, Any], message: str):
    with pytest.raises(linode.OptionError, match=message):
        linode.Smooth(torch.cos, 1, **options)


def test_a_break_that_is_no_number_is_named():
    with pytest.raises(linode.NonFiniteError, match=r"breaks\[1\] is nan"):
        linode.Smooth(torch.cos, 1, breaks=[0.5, np.nan])


# ---- on all states ---------------------------------------------------------------------------------------------------


def system(n: int, scale: float) -> list[np.ndarray]:
    """Xi, z0, b, amplitudes (1, n)."""
    rng = np.random.default_rng(n)
    Xi = (rng.standard_normal((n, n)) / np.sqrt(n) - 2.5 * np.eye(n)) * scale
    return [Xi, rng.standard_normal(n), rng.standard_normal(n), rng.standard_normal((1, n))]


@pytest.mark.parametrize(("n", "scale"), [(3, 1.0), (3, 300.0), (3, 1e6), (12, 30.0), (40, 1.0), (40, 20.0)])
def test_a_function_on_all_states_is_integrated_as_accurately_as_on_one(n: int, scale: float):
    Xi, z0, b, amplitudes = system(n, scale)
    t = np.array([0.0, 0.3, 1.0, 2.5] if scale > 10 else [-0.5, 0.0, 0.3, 1.0, 2.5])
    z = linode.LinearODE(Xi, z0, b=b, u=lambda s: torch.cos(3 * s)[:, None] * torch.tensor(amplitudes))(t)
    true = oracle.harmonic(Xi, z0, t, b, np.eye(n), [3j], amplitudes)
    assert np.abs(z - true).max() < 1e-10 * np.abs(true).max()


@pytest.mark.parametrize("Xi", [np.zeros((3, 3)), np.diag([1.0, 1.0], 1), np.outer([1.0, 2.0, 3.0], [0.5, -1.0, 0.25])])
def test_a_singular_system_can_be_driven_on_all_states(Xi: np.ndarray):
    z0, t = np.ones(3), np.array([1.0, 2.0, -1.0])
    z = linode.LinearODE(Xi, z0, u=lambda s: torch.cos(3 * s)[:, None].expand(-1, 3))(t)
    true = oracle.harmonic(Xi, z0, t, np.zeros(3), np.eye(3), [3j], np.ones((1, 3)))
    assert np.abs(z - true).max() < 1e-10 * np.abs(true).max()


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_derivatives_of_a_system_under_a_function_pass_gradcheck(scale: float):
    """With series alone, and with gains of longer steps."""
    Xi, z0, b, _ = (torch.tensor(x) for x in system(3, scale))
    t, w = torch.tensor([0.2, 1.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()

    def f(Xi: Tensor, z0: Tensor, b: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return linode.LinearODE(Xi, z0, b=b, u=linode.Smooth(lambda s: torch.cos(w * s[:, None]), 3, n_panels=6))(t)

    arguments = [x.clone().requires_grad_() for x in (Xi, z0, b, w, t)]
    assert torch.autograd.gradcheck(f, arguments, atol=1e-6, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, arguments, atol=1e-4, fast_mode=True)


def test_many_channels_that_are_held_equal_few_of_them():
    """Through gains of Xi, or of a system of z and u together."""
    rng = np.random.default_rng(3)
    Xi, B, z0 = rng.standard_normal((4, 4)) * 3, rng.standard_normal((4, 40)), rng.standard_normal(4)
    times, t = np.sort(rng.uniform(0.0, 2.0, 9)), np.array([-0.3, 0.5, 1.7, 2.5])
    for cls, kind in ((linode.ZeroOrderHold, oracle.zero_order), (linode.FirstOrderHold, oracle.first_order)):
        for own in (times, np.arange(90) / 64):
            values = rng.standard_normal((len(own), 40))
            z = linode.LinearODE(Xi, z0, b=np.ones(4), B=B, u=cls(own, values))(t)
            few = linode.LinearODE(Xi, z0, b=np.ones(4), u=cls(own, values @ B.T))(t)
            assert np.allclose(z, few, rtol=1e-11, atol=1e-11 * np.abs(few).max())
            if len(own) == 9:
                true = oracle.solution(kind, Xi, z0, t, np.ones(4), B, own, values)
                assert np.abs(z - true).max() < 1e-12 * np.abs(true).max()


def test_a_function_goes_on_where_the_system_switches():
    ode = linode.PiecewiseLinearODE([(0.0, [[-1.0]]), (1.0, [[-2.0]])], [0.0], u=lambda s: s)
    at_1 = np.exp(-1.0)
    at_2 = 0.75 + (at_1 - 0.25) * np.exp(-2.0)
    assert np.allclose(ode([1.0, 2.0])[:, 0], [at_1, at_2], rtol=1e-12)


def test_growth_under_a_function_past_the_largest_float_is_infinite_and_said_so():
    ode = linode.LinearODE([[500.0, 0.0], [0.0, -1.0]], [1.0, 1.0], u=lambda s: torch.cos(s)[:, None].expand(-1, 2))
    solution = ode.solve([1.0, 3.0])
    assert np.isfinite(solution.z[0]).all()
    assert not np.isnan(solution.z).any()
    assert np.isinf(solution.z[1, 0])
    assert solution.status is linode.Status.OVERFLOW
