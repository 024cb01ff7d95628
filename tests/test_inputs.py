"""Inputs by themselves: their values, their errors, and functions by quadrature."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

import linode
from tests import forced_oracles as oracle

HOLDS = [linode.ZeroOrderHold, linode.FirstOrderHold, linode.Impulses]
every_hold = pytest.mark.parametrize("cls", HOLDS)
TIMES, VALUES = [0.0, 1.0, 3.0], [[1.0, -1.0], [2.0, 0.0], [-2.0, 4.0]]


# ---- values --------------------------------------------------------------------------------------------------------


def test_a_zero_order_hold_keeps_each_value_until_the_next():
    u = linode.ZeroOrderHold(TIMES, VALUES)
    assert u([-1.0, 0.0, 0.99, 1.0, 2.9, 3.0, 9.0])[:, 0].tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, -2.0, -2.0]


def test_a_first_order_hold_is_linear_between_samples_and_constant_outside():
    u, t = linode.FirstOrderHold(TIMES, VALUES), np.linspace(-1, 4, 41)
    true = np.stack([np.interp(t, TIMES, column) for column in np.transpose(VALUES)], -1)
    assert np.allclose(u(t), true, rtol=1e-15, atol=1e-15)


def test_harmonics_are_what_their_formula_says():
    rates, amplitudes = [-0.5 + 3j, 1j, -1.0], [[1.0, 2j], [0.5 - 1j, 1.0], [1.0, 1.0]]
    t = np.linspace(-2, 2, 9)
    true = (np.exp(np.multiply.outer(t, rates)) @ np.array(amplitudes)).real
    assert np.allclose(linode.Harmonics(rates, amplitudes)(t), true, rtol=1e-14, atol=1e-14)
    real = linode.Harmonics([0.5, -1.0], [[1.0], [2.0]])
    assert np.allclose(real(t)[:, 0], np.exp(0.5 * t) + 2 * np.exp(-t), rtol=1e-14)


def test_a_sum_has_the_sum_of_the_values():
    u = linode.ZeroOrderHold(TIMES, VALUES) + linode.Harmonics([0.0], [[1.0, 2.0]])
    assert np.allclose(u([0.5, 2.0]), [[2.0, 1.0], [3.0, 2.0]])


def test_a_scalar_time_gives_one_value_and_tensors_give_tensors():
    u = linode.ZeroOrderHold(TIMES, VALUES)
    assert u(1.5).tolist() == [2.0, 0.0]
    assert isinstance(u(torch.tensor([0.5])), torch.Tensor)


@every_hold
def test_inputs_survive_a_pickle(cls: Any):
    u = pickle.loads(pickle.dumps(cls(TIMES, VALUES)))
    z = linode.LinearODE(np.eye(2), [0.0, 0.0], u=u)([2.0])
    assert np.array_equal(z, linode.LinearODE(np.eye(2), [0.0, 0.0], u=cls(TIMES, VALUES))([2.0]))


# ---- errors --------------------------------------------------------------------------------------------------------

BAD = [
    ([0.0, 2.0, 1.0], VALUES, linode.OrderError, r"times must increase strictly, but times\[2\] = 1 comes after 2"),
    ([0.0, 1.0, 1.0], VALUES, linode.OrderError, r"times must increase strictly, but times\[2\] = 1 repeats 1"),
    ([0.0, np.nan, 1.0], VALUES, linode.NonFiniteError, r"times must be finite, but times\[1\] is nan"),
    (TIMES, [[1.0, 2.0], [np.inf, 0.0], [0.0, 0.0]], linode.NonFiniteError, r"values\[1, 0\] is inf"),
    (TIMES, [[1.0], [2.0]], linode.ShapeError, r"values has shape \(2, 1\).*K = 3"),
    (TIMES, [1.0, 2.0, 3.0], linode.ShapeError, r"values\[:, None\]"),
    (1.0, [[1.0]], linode.ShapeError, r"times has shape \(\)"),
    ([], np.zeros((0, 1)), linode.ShapeError, r"times has shape \(0,\)"),
    ([1j, 2j, 3j], VALUES, linode.DtypeError, r"times must be real"),
    (["a", "b", "c"], VALUES, linode.DtypeError, r"times must hold real"),
    (TIMES, "text", linode.DtypeError, r"values must hold"),
    (np.zeros((2, 3)) + np.arange(3), np.zeros((4, 3, 1)), linode.ShapeError, r"do not broadcast"),
]


@every_hold
@pytest.mark.parametrize(("times", "values", "error", "message"), BAD)
def test_samples_that_cannot_be_used_are_named(cls: Any, times: Any, values: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        cls(times, values)


def test_samples_that_went_bad_are_named_when_they_are_used():
    values = torch.ones(3, 1)
    ode = linode.LinearODE(torch.zeros(1, 1), torch.zeros(1), u=linode.ZeroOrderHold(torch.tensor(TIMES), values))
    values[1] = torch.nan
    with pytest.raises(linode.NonFiniteError, match=r"values\[1, 0\] is nan"):
        ode([1.0])


ONE, TWO = linode.ZeroOrderHold([0.0], [[1.0]]), linode.ZeroOrderHold(TIMES, VALUES)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"B": [[1.0], [0.0]], "u": TWO}, linode.ShapeError, "u has 2 channels, but B is 2 x 1"),
        ({"u": ONE}, linode.ShapeError, "u has 1 channels, but Xi is 2 x 2 and there is no B"),
        ({"b": [1.0]}, linode.ShapeError, r"b has shape \(1,\), but Xi is 2 x 2"),
        ({"b": [np.nan, 0.0]}, linode.NonFiniteError, r"b\[0\] is nan"),
        ({"B": [1.0, 2.0]}, linode.ShapeError, r"B has shape \(2,\)"),
        ({"B": [[np.inf], [0.0]]}, linode.NonFiniteError, r"B\[0, 0\] is inf"),
        ({"u": np.ones((3, 2))}, linode.DtypeError, "u must be an input such as linode.ZeroOrderHold"),
        ({"u": lambda t: 1j * torch.ones(len(t), 2)}, linode.DtypeError, r"u\(t\) is complex"),
        ({"b": np.zeros((3, 2)), "u": linode.ZeroOrderHold(TIMES, np.zeros((4, 3, 2)))}, linode.ShapeError, "b .*u .*"),
    ],
)  # fmt: skip
def test_forcing_that_cannot_be_used_is_named(options: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=message):
        linode.LinearODE(np.eye(2), [1.0, 1.0], **options)([1.0])


def test_inputs_of_different_channels_do_not_add():
    with pytest.raises(linode.ShapeError, match="2, 1 channels"):
        linode.ZeroOrderHold(TIMES, VALUES) + linode.Harmonics([1.0], [[1.0]])
    with pytest.raises(TypeError):
        linode.ZeroOrderHold(TIMES, VALUES) + 1.0


@pytest.mark.parametrize(
    ("rates", "amplitudes", "error", "message"),
    [
        ([[1.0]], [[1.0]], linode.ShapeError, r"rates has shape \(1, 1\)"),
        ([1.0], [1.0], linode.ShapeError, r"amplitudes has shape \(1,\)"),
        ([1.0, 2.0], [[1.0]], linode.ShapeError, r"J = 2"),
        ([np.nan], [[1.0]], linode.NonFiniteError, r"rates\[0\] is nan"),
        ([1.0], [[np.inf]], linode.NonFiniteError, r"amplitudes\[0, 0\] is inf"),
    ],
)
def test_harmonics_that_cannot_be_used_are_named(rates: Any, amplitudes: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        linode.Harmonics(rates, amplitudes)


def test_samples_out_of_order_inside_a_transform_raise_too():
    def f(times: torch.Tensor) -> torch.Tensor:
        u = linode.ZeroOrderHold(times, torch.ones(2, 1))
        return linode.LinearODE(torch.zeros(1, 1), torch.zeros(1), u=u)(torch.tensor([3.0]))

    with pytest.raises(linode.OrderError):
        torch.func.vmap(f)(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))


# ---- functions by quadrature -----------------------------------------------------------------------------------------

XI, Z0, B = np.array([[0.0, 1.0], [-4.0, -0.2]]), np.array([1.0, 0.0]), np.array([[0.0], [1.0]])
AT = np.array([0.3, 2.0, -1.0, 5.0])


def truth(rates: list[complex], amplitudes: list[list[complex]], Xi: np.ndarray = XI, t: np.ndarray = AT) -> np.ndarray:
    return oracle.harmonic(Xi, Z0, t, np.zeros(2), B, rates, amplitudes)


def test_a_function_is_integrated_to_its_tolerance():
    z = linode.LinearODE(XI, Z0, B=B, u=lambda t: torch.cos(3 * t)[:, None])(AT)
    true = truth([3j], [[1.0]])
    assert np.abs(z - true).max() < 1e-9 * np.abs(true).max()


def test_a_stiff_system_needs_no_more_panels():
    """The exponential is exact: u alone is interpolated."""
    stiff = np.array([[-1e6, 1.0], [0.0, -1.0]])
    u = linode.Smooth(lambda t: torch.cos(3 * t)[:, None], m=1)
    z = linode.LinearODE(stiff, Z0, B=B, u=u)(AT[AT > 0])
    true = truth([3j], [[1.0]], stiff, AT[AT > 0])
    assert np.abs(z - true).max() < 1e-9 * np.abs(true).max()
    assert len(u.panels) <= 32


@pytest.mark.filterwarnings("ignore::linode.UnresolvedInputWarning")
@pytest.mark.parametrize("order", [2, 4, 8])
def test_the_error_falls_with_the_order_that_was_asked_for(order: int):
    true, errors = truth([3j], [[1.0]]), []
    for n_panels in (12, 24):
        u = linode.Smooth(lambda t: torch.cos(3 * t)[:, None], m=1, order=order, n_panels=n_panels)
        errors.append(np.abs(linode.LinearODE(XI, Z0, B=B, u=u)(AT) - true).max())
    assert np.log2(errors[0] / errors[1]) > order - 0.5


@pytest.mark.parametrize("n_panels", [3, 6])
def test_the_error_estimate_covers_the_error_and_not_much_more(n_panels: int):
    u = linode.Smooth(lambda t: torch.cos(3 * t)[:, None], m=1, order=6, n_panels=n_panels)
    solution = linode.LinearODE(XI, Z0, B=B, u=u).solve(AT)
    true = truth([3j], [[1.0]])
    error = np.abs(solution.z - true).max() / np.abs(true).max()
    assert 0.5 * error < solution.stats.details["input_error"] < 2 * error
    assert float(solution.error_estimate) >= solution.stats.details["input_error"]


def test_a_function_that_jumps_is_said_to_be_unresolved():
    u = linode.Smooth(lambda t: (t > 1 / 3).double()[:, None], m=1, n_panels=7)
    solution = linode.LinearODE(XI, Z0, B=B, u=u).solve([1.0])
    assert solution.status is linode.Status.UNRESOLVED_INPUT
    assert "hold" in str(solution.status)


def test_parameters_of_a_function_have_gradients():
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    Xi, z0, gain, t = (torch.tensor(x) for x in (XI, Z0, B, AT))

    def f(w: torch.Tensor) -> torch.Tensor:
        return linode.LinearODE(Xi, z0, B=gain, u=lambda s: torch.cos(w * s)[:, None])(t)

    assert torch.autograd.gradcheck(f, (w,), atol=1e-6)


def test_one_channel_may_be_flat_and_numpy_may_be_used():
    z = linode.LinearODE(XI, Z0, B=B, u=lambda t: np.cos(3 * np.asarray(t)))(AT)
    assert np.allclose(z, truth([3j], [[1.0]]), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda t: torch.zeros(len(t), 3), linode.ShapeError, r"u\(t\) has shape .* m = 2"),
        (lambda t: torch.full((len(t), 2), torch.nan), linode.NonFiniteError, r"u\(t\)\[0, 0\] is nan"),
        (lambda t: "text", linode.DtypeError, r"u\(t\) must hold"),
    ],
)
def test_functions_that_return_rubbish_are_told_so(function: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        linode.LinearODE(np.eye(2), [1.0, 1.0], u=function)([1.0])


@pytest.mark.parametrize(
    "options", [{"order": 1}, {"order": 2.5}, {"rtol": 0.0}, {"n_panels": 0}, {"n_panels": "many"}], ids=str
)
def test_options_of_quadrature_that_mean_nothing_raise(options: dict[str, Any]):
    with pytest.raises(linode.OptionError, match=next(iter(options))):
        linode.Smooth(lambda t: t, m=1, **options)


def test_a_function_is_sampled_where_it_is_asked_for_inside_transforms_too():
    def solve(t: torch.Tensor) -> torch.Tensor:
        return linode.LinearODE(torch.zeros(1, 1).double(), torch.zeros(1).double(), u=lambda s: torch.cos(s))(t)[
            ..., 0
        ]

    t = torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert torch.allclose(torch.func.vmap(solve)(t), torch.sin(t), atol=1e-9)
    assert torch.allclose(torch.func.jacrev(solve)(t).diagonal(), torch.cos(t), atol=1e-8)


def test_second_derivatives_at_the_ends_of_time_are_those_of_the_function():
    t = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    z = linode.LinearODE(torch.zeros(1, 1).double(), torch.zeros(1).double(), u=lambda s: torch.cos(s))(t)
    (rate,) = torch.autograd.grad(z.sum(), t, create_graph=True)
    (curvature,) = torch.autograd.grad(rate.sum(), t)
    assert torch.allclose(curvature, -torch.sin(t), atol=1e-6)


def test_rubbish_is_found_inside_transforms():
    one = torch.eye(1)

    def with_times(times: torch.Tensor) -> torch.Tensor:
        return linode.LinearODE(one, one[0], u=linode.ZeroOrderHold(times, torch.ones(3, 1)))(one[0])

    def with_values(values: torch.Tensor) -> torch.Tensor:
        return linode.LinearODE(one, one[0], u=linode.Impulses([1.0], values))(one[0])

    with pytest.raises(linode.OrderError):
        torch.func.vmap(with_times)(torch.tensor([[-1.0, -2.0, 1.0]]))
    with pytest.raises(linode.NonFiniteError):
        torch.func.vmap(with_values)(torch.full((2, 1, 1), torch.nan))


def test_a_function_with_parameters_gives_a_tensor_where_arrays_came_with_it():
    p = torch.tensor(2.0, requires_grad=True)
    z = linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=lambda t: torch.sin(p * t))([1.0])
    z.sum().backward()
    assert p.grad is not None


def test_a_state_of_zeros_under_a_function_is_resolved():
    assert linode.LinearODE([[0.0]], [0.0], u=lambda t: t).solve([0.0]).status


def test_inputs_sum_and_values_are_asked_for_at_numbers_only():
    u = sum([linode.ZeroOrderHold([0.0], [[1.0]])] * 3)
    assert u([0.0]).tolist() == [[3.0]]
    with pytest.raises(linode.NonFiniteError, match="t must be finite"):
        u.parts[0]([np.nan])
    with pytest.raises(linode.DtypeError, match="t must be real"):
        u.parts[0]([1j])


def test_gaps_that_differ_for_a_reason_are_not_made_equal():
    """Of times so large that their last digit is half a gap."""
    times = 1e9 + 2.0**-22 * np.array([0, 1, 3, 4, 7])
    u = linode.ZeroOrderHold(times - 1e9, [[1.0], [2.0], [3.0], [4.0], [5.0]])
    assert np.allclose(linode.LinearODE([[0.0]], [0.0], u=u)([2.0**-22 * 7])[0, 0], 2.0**-22 * 20, rtol=1e-14)
    assert np.unique(linode.ZeroOrderHold(times, np.ones((5, 1))).pieces(0.0, 1.0).gaps).size == 3
