"""Complex systems of which parts are known or structured. Truth is in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode
from linode import FitStatus
from tests.test_fit_complex import T, near, noise

NAN = float("nan")
XI = np.array([[-0.1 + 2.0j, 0.0], [0.7j, -0.3 - 1.0j]])  # the second mode is fed by the first
Z0 = np.array([1.0, 1.0j])


def states(z0: np.ndarray = Z0) -> np.ndarray:
    lam, V = np.linalg.eig(XI)
    return (np.exp(np.outer(T, lam)) * np.linalg.solve(V, z0)) @ V.T


def chain(q: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([q[0], 0 * q[0]]), torch.stack([q[1], q[2]])])


def chain_of_arrays(q: np.ndarray) -> np.ndarray:
    return np.array([[-q[0] + 1j * q[1], 0.0], [1j * q[2], -0.3 - 1.0j]])


def test_a_mask_keeps_entries_at_zero():
    result = linode.fit(T, noise(states()), structure=[[1, 0], [1, 1]])
    assert result.status is FitStatus.OK, result.message
    assert result.Xi[0, 1] == 0
    assert near(result.Xi, XI, result.stderr)
    assert np.array_equal(result.theta, result.Xi[[0, 1, 1], [0, 0, 1]])
    assert np.array_equal(result.theta_stderr, result.stderr[[0, 1, 1], [0, 0, 1]])
    assert result.dof == 600 - 6 - 4


def test_known_entries_stay():
    known = np.array([[NAN, 0.0], [0.7j, NAN]])
    result = linode.fit(T, noise(states()), structure=known, z0=[1.0, NAN])
    assert result.status is FitStatus.OK, result.message
    assert (result.Xi[1, 0], result.Xi[0, 1], result.z0[0]) == (0.7j, 0.0, 1.0)
    assert result.z0_stderr[0] == 0
    assert near(result.Xi, XI, result.stderr + 1e-12 * (1 + 1j))
    assert near(result.z0, Z0, result.z0_stderr + 1e-12 * (1 + 1j))


@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_a_function_of_complex_parameters(sigma: float):
    result = linode.fit(T, noise(states(), sigma), structure=(chain, [-0.2 + 1.5j, 0.5j, -0.1 - 0.5j]))
    true = np.array([-0.1 + 2j, 0.7j, -0.3 - 1j])
    assert result.theta.dtype == complex
    assert near(result.theta, true, result.theta_stderr + 1e-9 * (1 + 1j))


def test_a_function_of_real_parameters():
    result = linode.fit(T, noise(states()), structure=(chain_of_arrays, [0.2, 1.5, 0.5]))
    assert result.status is FitStatus.OK, result.message
    assert result.theta.dtype == float
    assert np.all(np.abs(result.theta - [0.1, 2.0, 0.7]) < 4 * result.theta_stderr)
    assert result.dof == 600 - 3 - 4


def test_bounds_of_complex_parameters_hold_for_both_parts():
    bounds = (-1 - 1.9j, 0.0 + 1.9j)
    result = linode.fit(T, noise(states()), structure=(chain, [-0.2 + 1.5j, 0.5j, -0.1 - 0.5j], bounds))
    assert result.theta[0].imag == 1.9
    assert "Im theta[0] ended at its bound 1.9" in result.message


def test_states_that_are_seen_in_part_or_together():
    z = states()
    sums = linode.fit(T, noise(z.sum(1)), C=[[1.0, 1.0]], structure="diagonal")
    order = np.argsort(sums.theta.imag)
    assert near(sums.theta[order], [-0.3 - 1j, -0.1 + 2j], sums.theta_stderr[order])
    second = linode.fit(T, noise(z[:, 1]), C=[[0, 1]], z0=[1.0, NAN], structure=(chain, [-0.2 + 1.5j, 0.5j, -0.1 - 1j]))
    assert near(second.theta, [-0.1 + 2j, 0.7j, -0.3 - 1j], second.theta_stderr)
    assert near(second.z0[1:], Z0[1:], second.z0_stderr[1:])


def test_a_function_may_give_c():
    def seen(q):
        return {"Xi": np.diag([-q[0] + 1j * q[1], -q[2] - 1j]), "C": np.array([[1.0, 1j * q[3]]]), "z0": np.ones(2)}

    t = T[:, None]
    y = np.exp((-0.2 + 2j) * t) + 0.5j * np.exp((-0.1 - 1j) * t)
    result = linode.fit(T, noise(y), structure=(seen, [0.1, 1.5, 0.2, 1.0]))
    assert result.status is FitStatus.OK, result.message
    assert np.all(np.abs(result.theta - [0.2, 2.0, 0.1, 0.5]) < 4 * result.theta_stderr)
    assert near(result.C, [[1.0, 0.5j]], result.C_stderr + 1e-12 * (1 + 1j))
    assert np.allclose(result.predict(T), y, atol=0.02)


def driven(lam: complex, gain: complex, delay: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A state from 0 with a held input that acts some samples later; the first sample holds before too."""
    u, z = np.repeat(np.random.default_rng(2).standard_normal(38), 4)[:150], np.zeros(150, complex)
    for i in range(149):
        force = gain * u[max(i - delay, 0)]
        z[i + 1] = np.exp(lam * T[1]) * z[i] + np.expm1(lam * T[1]) / lam * force
    return z, u


