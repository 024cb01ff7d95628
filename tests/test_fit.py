"""`linode.fit` does what its arguments say: against exact data, invariances, and independent computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import linode

XI = np.array([[-0.2, 2.0, 0.0], [-2.0, -0.2, 0.5], [0.3, 0.0, -0.7]])
Z0 = np.array([1.0, 0.5, -1.0])
ANY = np.ones((3, 3))  # a mask that leaves all entries free


def clean(t: np.ndarray, Xi: np.ndarray = XI, z0: np.ndarray = Z0, **forcing) -> np.ndarray:
    return linode.LinearODE(Xi, z0, **forcing)(t - t[0])


def times(seed: int = 0, count: int = 60, stop: float = 6.0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).uniform(0.0, stop, count))


def noise(z: np.ndarray, sigma: float = 0.02, seed: int = 1) -> np.ndarray:
    return z + sigma * np.random.default_rng(seed).standard_normal(z.shape)


def same(x, y, tol: float = 1e-6) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    return bool(np.abs(x - y).max() <= tol * max(np.abs(y).max(), 1e-300))


# ---- exact data come back --------------------------------------------------------------------------------------------

EXACT = {
    "irregular": (times(), XI),
    "uniform": (np.linspace(2.0, 8.0, 40), XI),
    "real rates": (times(), np.array([[-1.0, 0.2, 0.0], [0.1, -3.0, 0.3], [0.0, 0.5, -0.2]])),
    "growing": (times(), 0.3 * np.eye(3) + np.triu(np.ones((3, 3)), 1)),
    "Jordan block": (times(), -np.eye(3) + np.diag(np.ones(2), 1)),
    "at rest and moving": (times(), np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]])),
    "stiff": (np.geomspace(1e-4, 10.0, 80), np.diag([-0.1, -10.0, -300.0]) + 0.05 * np.tri(3, k=-1)),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("structure", [None, ANY], ids=["rates", "states"])
def test_exact_data_give_back_xi_and_z0(name: str, structure: np.ndarray | None):
    t, Xi = EXACT[name]
    result = linode.fit(t, clean(t, Xi), structure=structure)
    tol = 1e-3 if name == "Jordan block" else 1e-5  # the cube of a change of eigenvalues is what moves the states
    assert same(result.Xi, Xi, tol)
    assert same(result.z0, Z0, tol)
    assert result.converged
    assert same(result.predict(t), clean(t, Xi), 1e-7)


def test_a_list_of_one_is_the_trajectory_that_it_holds():
    t, z = times(), noise(clean(times()))
    one, listed = linode.fit(t, z), linode.fit([t], [z])
    assert np.array_equal(one.Xi, listed.Xi)
    assert listed.z0.shape == (1, 3)
    assert np.array_equal(one.predict(t), listed.predict([t])[0])


def test_several_trajectories_share_xi_and_have_times_and_initial_states_of_their_own():
    ts = [times(k, 20 + 10 * k) + k for k in range(3)]
    starts = np.random.default_rng(0).standard_normal((3, 3))
    zs = [clean(t, XI, z0) for t, z0 in zip(ts, starts)]
    result = linode.fit(ts, zs)
    assert same(result.Xi, XI)
    assert same(result.z0, starts)
    assert all(same(y, z) for y, z in zip(result.predict(ts), zs))
    assert same(result.predict([3.0, 4.0])[1], clean(np.r_[ts[1][0], 3.0, 4.0], XI, starts[1])[1:])
    assert same(result.predict(ts[2], z0=starts[2]), clean(np.append(ts[0][0], ts[2]), XI, starts[2])[1:])


def test_trajectories_in_one_array_are_those_in_a_list():
    t, starts = np.linspace(0.0, 4.0, 30), np.random.default_rng(0).standard_normal((4, 3))
    zs = np.stack([noise(clean(t, XI, z0), seed=k) for k, z0 in enumerate(starts)])
    assert np.array_equal(linode.fit(t, zs).Xi, linode.fit([t] * 4, list(zs)).Xi)


def test_one_trajectory_is_the_same_fit_by_eigenvalues_and_by_states():
    """Two algorithms: variable projection, and for a structure, here none, least squares on the entries of Xi."""
    t = times()
    z = noise(clean(t))
    z[3:6, 1] = np.nan
    one, other = linode.fit(t, z, sigma=[0.02, 0.03, 0.01]), linode.fit(t, z, sigma=[0.02, 0.03, 0.01], structure=ANY)
    assert same(one.cost, other.cost, 1e-8)
    assert same(one.Xi, other.Xi, 1e-5)
    assert same(one.stderr, other.stderr, 1e-3)
    assert same(one.covariance, other.covariance, 1e-3)
    assert same(one.eigenvalue_stderr, other.eigenvalue_stderr, 0.2)  # by samples of their own


def test_a_bias_is_the_same_fit_by_eigenvalues_and_by_states():
    t = times(2)
    z = noise(clean(t, b=np.array([1.0, -0.5, 0.3])))
    one, other = linode.fit(t, z, bias=True), linode.fit(t, z, bias=True, structure=ANY)
    for name in ("Xi", "b", "covariance", "b_stderr"):
        assert same(getattr(one, name), getattr(other, name), 1e-3), name
    assert (np.abs(one.b - [1.0, -0.5, 0.3]) < 4 * one.b_stderr).all()


# ---- invariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-9, 3600.0])
@pytest.mark.parametrize("size", [1e-6, 1e9])
def test_units_of_time_and_of_the_states_change_nothing_else(unit: float, size: float):
    t, z = times(), noise(clean(times()))
    plain, scaled = linode.fit(t, z), linode.fit(unit * t + 5 * unit, size * z)
    assert same(scaled.Xi * unit, plain.Xi, 1e-5)
    assert same(scaled.stderr * unit, plain.stderr, 1e-3)
    assert same(scaled.sigma / size, plain.sigma)
    assert same(scaled.z0 / size, plain.z0, 1e-5)


def test_rows_that_are_missing_are_rows_that_are_left_out():
    t, z = times(), noise(clean(times()))
    gone = np.random.default_rng(3).uniform(size=len(t)) < 0.3
    gone[0] = False
    with_gaps = z.copy()
    with_gaps[gone] = np.nan
    assert same(linode.fit(t, with_gaps).Xi, linode.fit(t[~gone], z[~gone]).Xi, 1e-6)


def test_what_is_missing_is_not_looked_at():
    t, z = times(), noise(clean(times()))
    z[10:20, 0], z[40:, 2] = np.nan, np.nan
    result = linode.fit(t, z)
    assert result.dof == 180 - 10 - 20 - 12
    assert (np.abs(result.Xi - XI) < 4.5 * result.stderr).all()


def test_small_sigmas_weigh_more():
    t, z = times(), clean(times())
    z[:, 0] = noise(z[:, 0], 0.3)
    z[:, 1:] = noise(z[:, 1:], 0.003)
    plain, weighted = linode.fit(t, z), linode.fit(t, z, sigma=[0.3, 0.003, 0.003])
    assert np.linalg.norm(weighted.eigenvalue_stderr) < 0.5 * np.linalg.norm(plain.eigenvalue_stderr)
    assert (np.abs(weighted.Xi - XI) < 4.5 * weighted.stderr).all()
    assert 0.7 < weighted.chi2 / weighted.dof < 1.3
    assert np.array_equal(weighted.Xi, linode.fit(t, z, sigma=np.tile([0.3, 0.003, 0.003], (60, 1))).Xi)


# ---- inputs ----------------------------------------------------------------------------------------------------------

B = np.array([[1.0, 0.0], [0.0, -0.5], [0.3, 0.8]])


def test_held_samples_and_the_input_that_they_stand_for_are_the_same_fit():
    t = times(4)
    u = np.random.default_rng(5).standard_normal((60, 2))
    z = noise(clean(t, B=B, u=linode.ZeroOrderHold(t - t[0], u)))
    samples, hold = linode.fit(t, z, u), linode.fit(t, z, linode.ZeroOrderHold(t, u))
    for name in ("Xi", "B", "stderr", "B_stderr"):
        assert same(getattr(samples, name), getattr(hold, name), 1e-4), name
    assert (np.abs(samples.B - B) < 4 * samples.B_stderr).all()
    assert same(samples.predict(t), hold.predict(t), 1e-4)
    assert same(samples.predict(t, u=u), samples.predict(t))
    assert not same(samples.predict(t, u=-u), samples.predict(t), 0.1)
    rest = linode.LinearODE(samples.Xi, samples.z0)(t - t[0])
    assert same(samples.predict(t, u=0 * u), rest)


INPUTS = {
    "first-order hold": linode.FirstOrderHold(np.linspace(1.0, 9.0, 9), np.random.default_rng(6).normal(size=(9, 2))),
    "impulses": linode.Impulses([2.5, 4.0, 6.0], [[1.0, 0.5], [-2.0, 1.0], [0.5, 2.0]]),
    "harmonics": linode.Harmonics([1.3j, -0.1], [[1.0, 0.5], [0.3, -1.0]]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_input_is_on_the_axis_of_the_data(name: str):
    t = times(7, 50) + 2.0
    u, by = INPUTS[name], t[0]
    shifted = {
        "first-order hold": lambda: linode.FirstOrderHold(u.times - by, u.values),
        "impulses": lambda: linode.Impulses(u.times - by, u.values),
        "harmonics": lambda: linode.Harmonics(u.rates, u.amplitudes * torch.exp(u.rates * by)[:, None]),
    }
    z = clean(t, B=B, u=shifted[name]())
    result = linode.fit(t, z, u)
    assert same(result.Xi, XI, 1e-5)
    assert same(result.B, B, 1e-5)
    later = t[-1] + np.array([0.5, 1.0])
    assert same(result.predict(later), clean(np.r_[by, later], B=B, u=shifted[name]())[1:], 1e-5)


def test_inputs_of_their_own_belong_to_trajectories():
    ts, rng = [times(k) + k for k in range(3)], np.random.default_rng(8)
    us = [rng.standard_normal((60, 2)) for _ in ts]
    zs = [clean(t, B=B, u=linode.ZeroOrderHold(t - t[0], u)) for t, u in zip(ts, us)]
    result = linode.fit(ts, zs, us)
    assert same(result.Xi, XI)
    assert same(result.B, B)


# ---- what is observed ------------------------------------------------------------------------------------------------


def test_more_states_than_channels_are_a_realisation_of_the_data():
    t = times(count=80)
    result = linode.fit(t, clean(t)[:, 0], rank=3)
    assert same(np.sort_complex(result.eigenvalues), np.sort_complex(np.linalg.eigvals(XI)), 1e-5)
    assert same(result.predict(t), clean(t)[:, 0])
    assert "up to a change of basis" in result.message
    assert result.C.shape == (1, 3)


@pytest.mark.parametrize("C", [[[1.0, 0.0, 0.0]], [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_known_c_is_kept_and_explains_the_data(C: list, as_list: bool):
    t, C = times(count=80), np.array(C)
    starts = np.random.default_rng(9).standard_normal((4, 3))
    if as_list:
        zs = [clean(t, XI, z0) @ C.T for z0 in starts]
        result = linode.fit([t] * 4, zs, C=C)
        assert all(same(y, z, 1e-5) for y, z in zip(result.predict([t] * 4), zs))
    else:
        result = linode.fit(t, clean(t) @ C.T, C=C)
        assert same(result.predict(t), clean(t) @ C.T, 1e-5)
        assert same(result.ode()(t - t[0]) @ C.T, clean(t) @ C.T, 1e-5)
    assert np.array_equal(result.C, C)
    assert same(np.sort_complex(result.eigenvalues), np.sort_complex(np.linalg.eigvals(XI)), 1e-4)


def test_a_c_of_full_column_rank_determines_xi():
    t = times()
    tall = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, -1.0], [1.0, 1.0, 1.0]])
    for C in (tall, tall[:3]):
        result = linode.fit(t, clean(t) @ C.T, C=C)
        assert same(result.Xi, XI)
        assert same(result.z0, Z0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("as_list", [False, True])
def test_fewer_states_than_channels_are_seen_through_modes_that_are_fitted(bias: bool, as_list: bool):
    t, modes = times(), np.random.default_rng(10).standard_normal((3, 20))
    z = noise(clean(t) @ modes + 5.0 * bias)
    result = linode.fit([t], [z], rank=3, bias=bias) if as_list else linode.fit(t, z, rank=3, bias=bias)
    found = result.predict([t])[0] if as_list else result.predict(t)
    assert np.sqrt(np.mean((found - clean(t) @ modes - 5.0 * bias) ** 2)) < 0.02 * np.sqrt(
        1.5 * (63 + 20 * bias) / 1200
    )
    assert same(np.sort_complex(result.eigenvalues), np.sort_complex(np.linalg.eigvals(XI)), 0.05)
    assert result.C.shape == (20, 3)


def test_modes_and_amplitudes_add_up_to_the_observations():
    t = times()
    result = linode.fit(t, noise(clean(t)))
    waves = np.exp(np.outer(t - t[0], result.eigenvalues)) * result.amplitudes
    assert same((waves @ result.modes.T).real, result.predict(t))


# ---- structure and stability -----------------------------------------------------------------------------------------


def transfer(theta: torch.Tensor) -> torch.Tensor:
    out, forth, back = theta.exp()
    return torch.stack([torch.stack([-out - forth, back]), torch.stack([forth, -back])])


def test_parameters_of_a_structure_come_back_with_their_errors():
    t, rates = times(count=80, stop=10.0), np.array([0.5, 0.8, 0.4])
    Xi = transfer(torch.tensor(np.log(rates))).numpy()
    z = noise(clean(t, Xi, np.array([3.0, 0.0])))
    result = linode.fit(t, z, structure=transfer)
    assert (np.abs(result.theta - np.log(rates)) < 4 * result.theta_stderr).all()
    assert same(result.Xi, transfer(torch.tensor(result.theta)))
    by_arrays = linode.fit(t, z, structure=lambda theta: transfer(torch.as_tensor(theta)).numpy())
    assert same(by_arrays.theta, result.theta, 1e-4)
    assert same(by_arrays.theta_stderr, result.theta_stderr, 1e-3)


def test_bounds_of_a_structure_hold():
    t = times()
    z = noise(clean(t, np.array([[-1.0]]), np.ones(1)))
    free = linode.fit(t, z, structure=(lambda theta: -theta[None], [0.5]))
    held = linode.fit(t, z, structure=(lambda theta: -theta[None], [0.5], (0.0, 0.8)))
    assert abs(free.theta[0] - 1.0) < 4 * free.theta_stderr[0]
    assert held.theta[0] == 0.8


@pytest.mark.parametrize("name", ["symmetric", "skew", "diagonal", "metzler", "compartmental", "mask"])
def test_structures_by_name_recover_a_system_of_their_kind(name: str):
    flows = np.array([[-1.0, 0.3, 0.1], [0.5, -0.8, 0.2], [0.3, 0.1, -0.6]])
    made = {
        "symmetric": XI + XI.T,
        "skew": XI - XI.T,
        "diagonal": np.diag([-0.3, -1.0, -2.0]),
        "metzler": flows + 0.5 * np.eye(3),
        "compartmental": flows,
        "mask": np.triu(XI) - np.eye(3),
    }
    Xi = made[name]
    ts = [times(k, 40, 3.0) for k in range(3)]
    zs = [clean(t, Xi, np.random.default_rng(k).uniform(0.5, 2.0, 3)) for k, t in enumerate(ts)]
    result = linode.fit(ts, zs, structure=np.triu(np.ones((3, 3))) if name == "mask" else name)
    assert same(result.Xi, Xi, 1e-5)


def of_one_or_two(is_two: bool, Xi: np.ndarray, **options) -> linode.FitResult:
    """A fit of one trajectory, by rates, or of two, by states."""
    t = times()
    zs = [noise(clean(t, Xi, z0), seed=k) for k, z0 in enumerate((Z0, Z0[::-1]))]
    return linode.fit([t, t], zs, **options) if is_two else linode.fit(t, zs[0], **options)


@pytest.mark.parametrize("is_two", [False, True])
def test_stable_fits_decay_though_the_data_grow(is_two: bool):
    growing = XI + 0.3 * np.eye(3)
    free, held = of_one_or_two(is_two, growing), of_one_or_two(is_two, growing, stable=True)
    assert free.eigenvalues.real.max() > 0
    assert held.eigenvalues.real.max() < 0
    assert held.cost > free.cost


@pytest.mark.parametrize("stable", [True, "auto"])
@pytest.mark.parametrize("is_two", [False, True])
def test_stable_fits_of_data_that_decay_are_the_free_ones(is_two: bool, stable: bool | str):
    free, held = of_one_or_two(is_two, XI), of_one_or_two(is_two, XI, stable=stable)
    assert same(held.Xi, free.Xi, 1e-3)
    assert same(held.stderr, free.stderr, 1e-2)


def test_auto_keeps_growth_that_the_tail_confirms():
    t = times(count=100)
    z = noise(clean(t, XI + 0.5 * np.eye(3)))
    assert linode.fit(t, z, stable="auto").eigenvalues.real.max() > 0


# ---- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_come_back_as_tensors_of_their_dtype(dtype: torch.dtype):
    t = times()
    result = linode.fit(torch.from_numpy(t), torch.from_numpy(noise(clean(t))).to(dtype))
    for name in ("Xi", "z0", "stderr", "covariance", "C"):
        assert getattr(result, name).dtype == dtype, name
    assert result.eigenvalues.is_complex()
    assert result.predict(t).dtype == dtype
    assert same(result.to_module().Xi.detach(), result.Xi)


def test_the_solver_and_the_module_of_a_fit_are_its_predictions():
    t, b = times(), np.array([0.5, 0.0, -0.2])
    result = linode.fit(t, noise(clean(t, b=b)), bias=True)
    module = result.to_module()
    assert same(result.ode()(t - t[0]), result.predict(t))
    assert same(module(torch.from_numpy(result.z0), torch.from_numpy(t - t[0])).detach(), result.predict(t))
    other = np.array([2.0, 1.0, 0.0])
    assert same(result.ode(other)(t - t[0]), result.predict(t, z0=other))


def test_cost_and_sigma_are_those_of_the_residuals():
    t = times()
    z = noise(clean(t))
    result = linode.fit(t, z)
    assert same(result.cost, ((result.predict(t) - z) ** 2).sum())
    assert result.dof == z.size - 9 - 3
    assert same(result.sigma, np.sqrt(result.cost / result.dof))
    assert 0.8 * 0.02 < result.sigma < 1.2 * 0.02
    known = linode.fit(t, z, sigma=0.02)
    assert same(known.cost, result.cost / 0.02**2)
    assert same(known.stderr, result.stderr * 0.02 / result.sigma, 1e-5)


def test_errors_of_eigenvalues_are_those_of_first_order_where_they_are_small():
    t = times(count=200)
    result = linode.fit(t, noise(clean(t), 1e-4))
    lam, V = np.linalg.eig(result.Xi)
    W = np.linalg.inv(V)
    for x, e in zip(result.eigenvalues, result.eigenvalue_stderr):
        j = np.argmin(np.abs(lam - x))
        slope = np.outer(W[j], V[:, j]).ravel()  # d lambda / d Xi
        true = np.sqrt([part @ result.covariance @ part for part in (slope.real, slope.imag)])
        assert abs(e.real / true[0] - 1) < 0.25  # of 256 samples
        assert x.imag == 0 or abs(e.imag / true[1] - 1) < 0.25


def test_the_summary_says_what_was_fitted():
    t = times()
    text = linode.fit(t, noise(clean(t))).summary()
    assert "3 states, 3 channels, 1 trajectories, 180 values" in text
    assert "converged from 2 starts, of which two agree" in text
    assert text.count("\n") > 8


def test_initial_states_that_are_known_are_kept():
    t = times()
    result = linode.fit(t, noise(clean(t)), z0=Z0)
    assert np.array_equal(result.z0, Z0)
    assert result.dof == 180 - 9


def test_progress_is_told_to_a_function():
    told = []
    linode.fit(times(), noise(clean(times())), progress=lambda *step: told.append(step))
    names, steps, costs = zip(*told)
    assert "integrals" in names
    assert steps[0] == 0
    assert min(costs) < costs[0]


def test_times_that_repeat_are_repeated_measurements():
    t, z = np.repeat(times(), 2), noise(clean(np.repeat(times(), 2)))
    result = linode.fit(t, z)
    assert (np.abs(result.Xi - XI) < 4 * result.stderr).all()
    assert "repeated measurements" in result.message


class Table:
    """What a pandas Series or DataFrame has of an array."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.ndim, self.dtype, self.shape = values, values.ndim, values.dtype, values.shape

    def __len__(self) -> int:
        return len(self.values)

    def to_numpy(self, dtype=None, na_value=None) -> np.ndarray:
        return self.values.astype(dtype)


