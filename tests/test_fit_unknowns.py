"""Parts that are known, free or structured; where z0 holds; what starts from where. Truth is in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode
from linode import FitStatus

NAN = float("nan")
T = np.linspace(0.0, 6.0, 90)


def noise(y: np.ndarray, sigma: float = 0.01, seed: int = 0) -> np.ndarray:
    return y + sigma * np.random.default_rng(seed).standard_normal(y.shape)


def near(found, true, stderr, width: float = 4.5) -> bool:
    return bool((np.abs(np.asarray(found) - true) <= width * np.asarray(stderr) + 1e-12).all())


def decays(rates: list, amplitudes: list, t: np.ndarray = T) -> np.ndarray:
    return np.exp(-np.outer(t, rates)) * amplitudes


def wave(lam: complex, start: complex, t: np.ndarray, u: np.ndarray | None = None, gain: complex = 1.0) -> np.ndarray:
    """(T, 2): real and imaginary part of x' = lam x + gain u with u held between times, x(t[0]) = start."""
    x = np.empty(len(t), complex)
    x[0] = start
    for i, h in enumerate(np.diff(t)):
        x[i + 1] = np.exp(lam * h) * x[i] + (0 if u is None else np.expm1(lam * h) / lam * gain * u[i])
    return np.c_[x.real, x.imag]


LAM = -0.2 + 1.4j
WAVE = np.array([[-0.2, -1.4], [1.4, -0.2]])


