"""The status and message of a fit say what the data do not determine and what the model leaves, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode
from linode import FitStatus

XI = np.array([[-0.2, 2.0], [-2.0, -0.3]])
T = np.linspace(0.0, 6.0, 80)
CLEAN = linode.LinearODE(XI, [1.0, 0.5])(T)


def white(seed: int, shape: tuple[int, ...] = CLEAN.shape, sigma: float = 0.05) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal(shape)


def red(seed: int, rho: float, shape: tuple[int, ...] = CLEAN.shape, sigma: float = 0.05) -> np.ndarray:
    """Noise whose neighbours have correlation rho."""
    e, r = white(seed, shape, sigma), np.empty(shape)
    r[0] = e[0]
    for i in range(1, len(r)):
        r[i] = rho * r[i - 1] + np.sqrt(1 - rho**2) * e[i]
    return r


def test_white_noise_is_no_misfit():
    assert all(linode.fit(T, CLEAN + white(seed)).status is FitStatus.OK for seed in range(40))


def test_short_trajectories_with_white_noise_are_no_misfit():
    rng = np.random.default_rng(0)
    t = np.linspace(0.0, 1.0, 4)
    zs = linode.LinearODE(XI, rng.standard_normal((300, 2)))(t)
    assert linode.fit(t, zs + 0.02 * rng.standard_normal(zs.shape)).status is FitStatus.OK


@pytest.mark.parametrize("seed", range(5))
def test_residuals_that_follow_each_other_are_told(seed: int):
    result = linode.fit(T, CLEAN + red(seed, 0.8))
    assert result.status is FitStatus.MISFIT
    assert not result
    assert result.converged
    assert "residuals are no white noise" in result.message


def test_what_a_known_sigma_does_not_explain_is_told():
    z = CLEAN + white(1)
    assert linode.fit(T, z, sigma=0.05).status is FitStatus.OK
    result = linode.fit(T, z, sigma=0.01)
    assert result.status is FitStatus.MISFIT
    assert "chi2 is 2" in result.message  # 25 times


def test_small_errors_that_follow_each_other_are_told_and_rounding_is_not():
    """Those of a stepping solver; two starts that agree are enough for data that are nearly exact."""
    result = linode.fit(T, CLEAN + red(2, 0.9, sigma=1e-8))
    assert result.status is FitStatus.MISFIT
    assert len(result.starts) <= 3
    assert linode.fit(T, CLEAN).status is FitStatus.OK


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.05])
def test_states_that_the_data_do_not_hold_are_told(sigma: float):
    z = np.exp(-T)[:, None] * [1.0, 2.0, -1.0]  # one mode, three channels
    result = linode.fit(T, z + white(3, z.shape, sigma))
    assert result.status is FitStatus.NOT_IDENTIFIABLE
    assert "not identifiable from these data" in result.message


@pytest.mark.parametrize("sigma", [0.0, 1e-2])
def test_a_rank_that_is_too_high_is_told_with_the_eigenvalues_that_mean_nothing(sigma: float):
    result = linode.fit(T, CLEAN[:, 0] + white(4, T.shape, sigma), rank=4)
    assert result.status is FitStatus.NOT_IDENTIFIABLE
    assert "modes no larger than the noise" in result.message
    told = result.message.split("of eigenvalues ")[1].split(";")[0]
    real = np.linalg.eigvals(XI)[0].real
    assert f"{real:.3g}" not in told


def test_a_weak_mode_that_is_above_the_noise_is_kept():
    rng = np.random.default_rng(5)
    t = np.linspace(0.0, 20.0, 400)
    y = np.exp(-0.1 * t) * np.cos(2 * t) + 0.1 * np.cos(5 * t) + 0.05 * rng.standard_normal(400)
    assert linode.fit(t, y, rank=4).status is FitStatus.OK


def test_the_rest_state_of_a_bias_is_no_mode():
    z = linode.LinearODE(XI, [1.0, 0.5], b=[5.0, -3.0])(T) + white(6)
    assert linode.fit(T, z, bias=True).status is FitStatus.OK


def test_a_parameter_at_its_bound_is_told():
    def decay(theta: torch.Tensor) -> torch.Tensor:
        return -theta.reshape(1, 1)

    y = np.exp(-0.5 * T) + white(7, T.shape, 0.01)
    result = linode.fit(T, y, structure=(decay, [1.0], (0.7, 2.0)))
    assert "theta[0] ended at its bound 0.7" in result.message
    assert "bound" not in linode.fit(T, y, structure=(decay, [1.0], (0.1, 2.0))).message


def test_what_a_structure_leaves_open_is_told_in_its_own_parameters():
    def sum_of_two(theta: torch.Tensor) -> torch.Tensor:
        return -(theta[0] + theta[1]).reshape(1, 1)

    result = linode.fit(T, np.exp(-0.5 * T) + white(8, T.shape, 0.01), structure=(sum_of_two, [0.2, 0.1]))
    assert result.status is FitStatus.NOT_IDENTIFIABLE
    assert "theta[0] - 1 theta[1]" in result.message or "theta[1] - 1 theta[0]" in result.message


def test_inputs_and_observations_keep_their_names_beside_those_of_a_structure():
    def decay(theta: torch.Tensor) -> torch.Tensor:
        return -theta.reshape(1, 1)

    z = np.exp(-0.5 * T) + white(10, T.shape, 0.01)
    result = linode.fit(T, z, np.zeros((80, 1)), structure=(decay, [1.0]))  # an input that does nothing
    assert "not identifiable from these data: B[0, 0];" in result.message + ";"


def test_predictions_past_the_largest_float_are_infinite_with_a_sign():
    z = linode.LinearODE([[1.0, 0.0], [0.0, -1.0]], [1.0, 1.0])(T) @ [[1.0, -2.0, 0.5], [1.0, 0.5, 2.0]]
    result = linode.fit(T, z, rank=2)
    far = result.predict([2000.0])
    assert np.array_equal(far, [[np.inf, -np.inf, np.inf]])


def test_a_start_from_a_doubtful_fit_warns():
    net = linode.nn.LinearDynamics(3, dtype=torch.float64)
    z = np.exp(-T)[:, None] * [1.0, 2.0, -1.0]
    with pytest.warns(UserWarning, match="not identifiable"):
        net.init_from_data(T, z + white(9, z.shape))


@pytest.mark.parametrize(("p", "gaps"), [(6, False), (6, True), (2, False)])
def test_bands_hold_the_curve_where_the_observation_matrix_was_fitted_too(p: int, gaps: bool):
    Xi = np.array([[-0.2, 2.0, 0.0], [-2.0, -0.2, 0.5], [0.3, 0.0, -0.7]])
    t, C, inside = np.linspace(0.0, 6.0, 40), np.random.default_rng(99).standard_normal((p, 3)), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        clean = linode.LinearODE(Xi, rng.standard_normal((3, 3)))(t) @ C.T
        z = clean + 0.05 * rng.standard_normal(clean.shape)
        z[rng.uniform(size=z.shape) < 0.1 * gaps] = np.nan
        result = linode.fit(t, z, rank=3)
        predicted = result.predict(t)
        for k in range(3):
            inside.append(np.abs(predicted[k] - clean[k]) <= 1.96 * result.predict_stderr(t, k))
    assert 0.88 <= np.mean(inside) <= 0.99