def test_tables_are_taken_for_their_values():
    t, z = times(), noise(clean(times()))
    assert np.array_equal(linode.fit(Table(t), Table(z)).Xi, linode.fit(t, z).Xi)
    assert np.array_equal(linode.fit([Table(t)] * 2, [Table(z)] * 2).Xi, linode.fit([t] * 2, [z] * 2).Xi)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("linode.fitting.progress.PATIENCE", 0.0)
    for stream, wanted, is_drawn in (
        (Terminal(), None, True),
        (io.StringIO(), None, False),
        (Terminal(), False, False),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        linode.fit(times(), noise(clean(times())), progress=wanted)
        assert ("linode.fit" in stream.getvalue()) == is_drawn


# ---- what an adversary found -----------------------------------------------------------------------------------------


def test_an_input_object_drives_states_that_are_not_seen():
    t = times(11, 80)
    u = np.random.default_rng(12).standard_normal((80, 2))
    hold = linode.ZeroOrderHold(t, u)
    y = clean(t, B=B, u=linode.ZeroOrderHold(t - t[0], u))[:, :2]
    result = linode.fit(t, y, hold, C=np.eye(3)[:2])
    assert same(result.predict(t), y, 1e-4)
    assert same(linode.fit(t, y, u, C=np.eye(3)[:2], stable=True).predict(t), y, 1e-3)


@pytest.mark.parametrize("stable", [False, True])
def test_what_is_free_up_to_a_basis_is_no_lack_of_data(stable: bool):
    t, C = times(), np.array([[1.0, 0.5, 0.0]])
    zs = [noise(clean(t, XI, z0, b=np.array([1.0, 0.0, 0.5])) @ C.T, 0.01, seed=3) for z0 in (Z0, Z0[::-1], -Z0)]
    result = linode.fit([t] * 3, zs, C=C, bias=True, stable=stable)
    assert result.status is linode.FitStatus.OK, result.message
    assert linode.fit([t, t], [noise(clean(t)), noise(clean(t, XI, -Z0[::-1]))], stable=True)


def test_oscillations_with_few_samples_a_period_are_not_missed():
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(0.0, 7.5, 30))
        z = np.exp(-0.05 * t)[:, None] * np.c_[np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)]
        missed += linode.fit(t, z + 0.02 * rng.standard_normal(z.shape)).sigma > 0.04
    assert missed == 0