@pytest.mark.parametrize("n_channels", [1, 3])
def test_an_output_that_follows_the_input_at_once(n_channels: int):
    z, u = driven(-0.1 - 2j, 1 + 1j)
    C, D = np.array([1.0, 2j, 1.0])[:n_channels], np.array([0.5 - 0.3j, 0.0, 1.0])[:n_channels]
    result = linode.fit(T, noise(np.outer(z, C) + np.outer(u, D)), u, rank=1, feedthrough=True)
    assert result.status is FitStatus.OK, result.message
    assert np.abs(result.D[:, 0] - D).max() < 0.02
    assert near(result.Xi, [[-0.1 - 2j]], result.stderr)
    if n_channels == 1:
        assert near(result.D, [[0.5 - 0.3j]], result.D_stderr)


def test_known_gains_and_delays():
    z, u = driven(-0.1 - 2j, 1 + 1j, delay=5)
    known = linode.fit(T, noise(z), u, B=[[1 + 1j]], delay=5 * T[1])
    assert known.B[0, 0] == 1 + 1j
    assert near(known.Xi, [[-0.1 - 2j]], known.stderr)
    found = linode.fit(T, noise(z), u, delay=NAN)
    assert abs(found.delay - 5 * T[1]) < 4 * found.delay_stderr


def test_tables_of_complex_numbers_keep_them_and_their_names():
    pandas = pytest.importorskip("pandas")
    z = noise(states())
    result = linode.fit(T, pandas.DataFrame(z, columns=["left", "right"]))
    assert np.array_equal(result.Xi, linode.fit(T, z).Xi)
    frame = result.to_dataframe()
    assert list(frame.columns) == ["left", "left fit", "right", "right fit"]
    assert np.array_equal(frame[["left", "right"]].to_numpy(), z)
    assert "channels left, right" in result.summary()
    assert result.ode().state_names == ("left", "right")
    with pytest.raises(linode.DtypeError, match="u is complex"):
        linode.fit(T, z.real, pandas.DataFrame(z))


WRONG = {
    "set": ({"structure": "metzler"}, "structure 'metzler' is for real data; of complex data it is 'diagonal', a mask"),
    "set of fewer": (
        {"structure": "diagonal", "rank": 1},
        "structure of 1 complex states of 2 complex channels: give C",
    ),
    "part of C": ({"C": [[NAN, 1.0], [1.0, 1.0]]}, "and known, or come from structure"),
    "empty mask": ({"structure": np.zeros((2, 2))}, "must leave some entry of Xi free"),
    "size": ({"structure": lambda q: q[:1]}, r"it must return Xi \(2, 2\)"),
    "z0": ({"z0": [1.0]}, r"z0 has shape \(1,\); z0 must be \(2,\)"),
    "basis of z0": ({"rank": 1, "z0": [1.0]}, "z0 is known, but not in which basis"),
    "few": ({"rank": 2, "bias": True}, "z holds 4 complex values, fewer than the 8 unknowns of 2 states"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_asked_for_is_said_by_name(name: str):
    options, words = WRONG[name]
    kept = slice(0, 2) if name == "few" else slice(None)
    with pytest.raises(linode.LinodeError, match=words):
        linode.fit(T[kept], states()[kept], **options)
