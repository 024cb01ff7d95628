"""Complex observations give complex systems. Truth is in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode
from linode import FitStatus

T = np.linspace(0.0, 10.0, 150)
XI = np.array([[-0.1 + 2.0j, 0.3], [0.2j, -0.3 - 1.0j]])
Z0 = np.array([1.0, 1.0j])


def clean(t: np.ndarray = T, z0: np.ndarray = Z0) -> np.ndarray:
    lam, V = np.linalg.eig(XI)
    return (np.exp(np.outer(t, lam)) * np.linalg.solve(V, z0)) @ V.T


def noise(z: np.ndarray, sigma: float = 0.02, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return z + sigma * (rng.standard_normal(z.shape) + 1j * rng.standard_normal(z.shape))


def near(found, true, stderr, width: float = 4.5) -> bool:
    off = np.asarray(found) - true
    return bool((np.abs(off.real) <= width * stderr.real).all() and (np.abs(off.imag) <= width * stderr.imag).all())


def test_exact_data_give_back_a_complex_system():
    result = linode.fit(T, clean())
    assert np.allclose(result.Xi, XI, atol=1e-9)
    assert np.allclose(result.z0, Z0, atol=1e-9)
    assert np.allclose(result.predict(T), clean(), atol=1e-9)
    assert np.allclose(result.ode()(T), clean(), atol=1e-9)
    assert np.allclose(result.predict(T, z0=1j * Z0), 1j * clean(), atol=1e-9)
    assert result.dof == 600 - 8 - 4
    waves = np.exp(np.outer(T, result.eigenvalues)) * result.amplitudes
    assert np.allclose(waves @ result.modes.T, clean(), atol=1e-9)


def test_intervals_hold_the_entries_and_the_eigenvalues():
    inside, lam = [], np.linalg.eigvals(XI)
    for seed in range(30):
        result = linode.fit(T, noise(clean(), 0.05, seed))
        assert result.status is FitStatus.OK
        assert 0.045 < result.sigma < 0.055
        off = result.Xi - XI
        inside += [np.abs(off.real) < 1.96 * result.stderr.real, np.abs(off.imag) < 1.96 * result.stderr.imag]
        order = np.abs(result.eigenvalues[:, None] - lam).argmin(1)
        off, error = result.eigenvalues - lam[order], result.eigenvalue_stderr
        inside += [np.r_[np.abs(off.real) < 1.96 * error.real, np.abs(off.imag) < 1.96 * error.imag].reshape(2, 2)]
    assert 0.91 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize("sense", [1, -1])
def test_travelling_waves_keep_their_sense_of_rotation(sense: int):
    x = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    wave = np.exp(1j * (3 * x - sense * 2.0 * T[:, None])) * np.exp(-0.05 * T)[:, None]
    result = linode.fit(T, noise(wave, 0.1), rank=1)
    assert result.status is FitStatus.OK, result.message
    assert near(result.eigenvalues, [-0.05 - 2j * sense], result.eigenvalue_stderr)
    assert np.abs(result.modes[1:, 0] / result.modes[:-1, 0] - np.exp(3j * x[1])).max() < 0.1
    assert np.sqrt(np.mean(np.abs(result.predict(T) - wave) ** 2)) < 0.03
    both = wave + 0.5 * np.exp(1j * (-2 * x + sense * 1.3 * T[:, None]))
    two = linode.fit(T, noise(both, 0.1), rank=2)
    assert np.abs(np.sort(two.eigenvalues.imag) - np.sort([-2.0 * sense, 1.3 * sense])).max() < 0.02


@pytest.mark.parametrize("is_irregular", [False, True])
def test_one_channel_holds_many_rates(is_irregular: bool):
    lam = np.array([-0.1 + 2j, -0.2 + 2.5j, -0.05 - 4j])
    t = np.sort(np.random.default_rng(1).uniform(0.0, 10.0, 150)) if is_irregular else T
    y = noise(np.exp(np.outer(t, lam)) @ [1.0, 0.5j, 0.3])
    if is_irregular:
        y[7] = np.nan
    result = linode.fit(t, y, rank=3)
    order = np.abs(result.eigenvalues[:, None] - lam).argmin(1)
    assert near(result.eigenvalues, lam[order], result.eigenvalue_stderr)
    assert result.predict(t).shape == t.shape


def test_inputs_constants_and_several_trajectories():
    lam, gain, u = -0.1 - 2.0j, 1.0 + 1.0j, np.repeat(np.random.default_rng(2).standard_normal(38), 4)[:150]
    z, h = np.zeros(150, complex), T[1]
    for i in range(149):
        z[i + 1] = np.exp(lam * h) * z[i] + np.expm1(lam * h) / lam * gain * u[i]
    driven = linode.fit(T, noise(z), u)
    assert near(driven.B, [[gain]], driven.B_stderr)
    assert near(driven.Xi, [[lam]], driven.stderr)
    assert np.abs(driven.predict(T, u=u) - z).max() < 0.05
    level = np.array([1.0 + 2.0j, -0.5])
    biased = linode.fit(T, noise(clean() + level), bias=True)
    assert near(biased.b, -XI @ level, biased.b_stderr)
    several = linode.fit(T, [noise(clean()), noise(clean(z0=2 * Z0[::-1]), seed=1)])
    assert several.z0.shape == (2, 2)
    assert np.abs(several.z0[1] - 2 * Z0[::-1]).max() < 0.05
    assert [y.shape for y in several.predict(T)] == [(150, 2)] * 2
    assert several.predict_stderr(T, 1).shape == (150, 2)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_come_back_as_tensors(dtype: torch.dtype):
    result = linode.fit(torch.from_numpy(T), torch.from_numpy(noise(clean())).to(dtype))
    assert result.Xi.dtype == result.predict(T).dtype == result.eigenvalues.dtype == dtype
    assert "2 complex states, 2 complex channels" in result.summary()


def test_pictures_show_both_parts():
    pytest.importorskip("matplotlib")
    ax = linode.fit(T, noise(clean()), standard_errors=True).plot(band=False)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any("Re y1" in label for label in labels)
    assert any("Im y2" in label for label in labels)


WRONG = {
    "structure": (
        lambda: linode.fit(T, clean(), structure="skew"),
        "structure 'skew' is for real data",
    ),
    "stable": (lambda: linode.fit(T, clean(), stable=True), "stable is for real data"),
    "rank": (lambda: linode.fit(T, clean(), rank=4), "4 complex states of 2 complex channels"),
    "C": (lambda: linode.fit(T, clean(), C=np.ones((3, 2))), r"C has shape \(3, 2\)"),
    "module": (lambda: linode.fit(T, clean()).to_module(), "use ode"),
    "u": (lambda: linode.fit(T, clean(), T * 1j), "u is complex"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_complex_fits_do_not_know_is_said(name: str):
    call, words = WRONG[name]
    with pytest.raises(linode.LinodeError, match=words):
        call()