def test_a_level_beside_tones_is_found():
    missed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(0.0, 20.0, 120))
        y = 3 + np.cos(2 * t + 2) + np.cos(5.6 * t + 5.6) + 0.1 * rng.standard_normal(120)
        missed += linode.fit(t, y, rank=5).sigma > 0.15
    assert missed <= 1


def test_known_noise_and_missing_values_count_for_fewer_states_than_channels():
    rng, t = np.random.default_rng(13), times()
    modes = rng.standard_normal((3, 8))
    sigma = np.array([0.01] * 4 + [0.3] * 4)
    zs = [clean(t, XI, z0) @ modes + sigma * rng.standard_normal((60, 8)) for z0 in (Z0, Z0[::-1], -Z0)]
    known = linode.fit([t] * 3, zs, rank=3, sigma=sigma)
    off = np.abs(np.sort_complex(known.eigenvalues) - np.sort_complex(np.linalg.eigvals(XI)))
    assert (off < 5 * np.abs(known.eigenvalue_stderr).max()).all()
    assert 0.7 < known.chi2 / known.dof < 1.3
    assert np.abs(known.eigenvalue_stderr).max() < 0.02
    for z in zs:
        z[rng.uniform(size=z.shape) < 0.4] = np.nan
    gaps = linode.fit([t] * 3, zs, rank=3, sigma=sigma)
    assert np.abs(np.sort_complex(gaps.eigenvalues) - np.sort_complex(np.linalg.eigvals(XI))).max() < 0.1


