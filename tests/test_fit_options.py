"""Options of a fit: delays, constraints on eigenvalues, the choice of the rank, what is left out. Truth is in closed
form.
"""

from __future__ import annotations

import numpy as np
import pytest

import linode
from linode import FitStatus
from tests.test_fit_unknowns import LAM, WAVE, decays, held, near, noise, wave

NAN = float("nan")


# ---- delays ----------------------------------------------------------------------------------------------------------


def delayed_wave(t: np.ndarray, u: np.ndarray, delay: float) -> np.ndarray:
    """x' = lam x + u(t - delay) with u held, the first sample before too: solved on all times of change."""
    grid = np.unique(np.r_[t, (t + delay)[t + delay < t[-1]]])
    later = u[np.maximum(np.searchsorted(t, grid - delay + 1e-9, side="right") - 1, 0)]
    return wave(LAM, 0.5, grid, later)[np.searchsorted(grid, t)]


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.37, 1.2])
def test_a_known_delay_is_that_of_the_input(delay: float):
    t, u = np.arange(0.0, 15.0, 0.1), held(0, 150, 8)
    z = delayed_wave(t, u, delay)
    result = linode.fit(t, z, u, delay=delay)
    assert np.allclose(result.Xi, WAVE, atol=1e-7)
    assert np.allclose(result.B, [[1.0], [0.0]], atol=1e-7)
    assert np.allclose(result.predict(t), z, atol=1e-7)
    assert np.allclose(result.predict(t, u=u), z, atol=1e-7)
    other = linode.fit(t, z, linode.ZeroOrderHold(t, u[:, None]), delay=delay)
    assert np.allclose(other.Xi, result.Xi, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_unknown_delay_is_found_with_its_error(seed: int):
    t, u = np.arange(0.0, 15.0, 0.1), held(seed, 150, 8)
    for delay in (0.37, 1.25):
        result = linode.fit(t, noise(delayed_wave(t, u, delay), 0.02, seed), u, delay=NAN)
        assert result.status is FitStatus.OK, result.message
        assert near(result.delay, delay, result.delay_stderr)
        assert 1e-4 < result.delay_stderr < 0.02
        assert near(result.Xi, WAVE, result.stderr)
        assert f"delay {result.delay:.6g}" in result.summary()
        assert result.dof == 300 - 6 - 2 - 1


def test_a_delay_that_the_data_do_not_determine_is_told():
    t = np.arange(0.0, 8.0, 0.1)
    result = linode.fit(t, noise(wave(LAM, 1.0, t)), np.ones(80), delay=NAN)  # an input that never changes
    assert result.status is FitStatus.NOT_IDENTIFIABLE
    assert "delay" in result.message


# ---- eigenvalues -----------------------------------------------------------------------------------------------------


def of_kind(is_two: bool, kind: object, lam: complex = 2.0j, sigma: float = 0.05) -> linode.FitResult:
    """A fit of one trajectory, by eigenvalues, or of two, by states."""
    t = np.linspace(0.0, 12.0, 120)
    z = noise(wave(lam, 1.0 + 0.3j, t), sigma)
    return linode.fit([t, t], [z, -z], eigenvalues=kind) if is_two else linode.fit(t, z, eigenvalues=kind)


@pytest.mark.parametrize("is_two", [False, True])
def test_eigenvalues_on_the_imaginary_axis(is_two: bool):
    result = of_kind(is_two, "imaginary")
    assert result.status is FitStatus.OK, result.message
    assert np.abs(result.eigenvalues.real).max() < 1e-12
    assert np.abs(result.eigenvalue_stderr.real).max() < 1e-9
    assert near(result.eigenvalues.imag, [-2.0, 2.0], result.eigenvalue_stderr.imag)
    grown = result.predict([1e4])
    assert np.abs(grown).max() < 2.0


@pytest.mark.parametrize("is_two", [False, True])
def test_a_largest_real_part_holds(is_two: bool):
    held_back = of_kind(is_two, -0.1, -0.05 + 2.0j)
    assert held_back.eigenvalues.real.max() < -0.1 + 1e-6
    free = of_kind(is_two, 0.1, -0.05 + 2.0j)
    assert near(free.eigenvalues.real, [-0.05, -0.05], free.eigenvalue_stderr.real)


@pytest.mark.parametrize("is_two", [False, True])
def test_conjugate_pairs_stay_pairs_though_two_real_rates_fit_better(is_two: bool):
    t = np.linspace(0.0, 5.0, 100)
    z = noise(decays([0.5, 2.0], [1.0, 1.0], t) @ [[1.0, 2.0], [1.0, -1.0]], 0.02)
    options = {"eigenvalues": "pairs"}
    result = linode.fit([t, t], [z, z], **options) if is_two else linode.fit(t, z, **options)
    assert abs(result.eigenvalues[0] - result.eigenvalues[1].conj()) < 1e-6
    assert abs(result.eigenvalues[0].imag) < 0.05
    assert result.cost > (linode.fit([t, t], [z, z]) if is_two else linode.fit(t, z)).cost


def test_an_odd_number_of_imaginary_eigenvalues_has_a_zero():
    t = np.linspace(0.0, 12.0, 120)
    result = linode.fit(t, noise(wave(2.0j, 1.0, t)[:, 0] + 3.0, 0.02), rank=3, eigenvalues="imaginary")
    assert np.allclose(np.sort_complex(result.eigenvalues), [-2j, 0, 2j], atol=0.01)


# ---- the rank --------------------------------------------------------------------------------------------------------

T = np.linspace(0.0, 10.0, 200)
MODES = np.random.default_rng(5).standard_normal((3, 9))
RANKED = {
    "one rate": (1, np.exp(-T)),
    "two rates": (2, decays([0.3, 2.0], [1.0, 2.0], T).sum(1)),
    "two tones": (4, np.cos(2 * T) + 0.5 * np.cos(5 * T + 1)),
    "tone and rate": (3, np.exp(-T) + np.cos(3 * T) * np.exp(-0.1 * T)),
    "many channels": (3, np.c_[wave(LAM, 1.0, T), np.exp(-0.5 * T)] @ MODES),
}


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("sigma", [0.0, 0.03])
def test_the_rank_is_that_of_the_data(name: str, sigma: float):
    rank, clean = RANKED[name]
    result = linode.fit(T, noise(clean, sigma, 3), rank="auto")
    assert len(result.Xi) == rank, [(x.rank, x.held_out_error) for x in result.ranks]
    assert [x.rank for x in result.ranks] == list(range(1, len(result.ranks) + 1))
    at_rank = result.ranks[rank - 1]
    assert at_rank.held_out_error < max(1.3 * sigma, 1e-10)
    assert all(x.held_out_error > 2 * at_rank.held_out_error for x in result.ranks[: rank - 1])
    assert f"{at_rank.held_out_error:.4g}" in result.summary()


def test_the_rank_of_a_driven_system_with_a_constant():
    u = held(9, 200)
    clean = wave(LAM, 0.5, T, u)[:, 0]
    assert len(linode.fit(T, noise(clean), u, rank="auto").Xi) == 2
    assert len(linode.fit(T, noise(np.cos(2 * T) + 3.0), rank="auto", bias=True).Xi) == 2


# ---- residuals -------------------------------------------------------------------------------------------------------


def test_errors_of_a_stepping_solver_are_told_though_they_are_small():
    """The midpoint rule with a fine step: neighbouring errors are nearly equal."""
    t, n_inner = np.linspace(0.0, 8.0, 100), 200
    h = (t[1] - t[0]) / n_inner
    step = 1 + h * LAM + (h * LAM) ** 2 / 2
    scale = np.exp(0.02j * np.sin(t))  # an error of the phase that no linear system has
    x = step ** (n_inner * np.arange(100)) * (1 + 1e-8 * (scale - 1))
    result = linode.fit(t, np.c_[x.real, x.imag])
    assert result.status is FitStatus.MISFIT
    assert len(result.starts) <= 3


# ---- what is left out, and what is refused ---------------------------------------------------------------------------


def test_standard_errors_may_be_left_out():
    z = noise(wave(LAM, 1.0, T))
    plain, bare = linode.fit(T, z), linode.fit(T, z, standard_errors=False)
    assert np.array_equal(plain.Xi, bare.Xi)
    assert bare.status is FitStatus.OK
    for name in ("stderr", "covariance", "eigenvalue_stderr", "eigenvalue_covariance"):
        assert getattr(bare, name) is None
    assert "standard error" not in bare.summary().split("Xi")[1]


def test_errors_of_many_states_are_those_of_each_channel():
    """The covariance of (Xi, b) from one factor a channel is that of the fit by states."""
    rng = np.random.default_rng(1)
    lam = np.array([-0.1 + 1j, -0.2 + 2.5j, -0.1 + 4j])
    S = rng.standard_normal((6, 3)) + 1j * rng.standard_normal((6, 3))
    z = noise((np.exp(np.outer(T, lam)) @ S.T).real + 1.0, 0.02)
    by_rates = linode.fit(T, z, bias=True)
    by_states = linode.fit(T, z, bias=True, structure=np.ones((6, 6)))
    assert np.allclose(by_rates.covariance, by_states.covariance, rtol=1e-3, atol=1e-4 * by_rates.covariance.max())
    many = linode.fit(T, noise(rng.standard_normal((200, 2)).cumsum(0)), rank=24)
    assert many.stderr.shape == (24, 24)


def test_trajectories_may_share_their_times():
    zs = [noise(wave(LAM, 1.0, T)), noise(wave(LAM, 1j, T), seed=1)]
    shared, own = linode.fit(T, zs), linode.fit([T, T], zs)
    assert np.array_equal(shared.Xi, own.Xi)
    assert shared.z0.shape == (2, 2)
    rows = [np.array(row) for row in zs[0]]  # a list of rows is one trajectory
    assert np.array_equal(linode.fit(T, rows).Xi, linode.fit(T, zs[0]).Xi)
    assert linode.fit(T, [zs[0][:, 0], zs[1][:, 0]], rank=2).z0.shape == (2, 2)


class Frame:
    """What a pandas DataFrame has of a table."""

    def __init__(self, **columns: np.ndarray) -> None:
        self.table, self.columns, self.ndim = {k.replace("_", " "): x for k, x in columns.items()}, [], 2
        self.columns = list(self.table)

    def __len__(self) -> int:
        return len(next(iter(self.table.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.table[name]

    def to_numpy(self, dtype=None, na_value=None) -> np.ndarray:
        return np.stack(list(self.table.values()), -1).astype(dtype)


def test_a_column_that_numbers_the_rows_or_repeats_the_times_is_no_state():
    z = noise(wave(LAM, 1.0, T))
    assert linode.fit(T, Frame(a=z[:, 0], b=z[:, 1])).Xi.shape == (2, 2)
    with pytest.raises(linode.OptionError, match="column 'index' of z numbers the rows; leave it out"):
        linode.fit(T, Frame(index=np.arange(200), a=z[:, 0], b=z[:, 1]))
    with pytest.raises(linode.OptionError, match="column 'time' of z is the times"):
        linode.fit(T, Frame(time=T, a=z[:, 0], b=z[:, 1]))
    assert linode.fit(T, Frame(index=np.exp(-T), a=z[:, 0], b=z[:, 1])).Xi.shape == (3, 3)


def test_what_to_predict_with_is_named():
    result = linode.fit(T, noise(wave(LAM, 1.0, T, held(1, 200))), held(1, 200))
    with pytest.raises(TypeError):
        result.predict(T, held(1, 200))


U, Z = held(1, 200)[:, None], noise(wave(LAM, 1.0, T))
WRONG = {
    "size of B": (lambda: linode.fit(T, Z, U, B=[[1.0, 2.0]]), r"B has shape \(1, 2\)"),
    "B without input": (lambda: linode.fit(T, Z, B=[[1.0], [NAN]]), "B needs an input u"),
    "feedthrough without input": (lambda: linode.fit(T, Z, feedthrough=True), "feedthrough needs an input u"),
    "feedthrough by a word": (lambda: linode.fit(T, Z, U, feedthrough="yes"), "feedthrough must be True or False"),
    "D twice": (lambda: linode.fit(T, Z, U, D=0.0, feedthrough=True), "feedthrough and D are both given"),
    "b twice": (lambda: linode.fit(T, Z, b=[0.0, NAN], bias=True), "bias and b are both given"),
    "infinite D": (lambda: linode.fit(T, Z, U, D=np.inf), "D must be finite, or NaN where it is free"),
    "delay back in time": (lambda: linode.fit(T, Z, U, delay=-1.0), "delay must be a time of at least 0"),
    "delay of nothing": (lambda: linode.fit(T, Z, delay=1.0), "delay needs an input u"),
    "late t0": (lambda: linode.fit(T, Z, t0=3.0), "t0 = 3 comes after the first time 0"),
    "t0 of others": (lambda: linode.fit(T, Z, t0=[0.0, 0.0]), r"t0 has shape \(2,\)"),
    "part twice": (
        lambda: linode.fit(T, Z, U, B=[[1.0], [NAN]], structure=lambda q: (np.diag(q[:2]), [[1.0], [q[2]]])),
        "B is given, but structure gives it too",
    ),
    "mask of numbers": (
        lambda: linode.fit(T, Z, structure=[[-1.0, 2.0], [-2.0, 0.0]]),
        "structure holds -1 and no NaN",
    ),
    "part of another name": (lambda: linode.fit(T, Z, structure=lambda q: {"A": q}), "a part named 'A'"),
    "part of another size": (
        lambda: linode.fit(T, Z, U, structure=(lambda q: (np.diag(q), np.ones((2, 2))), [1.0, 1.0])),
        r"structure returns B of shape \(2, 2\); it must be \(2, 1\)",
    ),
    "rank by another word": (lambda: linode.fit(T, Z, rank="best"), "or 'auto'"),
    "rank of a basis": (lambda: linode.fit(T, Z, rank="auto", z0=[1.0, 0.0]), "needs states without a meaning"),
    "eigenvalues by another word": (lambda: linode.fit(T, Z, eigenvalues="real"), "eigenvalues must be 'imaginary'"),
    "two constraints": (lambda: linode.fit(T, Z, eigenvalues=0.0, stable=True), "exclude each other"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_asked_for_is_said_by_name(name: str):
    call, words = WRONG[name]
    with pytest.raises(linode.LinodeError, match=words):
        call()
