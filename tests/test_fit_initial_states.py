"""Standard errors of initial states. Truth is the Jacobian by all unknowns, in closed form, and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode

NAN = float("nan")
T = np.linspace(0.0, 4.0, 30)
RATES, Z0, REST = np.array([-0.3, -1.1]), np.array([1.0, 2.0]), np.array([0.5, -2.0])
E = np.exp(np.outer(T, RATES))  # (T, 2)
XI, START, LEVEL = [0, 1, 2, 3], [4, 5], [6, 7]  # columns of the Jacobian


def jacobian(z0: np.ndarray = Z0) -> np.ndarray:
    """(T, 2, 8), derivatives of z = REST + E (z0 - REST) by Xi = diag(RATES), row by row, z0 and REST."""
    w, J = z0 - REST, np.zeros((len(T), 2, 8))
    both = (E[:, 0] - E[:, 1]) / (RATES[0] - RATES[1])  # a divided difference
    J[:, 0, 0], J[:, 0, 1] = T * E[:, 0] * w[0], both * w[1]
    J[:, 1, 2], J[:, 1, 3] = both * w[0], T * E[:, 1] * w[1]
    for i in (0, 1):
        J[:, i, 4 + i], J[:, i, 6 + i] = E[:, i], 1 - E[:, i]
    return J


def errors(J: np.ndarray, columns: list[int], wanted: list[int] = START) -> np.ndarray:
    """Standard errors, for noise of variance 1, of the wanted ones of the unknowns in these columns."""
    own = J[..., columns].reshape(-1, len(columns))
    variances = np.diag(np.linalg.inv(own.T @ own))
    return np.sqrt([variances[columns.index(i)] for i in wanted])


def decays(z0: np.ndarray = Z0, rest: np.ndarray = REST) -> np.ndarray:
    return rest + E * (z0 - rest)


ZERO = np.zeros(2)
FREE = {"by eigenvalues": {}, "by states": {"structure": np.ones((2, 2))}}


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("bias", [False, True])
def test_errors_are_those_of_all_unknowns_together(name: str, bias: bool):
    rest = REST if bias else ZERO
    z, J = decays(rest=rest), jacobian() if bias else jacobian(Z0 + REST)  # w = Z0 where nothing rests elsewhere
    result = linode.fit(T, z, bias=bias, sigma=1.0, **FREE[name])
    assert np.allclose(result.z0_stderr, errors(J, XI + START + LEVEL * bias), rtol=1e-5)
    halved = linode.fit(T, z, bias=bias, sigma=0.5, **FREE[name])
    assert np.allclose(halved.z0_stderr, result.z0_stderr / 2, rtol=1e-5)


def test_what_is_known_has_no_error_and_helps_the_rest():
    z, J = decays(rest=ZERO), jacobian(Z0 + REST)
    both = linode.fit(T, z, sigma=1.0, structure="diagonal")
    assert np.allclose(both.z0_stderr, errors(J, [0, 3, *START]), rtol=1e-6)
    one = linode.fit(T, z, sigma=1.0, structure="diagonal", z0=[1.0, NAN])
    assert np.allclose(one.z0_stderr, [0.0, *errors(J, [0, 3, 5], [5])], rtol=1e-6)
    assert linode.fit(T, z, sigma=1.0, z0=Z0).z0_stderr is None
    assert linode.fit(T, z, standard_errors=False).z0_stderr is None


def test_each_trajectory_has_errors_of_its_own():
    other = np.array([-3.0, 0.5])
    result = linode.fit(T, [decays(rest=ZERO), decays(other, ZERO)], sigma=1.0)
    J = np.zeros((2, len(T), 2, 8))
    for k, z0 in enumerate((Z0, other)):
        part = jacobian(z0 + REST)
        J[k, ..., XI] = np.moveaxis(part[..., XI], -1, 0)
        J[k, ..., [4 + 2 * k, 5 + 2 * k]] = np.moveaxis(part[..., START], -1, 0)
    assert np.allclose(result.z0_stderr.ravel(), errors(J, [*XI, 4, 5, 6, 7], [4, 5, 6, 7]), rtol=1e-6)


def test_initial_states_that_a_structure_gives_have_the_errors_of_its_parameters():
    def system(q):
        return {"Xi": torch.diag(-q[:2]), "z0": q[2:]}

    result = linode.fit(T, decays(rest=ZERO), sigma=1.0, structure=(system, [0.5, 1.0, 0.5, 1.0]))
    assert np.allclose(result.z0_stderr, errors(jacobian(Z0 + REST), [0, 3, *START]), rtol=1e-6)
    assert np.allclose(result.z0_stderr, result.theta_stderr[2:], rtol=1e-12)


@pytest.mark.parametrize("is_two", [False, True])
def test_a_hidden_state_is_open_and_the_seen_one_is_not(is_two: bool):
    """y = z1 with hidden z2: y(0) is the sum of the amplitudes, and the basis of the hidden state is free."""
    y = decays(rest=ZERO).sum(1)
    J = np.c_[E, T[:, None] * E * Z0]  # by the amplitudes and the rates
    cov = np.linalg.inv(J.T @ J)
    if is_two:
        J = np.block([[E, 0 * E, T[:, None] * E * Z0], [0 * E, E, T[:, None] * E * Z0]])
        cov = np.linalg.inv(J.T @ J)
    options = {"C": [[1.0, 0.0]], "sigma": 1.0}
    result = linode.fit([T, T], [y, y], **options) if is_two else linode.fit(T, y, **options)
    for k, z0_stderr in enumerate(np.atleast_2d(result.z0_stderr)):
        own = slice(2 * k, 2 * k + 2)
        assert z0_stderr[0] == pytest.approx(np.sqrt(cov[own, own].sum()), rel=1e-5)
        assert z0_stderr[1] == np.inf
    assert np.isinf(linode.fit(T, y, rank=2, sigma=1.0).z0_stderr).all()  # of a realisation
    assert "inf" in result.summary().split("z0 (standard error)")[1]


def test_intervals_hold_initial_states():
    """Of an oscillator that a held input drives; errors are as large as the scatter."""
    Xi, rng = np.array([[-0.1, 2.0], [-2.0, -0.3]]), np.random.default_rng(3)
    t, u = np.linspace(0.0, 6.0, 80), np.repeat(rng.standard_normal(16), 5)[:, None]
    lam, V = np.linalg.eig(Xi)
    f, h = np.linalg.solve(V, [0.0, 1.0]), t[1]
    x = [np.linalg.solve(V, [1.0, 0.5]).astype(complex)]
    for i in range(79):
        x.append(np.exp(lam * h) * x[-1] + np.expm1(lam * h) / lam * f * u[i])
    clean = (np.array(x) @ V.T).real
    found = [linode.fit(t, clean + 0.1 * rng.standard_normal(clean.shape), u) for _ in range(60)]
    z0, stderr = (np.array([getattr(x, name) for x in found]) for name in ("z0", "z0_stderr"))
    assert 0.88 <= np.mean(np.abs(z0 - [1.0, 0.5]) < 1.96 * stderr) <= 1.0
    assert np.allclose(z0.std(0), stderr.mean(0), rtol=0.3)


def test_complex_states_have_errors_of_both_parts():
    lam = -0.1 - 2.0j
    wave = np.exp(lam * T)
    J = np.c_[(1 + 0.5j) * T * wave, wave]
    true = np.sqrt(np.linalg.inv(J.conj().T @ J)[1, 1].real)
    result = linode.fit(T, (1 + 0.5j) * wave, sigma=1.0)
    assert np.allclose(result.z0_stderr, true * (1 + 1j), rtol=1e-6)


def test_many_trajectories_do_not_flood_the_summary():
    z = [decays(np.array([1.0 + k, 2.0]), ZERO) for k in range(90)]
    text = linode.fit(T, z).summary()
    assert len(text.splitlines()) < 70
    assert text.endswith("...")