def held(seed: int, count: int, every: int = 4) -> np.ndarray:
    return np.repeat(np.random.default_rng(seed).standard_normal(count // every + 1), every)[:count]


# ---- a structure with an unknown C -----------------------------------------------------------------------------------


def diagonal(q: torch.Tensor) -> torch.Tensor:
    return torch.diag(-q)


@pytest.mark.parametrize("start", [[0.3, 2.0], [1.0, 1.5], [0.05, 9.0]])
@pytest.mark.parametrize("sigma", [0.0, 0.01])
def test_a_structure_with_unknown_c_finds_its_parameters(start: list, sigma: float):
    y = noise(decays([0.3, 2.0], [1.0, 2.0]).sum(1), sigma)
    result = linode.fit(T, y, rank=2, structure=(diagonal, start))
    assert result.status is FitStatus.OK, result.message
    order = np.argsort(result.theta)
    assert near(result.theta[order], [0.3, 2.0], result.theta_stderr[order] if sigma else 1e-7)
    assert np.abs(result.predict(T) - decays([0.3, 2.0], [1.0, 2.0]).sum(1)).max() < 1e-9 + 2 * sigma


@pytest.mark.parametrize("structure", ["diagonal", np.eye(3), (diagonal, [0.5, 0.7, 2.0])], ids=["name", "mask", "own"])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_structure_of_more_channels_than_states_is_that_of_the_states(structure: object, gaps: bool):
    rng = np.random.default_rng(1)
    clean = decays([0.3, 1.0, 3.0], [1.0, 2.0, 1.0]) @ rng.standard_normal((3, 12))
    z = noise(clean, 1e-3)
    z[rng.uniform(size=z.shape) < 0.1 * gaps] = NAN
    result = linode.fit(T, z, rank=3, structure=structure)
    assert result.status is FitStatus.OK, result.message
    found, error = np.sort(np.abs(result.theta)), result.theta_stderr[np.argsort(np.abs(result.theta))]
    assert near(found, [0.3, 1.0, 3.0], error)
    assert np.sqrt(np.mean((result.predict(T) - clean) ** 2)) < 5e-4
    assert abs(result.dof - (np.isfinite(z).sum() - 3 - 3 * 12)) == 0


def test_intervals_hold_the_parameters_where_c_is_unknown():
    """Oscillations whose states are position and velocity: changes of basis that commute with Xi leave C open."""

    def oscillator(q: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.stack([0 * q[0], 1 + 0 * q[0]]), torch.stack([-q[0], -q[1]])])

    inside = []
    clean = wave(LAM, 1.0, T)[:, 0]
    for seed in range(25):
        result = linode.fit(T, noise(clean, 0.03, seed), rank=2, structure=(oscillator, [1.0, 1.0]))
        assert result.dof == len(T) - 4
        inside.append(np.abs(result.theta - [abs(LAM) ** 2, 0.4]) < 1.96 * result.theta_stderr)
    assert 0.84 <= np.mean(inside) <= 1.0


# ---- masses on springs -----------------------------------------------------------------------------------------------


def springs(k: np.ndarray) -> np.ndarray:
    return np.array([[k[0] + k[1], -k[1], 0.0], [-k[1], k[1] + k[2], -k[2]], [0.0, -k[2], k[2]]])


def chain_of_masses(q: torch.Tensor) -> torch.Tensor:
    k, zero, eye = q[:3], torch.zeros(3, 3, dtype=q.dtype), torch.eye(3, dtype=q.dtype)
    rows = [[k[0] + k[1], -k[1], 0 * k[0]], [-k[1], k[1] + k[2], -k[2]], [0 * k[0], -k[2], k[2]]]
    K = torch.stack([torch.stack(row) for row in rows])
    return torch.cat([torch.cat([zero, eye], 1), torch.cat([-K, -q[3] * eye], 1)])


def displacements(k: np.ndarray, damping: float, start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """By modes: q'' + c q' + w^2 q = 0 from rest."""
    w2, V = np.linalg.eigh(springs(k))
    nu = np.sqrt(w2 - damping**2 / 4)
    modes = np.exp(-damping * t / 2)[:, None] * (np.cos(np.outer(t, nu)) + damping / (2 * nu) * np.sin(np.outer(t, nu)))
    return (modes * (V.T @ start)) @ V.T


@pytest.mark.parametrize("start", [[1.0, 1.0, 1.0, 0.5], [100.0, 100.0, 100.0, 0.5]])
@pytest.mark.parametrize("seed", range(3))
def test_stiffness_is_found_from_displacements_wherever_one_starts(start: list, seed: int):
    t, k = np.linspace(0.0, 20.0, 150), np.array([4.0, 3.0, 2.0])
    z = noise(displacements(k, 0.2, np.array([1.0, 0.0, -0.5]), t), 0.05, seed)
    result = linode.fit(t, z, C=np.eye(3, 6), structure=(chain_of_masses, start))
    assert result.status is FitStatus.OK, result.message
    assert 0.04 < result.sigma < 0.06
    assert near(result.theta, [*k, 0.2], result.theta_stderr)
    assert len(result.starts) <= 3


# ---- direct feedthrough, and starts that disagree --------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("is_irregular", [False, True])
def test_an_output_that_follows_the_input_at_once_is_fitted_or_told(every: int, is_irregular: bool):
    t = np.linspace(0.0, 20.0, 200)
    if is_irregular:
        t = np.sort(np.random.default_rng(3).uniform(0.0, 20.0, 200))
    u = held(2, 200, every)
    y = noise(wave(LAM, 0.3, t, u)[:, 0] + 0.8 * u)
    plain, direct = (linode.fit(t, y, u, rank=2, feedthrough=x) for x in (False, True))
    assert not plain
    assert "feedthrough=True" in plain.message
    assert direct.status is FitStatus.OK, direct.message
    assert near(direct.D, 0.8, direct.D_stderr)
    assert near(direct.eigenvalues[1].imag, 1.4, direct.eigenvalue_stderr[1].imag)
    assert np.abs(direct.predict(t) - wave(LAM, 0.3, t, u)[:, 0] - 0.8 * u).max() < 0.03
    assert np.abs(direct.predict(t, u=u) - direct.predict(t)).max() < 1e-9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_an_output_that_follows_the_input_is_told_of_few_samples(channels: int, seed: int):
    """60 samples: the states follow most of the input, and the residuals are those of the rest."""
    t, u = np.arange(60) * 0.5, np.repeat(np.random.default_rng(seed).standard_normal(12), 5)
    z = np.zeros(60)
    for i in range(59):
        z[i + 1] = np.exp(-0.25) * z[i] + (1 - np.exp(-0.25)) / 0.5 * u[i]
    gains = np.arange(1.0, 1.0 + channels)
    direct = noise(np.outer(z, gains) + 0.9 * np.outer(u, gains[::-1]), 0.01, seed)
    result = linode.fit(t, direct, u, rank=1)
    assert result.status is FitStatus.MISFIT
    assert "follow input u1" in result.message
    assert linode.fit(t, direct, u, rank=1, feedthrough=True).status is FitStatus.OK
    assert linode.fit(t, noise(np.outer(z, gains), 0.5, seed), u, rank=1).status is FitStatus.OK


def test_entries_of_d_may_be_known():
    t, u = np.linspace(0.0, 15.0, 150), np.c_[held(4, 150), held(5, 150)]
    z = wave(LAM, 0.3, t, u[:, 0]) + np.c_[0.5 * u[:, 1], 2.0 * u[:, 0]]
    result = linode.fit(t, noise(z), u, B=[[NAN, 0.0], [NAN, 0.0]], D=[[0.0, NAN], [2.0, 0.0]])
    assert result.status is FitStatus.OK, result.message
    assert np.array_equal(result.D != 0, [[False, True], [True, False]])
    assert near(result.D, [[0.0, 0.5], [2.0, 0.0]], result.D_stderr)
    assert near(result.B, [[1.0, 0.0], [0.0, 0.0]], result.B_stderr)


def test_starts_that_disagree_are_never_ok():
    n_told = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        lam = -rng.uniform(0.1, 1.0, 5) + 1j * rng.uniform(1.0, 8.0, 5)
        t = np.linspace(0.0, 10.0, 120)
        modes = np.exp(np.outer(t, lam)) @ (rng.standard_normal((5, 10)) + 1j * rng.standard_normal((5, 10)))
        result = linode.fit(t, noise(modes.real, 0.1 * np.std(modes.real), seed))
        disagree = "do not agree" in result.message
        assert not (disagree and result)
        n_told += disagree
    assert n_told > 0


# ---- known and shared parts ------------------------------------------------------------------------------------------


def test_one_function_may_give_every_part():
    """A tank with inflow q u / V and outflow q / V, of which the level in other units is seen."""
    t, u = np.linspace(0.0, 20.0, 120), held(6, 120, 8)
    rate, gain, offset = 0.5, 2.0, 3.0
    level = wave(-rate, 0.5 * offset, t, u, rate)[:, 0]

    def tank(q: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "Xi": -q[:1, None],
            "B": q[:1, None],
            "C": q[1:2, None],
            "z0": 0.5 * q[2:],
        }

    y = noise(gain * level)
    result = linode.fit(t, y, u, structure=(tank, [1.0, 1.0, 1.0]))
    assert result.status is FitStatus.OK, result.message
    assert near(result.theta, [rate, gain, offset], result.theta_stderr)
    assert np.allclose(result.B, -result.Xi)
    assert np.allclose(result.z0, 0.5 * result.theta[2])
    assert np.abs(result.predict(t) - gain * level).max() < 0.02
    assert (result.predict_stderr(t) < 0.02).all()

    def in_order(q: np.ndarray) -> tuple:
        return [[-q[0]]], [[q[0]]], [[q[1]]], None, None, [0.5 * q[2]]

    other = linode.fit(t, y, u, structure=(in_order, [1.0, 1.0, 1.0]))
    assert np.allclose(other.theta, result.theta, rtol=1e-4)


def test_a_dose_into_an_unknown_volume():
    t = np.array([0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0])
    rate, volume = 0.4, 12.0
    y = 100.0 / volume * np.exp(-rate * t) * (1 + 0.01 * np.random.default_rng(0).standard_normal(8))
    dose = linode.Impulses([0.0], [[100.0]])
    result = linode.fit(t, y, dose, C=[[NAN]], B=[[1.0]], z0=[0.0], t0=0.0)
    assert result.status is FitStatus.OK, result.message
    assert near(result.Xi, -rate, result.stderr)
    assert near(result.C, 1 / volume, result.C_stderr)
    assert result.t0 == 0.0
    assert np.allclose(
        result.predict([0.0, 0.25]), result.C[0, 0] * 100 * np.exp(result.Xi[0, 0] * np.array([0, 0.25]))
    )


def test_a_metabolite_that_is_not_there_at_first():
    t = np.linspace(0.5, 20.0, 40)
    made, lost = 0.2, 0.15
    parent = 10.0 * np.exp(-0.3 * t)
    metabolite = 10.0 * made * (np.exp(-0.3 * t) - np.exp(-lost * t)) / (lost - 0.3)
    z = noise(np.c_[parent, metabolite], 0.05)
    for z0 in ([NAN, 0.0], np.array([True, False])):
        result = linode.fit(t, z, structure=[[NAN, 0.0], [NAN, NAN]], z0=z0, t0=0.0)
        assert result.status is FitStatus.OK, result.message
        assert result.z0[1] == 0.0
        assert near(result.Xi, [[-0.3, 0.0], [made, -lost]], result.stderr)
        assert abs(result.z0[0] - 10.0) < 0.2
        assert result.dof == 80 - 4
    masked = np.ma.masked_array(np.zeros((2, 2)), mask=[[True, False], [True, True]])
    assert np.array_equal(linode.fit(t, z, structure=masked, z0=[NAN, 0.0], t0=0.0).Xi, result.Xi)
    several = linode.fit([t, t], [z, 2 * z], structure=[[NAN, 0.0], [NAN, NAN]], z0=[NAN, 0.0], t0=0.0)
    assert np.array_equal(several.z0[:, 1], [0.0, 0.0])
    assert np.allclose(several.Xi, result.Xi)


def test_entries_of_xi_c_and_b_may_be_known():
    """Position and velocity of an oscillator, of which a mix with an unknown share is seen."""
    t, u = np.linspace(0.0, 15.0, 150), held(7, 150)
    a, w = LAM.real, LAM.imag
    x = wave(LAM, 0.0, t, u, 1j / w * 3.0)  # Re x and its slope: a force of 3 on the velocity
    position = x[:, 0]
    velocity = a * x[:, 0] - w * x[:, 1]
    sign = -1.0  # d/dt Re x = a Re x - w Im x + Re(gain) u, and the force acts on it by -w Im(gain) = -3
    Xi = [[0.0, 1.0], [NAN, NAN]]
    y = noise(position + 0.5 * velocity, 0.02)
    result = linode.fit(t, y, u, C=[[1.0, NAN]], B=[[0.0], [NAN]], structure=Xi, z0=[0.0, 0.0])
    assert result.status is FitStatus.OK, result.message
    assert near(result.Xi[1], [-(abs(LAM) ** 2), 2 * a], result.stderr[1])
    assert near(result.B[1], sign * 3.0, result.B_stderr[1])
    assert near(result.C[0, 1], 0.5, result.C_stderr[0, 1])
    assert np.array_equal(result.Xi[0], [0.0, 1.0])


def test_what_known_entries_of_c_leave_open_is_told():
    """From any initial state, C = (1, c) of one oscillation shows the same for every c."""
    y = noise(wave(LAM, 1.0, T)[:, 0])
    result = linode.fit(T, y, C=[[1.0, NAN]], structure=[[0.0, 1.0], [NAN, NAN]])
    assert result.status is FitStatus.NOT_IDENTIFIABLE
    assert "C[0, 1]" in result.message
    assert np.isinf(result.C_stderr[0, 1])
    assert near(result.Xi[1], [-(abs(LAM) ** 2), -0.4], result.stderr[1])


def test_entries_of_b_may_be_known_without_inputs():
    t = np.linspace(0.0, 6.0, 80)
    rest = np.linalg.solve(WAVE, [0.0, -3.0])
    z = noise(wave(LAM, 0j - complex(*rest), t) + rest)
    result = linode.fit(t, z, b=[0.0, NAN])
    assert result.status is FitStatus.OK, result.message
    assert result.b[0] == 0.0
    assert near(result.b[1], 3.0, result.b_stderr[1])
    assert near(result.Xi, WAVE, result.stderr)


# ---- where z0 holds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_states", [False, True])
def test_z0_holds_at_t0(as_states: bool):
    """Two algorithms: by eigenvalues, and for a structure, here none, by states."""
    t = np.sort(np.random.default_rng(0).uniform(1.0, 6.0, 60)) + 10.0
    z = wave(LAM, 1.0 + 0.5j, np.r_[10.0, t])[1:]
    options = {"structure": np.ones((2, 2))} if as_states else {}
    result = linode.fit(t, z, t0=10.0, **options)
    assert np.allclose(result.z0, [1.0, 0.5], atol=1e-8)
    assert np.allclose(result.predict([10.0, 12.0]), wave(LAM, 1.0 + 0.5j, np.array([10.0, 12.0])), atol=1e-8)
    assert np.allclose(result.ode()([0.0]), [[1.0, 0.5]], atol=1e-8)
    several = linode.fit([t, t], [z, -z], t0=[10.0, 10.5], **options)
    assert np.allclose(several.z0[0], [1.0, 0.5], atol=1e-8)
    assert np.allclose(several.z0[1], -wave(LAM, 1.0 + 0.5j, np.array([10.0, 10.5]))[1], atol=1e-8)


def test_doses_before_the_first_sample_count():
    t = np.sort(np.r_[0.25:24.0:1.0])
    rate = 0.3
    y = sum(5.0 * np.exp(-rate * (t - s)) * (t >= s) for s in (0.0, 6.0, 12.0))
    doses = linode.Impulses([0.0, 6.0, 12.0], [[1.0]] * 3)
    result = linode.fit(t, noise(y, 0.02), doses, z0=[0.0], t0=0.0)
    assert result.status is FitStatus.OK, result.message
    assert near(result.Xi, -rate, result.stderr)
    assert near(result.B, 5.0, result.B_stderr)


def test_held_samples_before_the_first_observation_hold_from_t0():
    t, u = np.linspace(1.0, 15.0, 120), held(8, 120)
    z = wave(LAM, 0.0, np.r_[0.0, t], np.r_[u[0], u])[1:]
    result = linode.fit(t, z, u, t0=0.0, z0=[0.0, 0.0])
    assert np.allclose(result.Xi, WAVE, atol=1e-7)
    assert np.allclose(result.B, [[1.0], [0.0]], atol=1e-7)


# ---- what a change of basis leaves open ------------------------------------------------------------------------------


def flows(k: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([-k[0] - k[1], k[2]]), torch.stack([k[1], -k[2]])])


def test_parameters_that_an_unknown_c_leaves_open_are_told():
    """Three parameters, of which one channel in unknown units shows two eigenvalues."""
    rates, V = np.linalg.eig(flows(torch.tensor([0.3, 0.6, 0.2])).numpy())
    seen = (np.exp(np.outer(T, rates)) * np.linalg.solve(V, [1.0, 0.0])) @ V.T
    y = noise(seen[:, 0], 0.002)
    result = linode.fit(T, y, structure=(flows, [0.5, 0.5, 0.5]))
    assert result.status is FitStatus.NOT_IDENTIFIABLE
    assert "theta[" in result.message
    assert np.isinf(result.theta_stderr).any()
    known = linode.fit(T, y, C=[[NAN, 0.0]], z0=[1.0, 0.0], structure=(flows, [0.5, 0.5, 0.5]))
    assert known.status is FitStatus.OK, known.message
    assert near(known.theta, [0.3, 0.6, 0.2], known.theta_stderr)
    assert near(known.C[0, 0], 1.0, known.C_stderr[0, 0])


def test_units_of_the_states_are_named():
    t, u = np.linspace(0.0, 10.0, 120), held(1, 120)
    y = sum(wave(-rate, 0.0, t, u)[:, 0] for rate in (0.3, 2.0))
    result = linode.fit(t, noise(y), u, rank=2, structure=(diagonal, [0.5, 1.0]))
    assert result.status is FitStatus.OK, result.message
    assert "B and C are known up to a change of basis" in result.message
    order = np.argsort(result.theta)
    assert near(result.theta[order], [0.3, 2.0], result.theta_stderr[order])


def test_a_rate_that_nothing_shows_is_told():
    result = linode.fit(T, np.ones(90), rank=2, structure=(diagonal, [0.1, 2.0]))
    assert result.status is FitStatus.NOT_IDENTIFIABLE