def test_predictions_at_the_data_are_the_fit_whatever_grows():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(0.0, 6.0, 60))
        Xi = np.diag(-rng.uniform(0.1, 2.0, 3)) + 0.3 * rng.standard_normal((3, 3))
        z = noise(clean(t, Xi, rng.standard_normal(3), b=rng.standard_normal(3)), 0.03, seed)
        result = linode.fit(t, z, bias=True)
        assert same(((result.predict(t) - z) ** 2).sum(), result.cost, 1e-2), seed


def test_a_structure_has_as_many_states_as_channels_where_it_can():
    t = times()
    z = clean(t, np.diag([-0.3, -1.0]), np.ones(2))
    assert same(linode.fit(t, z, structure=torch.diag).Xi, np.diag([-0.3, -1.0]), 1e-5)


def test_masked_values_are_missing_ones_and_one_input_serves_all_trajectories():
    t, z = times(), noise(clean(times()))
    gaps = np.where(np.arange(180).reshape(60, 3) % 7 == 3, np.nan, z)
    assert np.array_equal(linode.fit(t, np.ma.masked_invalid(gaps)).Xi, linode.fit(t, gaps).Xi)
    u = np.random.default_rng(14).standard_normal((60, 2))
    assert same(linode.fit([t, t], [z, -z], u).B, linode.fit([t, t], [z, -z], [u, u]).B)
    stacked = np.stack([z, -z])
    by_array = linode.fit(t, stacked, sigma=np.full(stacked.shape, 0.02))
    assert same(by_array.Xi, linode.fit(t, stacked, sigma=0.02).Xi)
