"""Errors of gradients do not depend on the scale of the loss, of z0, or of the states at different times.

Scales are powers of two near 1e-30 ... 1e30 (loss) and 1e-150 ... 1e150 (z0), so that the scaled truth is exact: z,
dL/dXi and dL/dt are linear in z0, and all gradients in the loss.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from linode import LinearODE, MethodError
from linode.methods import Method, Propagator
from tests import oracles
from tests.accuracy import (
    GENERAL,
    QUANTITIES,
    Answer,
    differentiate,
    linode_method,
    natural_scale,
    relative_error,
    truth_of,
)
from tests.case_builders import generator, jordan, normal
from tests.cases import CASES, Case

BY_NAME = {case.name: case for case in CASES}
NAMES = ["zero_4", "diagonal_two_values", "semisimple_pairs", "rotated_jordan_4", "jordan_complex_4"]
NAMES += ["sum_jordan3_simple_rotated", "critically_damped", "random_6_times_1", "skew_6"]
NAMES += ["random_complex_5_times_0.1", "times_both_signs", "close_rotated_1e-11"]
NAMES += ["stiff_1e+06_kappa100", "overscaling_1e17", "balance_1e8"]
METHODS = GENERAL
LOSS_EXPONENTS = (-100, 33, 100)
STATE_EXPONENTS = (-498, -100, 100, 498)
SMALL = 1e-12

every_method = pytest.mark.parametrize("method", METHODS)
every_case = pytest.mark.parametrize("name", NAMES)


@cache
def errors(method: str, name: str, loss_exponent: int = 0, state_exponent: int = 0) -> dict[str, float] | None:
    """Relative error of z and each gradient of the scaled problem, or None where the method refuses Xi."""
    case = BY_NAME[name]
    loss, state = 2.0**loss_exponent, 2.0**state_exponent
    try:
        answer = linode_method(method)(replace(case, z0=case.z0 * state, g=case.g * loss))
    except MethodError:
        return None
    return errors_of(answer, case, {"z": state, "S": loss * state, "a": loss, "dt": loss * state})


def errors_of(answer: Answer, case: Case, scales: dict[str, float]) -> dict[str, float]:
    truth = truth_of(case)
    quantities = zip(QUANTITIES, answer, (truth.z, *truth.gradients))
    return {q: relative_error(got / scales[q], true, natural_scale(case, truth, q)) for q, got, true in quantities}


def assert_no_worse(scaled: dict[str, float] | None, unscaled: dict[str, float] | None) -> None:
    """A factor of ten, or good anyway; a refusal does not come and go."""
    assert (scaled is None) == (unscaled is None)
    if scaled is not None and unscaled is not None:
        for q in QUANTITIES:
            assert scaled[q] <= max(SMALL, 10 * unscaled[q]), q


@every_method
@every_case
@pytest.mark.parametrize("exponent", LOSS_EXPONENTS)
def test_a_scaled_loss_has_gradients_as_accurate(method: str, name: str, exponent: int):
    assert_no_worse(errors(method, name, loss_exponent=exponent), errors(method, name))


@every_method
@every_case
@pytest.mark.parametrize("exponent", STATE_EXPONENTS)
def test_a_scaled_initial_state_has_gradients_as_accurate(method: str, name: str, exponent: int):
    assert_no_worse(errors(method, name, state_exponent=exponent), errors(method, name))


@every_method
@pytest.mark.parametrize("name", ["random_6_times_1", "rotated_jordan_4"])
def test_scales_of_loss_and_state_that_cancel_give_gradients_as_accurate(method: str, name: str):
    scaled = errors(method, name, loss_exponent=-498, state_exponent=498)
    assert_no_worse(scaled, errors(method, name))


def test_matrix_exp_of_torch_loses_digits_when_the_loss_grows():
    """The comparison that shows these tests can fail: its backward scales by the norm of the cotangent."""
    case = BY_NAME["random_6_times_1"]
    answer = peer(replace(case, g=case.g * 2.0**33))
    assert errors_of(answer, case, dict.fromkeys(QUANTITIES, 2.0**33) | {"z": 1.0})["S"] > 1e-10


def peer(case: Case) -> Answer:
    import torch

    return differentiate(case, lambda Xi, z0, t: torch.linalg.matrix_exp(Xi * t[:, None, None]) @ z0)


# ---- states that differ in size from time to time ----------------------------------------------------------


def weighted_problem(rate: float, t_max: float) -> Case:
    """A loss of relative errors: g_i is as small as z_i is large. Defective, so that `eig` does not apply."""
    rng = generator(f"weighted {rate} {t_max}")
    t = np.linspace(0.0, t_max, 20)
    g = normal(rng, 20, 3) * np.exp(-rate * t)[:, None]
    return Case(f"weighted_{rate}_{t_max}", "weighted", jordan(3, rate, 2.0), normal(rng, 3), t, g, "")


@pytest.mark.parametrize("t_max", [40.0, 80.0, 160.0])
@pytest.mark.parametrize("rate", [-1.0, 1.0])
@pytest.mark.parametrize(
    "method", ["auto", "propagator", "schur", Propagator("double"), Propagator("double-double")], ids=str
)
def test_relative_errors_of_growing_or_decaying_states_have_true_gradients(
    method: str | Method, rate: float, t_max: float
):
    case = weighted_problem(rate, t_max)
    true = oracles.gradients(case.Xi, case.z0, case.t, case.g)
    _, *got = linode_method(method)(case)
    for q, x, y in zip(QUANTITIES[1:], got, true):
        assert relative_error(x, y, 1.0) <= SMALL, q


@pytest.mark.parametrize("unit", 10.0 ** np.arange(-180, 181, 60))
def test_units_of_time_do_not_matter_however_large_or_small(unit: float):
    A, t, z0 = np.random.default_rng(0).standard_normal((3, 3)), np.array([1.0, 2.0]), np.ones(3)
    true = LinearODE(A, z0)(t)
    assert np.allclose(LinearODE(A / unit, z0)(t * unit), true, rtol=1e-12, atol=1e-13)
