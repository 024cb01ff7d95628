"""Pictures of fits show the data, the curve and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

import linode

matplotlib_figure = pytest.importorskip("matplotlib.figure")
T = np.sort(np.random.default_rng(0).uniform(0.0, 6.0, 80))
XI = np.array([[-0.2, 2.0, 0.0], [-2.0, -0.2, 0.5], [0.3, 0.0, -0.7]])
CLEAN = linode.LinearODE(XI, [1.0, 0.5, -1.0])(T - T[0])
Z = CLEAN + 0.05 * np.random.default_rng(1).standard_normal(CLEAN.shape)


@pytest.fixture(scope="module")
def result() -> linode.FitResult:
    return linode.fit(T, np.where(np.arange(240).reshape(80, 3) == 100, np.nan, Z))


def dots(ax) -> list:
    return [line for line in ax.lines if line.get_marker() == "."]


def test_the_given_axes_are_drawn_into_and_come_back(result: linode.FitResult):
    for draw in (result.plot, result.plot_eigenvalues):
        ax = matplotlib_figure.Figure().subplots()
        assert draw(ax) is ax
        assert ax.lines
        assert draw().figure is not ax.figure


def test_dots_are_the_data_and_the_curve_goes_through_the_fit(result: linode.FitResult):
    ax = result.plot(channels=[0, 2], ahead=1.0)
    data = dots(ax)
    assert len(data) == 2
    assert np.allclose(data[1].get_xydata(), np.c_[T, Z[:, 2]], rtol=1e-14)
    solid, dashed = (
        [line for line in ax.lines if line.get_linestyle() == style and line not in data] for style in ("-", "--")
    )
    assert np.allclose(solid[0].get_ydata(), result.predict(solid[0].get_xdata())[:, 0])
    assert np.allclose(dashed[0].get_ydata(), result.predict(dashed[0].get_xdata())[:, 0])
    assert dashed[0].get_xdata()[-1] == pytest.approx(T[-1] + 1.0)
    assert np.isnan(dots(result.plot())[1].get_ydata()).sum() == 1  # the missing value


def test_every_trajectory_and_the_channels_that_vary_most_are_drawn():
    many = linode.fit([T, T], [Z, -Z])
    assert len(dots(many.plot(band=False))) == 6
    wide = linode.fit(T, Z @ np.diag([1.0, 2.0, 3.0]) @ np.random.default_rng(2).standard_normal((3, 40)), rank=3)
    ax = wide.plot()
    assert len(dots(ax)) == 6
    assert ax.get_title() == "the 6 of 40 channels that vary most"


@pytest.mark.parametrize("structure", [None, np.ones((3, 3))], ids=["rates", "states"])
def test_the_band_holds_as_many_new_observations_as_it_says(structure: np.ndarray | None):
    inside = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        z = CLEAN + 0.05 * rng.standard_normal(CLEAN.shape)
        found = linode.fit(T, z, structure=structure)
        band = found.plot(channels=[1]).collections[0].get_paths()[0].vertices
        late = T > 4.0
        new = CLEAN[late, 1] + 0.05 * rng.standard_normal(late.sum())
        edge = len(band) // 2
        sides = [band[1:edge], band[edge + 1 : -1][::-1]]
        low, high = (np.interp(T[late], *side[np.argsort(side[:, 0])].T) for side in sides)
        inside += ((new > np.minimum(low, high)) & (new < np.maximum(low, high))).tolist()
    assert 0.90 < np.mean(inside) < 0.99


@pytest.mark.parametrize("structure", [None, np.ones((3, 3))], ids=["rates", "states"])
def test_errors_of_the_curve_are_its_distance_from_the_truth(structure: np.ndarray | None):
    inside = []
    for seed in range(12):
        z = CLEAN + 0.05 * np.random.default_rng(seed).standard_normal(CLEAN.shape)
        found = linode.fit(T, z, structure=structure)
        inside += (np.abs(found.predict(T) - CLEAN) < 1.96 * found.predict_stderr(T)).ravel().tolist()
    assert 0.88 < np.mean(inside) < 0.99


def test_errors_of_the_curve_are_of_its_shape_and_grow_beyond_the_data():
    found = linode.fit(T, Z[:, 0], rank=3)
    assert found.predict_stderr(T).shape == (80,)
    free, held = linode.fit([T], [Z]), linode.fit([T], [Z], z0=[[1.0, 0.5, -1.0]])
    assert held.predict_stderr(T[:1]).max() < 1e-12  # where it starts is known
    assert free.predict_stderr(T[:1]).max() > 1e-3
    exact = linode.fit(T[:4], Z[:4])
    assert np.isinf(exact.predict_stderr(T)).all()
    assert not exact.plot().collections
    growing = linode.fit(T, CLEAN * np.exp(T)[:, None] + 0.05 * np.random.default_rng(3).standard_normal((80, 3)))
    assert growing.predict_stderr([10.0]).max() > growing.predict_stderr([5.0]).max()


def test_ellipses_are_the_quantiles_of_the_covariance(result: linode.FitResult):
    ax = result.plot_eigenvalues(level=0.9)
    ellipses = [patch for patch in ax.patches if hasattr(patch, "get_angle") and hasattr(patch, "height")]
    complex_ones = result.eigenvalues.imag != 0
    assert len(ellipses) == complex_ones.sum() == 2
    for ellipse, x, covariance in zip(
        ellipses, result.eigenvalues[complex_ones], result.eigenvalue_covariance[complex_ones]
    ):
        assert ellipse.center == (x.real, x.imag)
        sizes = 2 * np.sqrt(-2 * np.log(0.1) * np.linalg.eigvalsh(covariance))  # of chi^2 with 2 degrees of freedom
        assert np.allclose([ellipse.height, ellipse.width], sizes)
    low, high = ax.get_xlim()
    assert high >= 0 > low


def test_logarithmic_times_get_a_logarithmic_axis():
    t = np.geomspace(1e-4, 10.0, 60)
    z = np.exp(-np.outer(t, [0.3, 100.0]))
    noisy = z @ [[1.0, 0.5], [0.2, 1.0]] + 0.01 * np.random.default_rng(0).standard_normal((60, 2))
    assert linode.fit(t, noisy).plot().get_xscale() == "log"
    assert linode.fit(T, Z).plot().get_xscale() == "linear"


def test_what_cannot_be_drawn_is_said_by_name(result: linode.FitResult):
    for call, words in (
        (lambda: result.plot(channels=[3]), "channels must be of 0 to 2, got 3"),
        (lambda: result.plot(channels=[]), "channels is empty"),
        (lambda: result.plot(ahead=-1.0), "ahead must be a time of at least 0"),
        (lambda: result.plot_eigenvalues(level=95), "level must be between 0 and 1, got 95"),
    ):
        with pytest.raises(linode.OptionError, match=words):
            call()
