"""Pictures of fits show the data, the curve and how sure it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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
    return [line for line in ax.lines if line.get_marker() == "o"]


def ellipses(ax) -> list:
    return [patch for patch in ax.patches if hasattr(patch, "get_angle") and hasattr(patch, "height")]


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def sides(ax, i: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the i-th band: its outline goes up one edge and back on the other."""
    band = ax.collections[i].get_paths()[0].vertices
    edge = len(band) // 2
    both = [np.interp(times, *side[np.argsort(side[:, 0])].T) for side in (band[1:edge], band[edge + 1 : -1])]
    return np.minimum(*both), np.maximum(*both)


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


def test_a_curve_follows_what_is_much_faster_than_the_spacing_of_600_times():
    t = np.linspace(0.0, 40.0, 4000)
    found = linode.fit(t, np.cos(12.0 * t) + 0.01 * np.random.default_rng(0).standard_normal(4000), rank=2)
    curve = next(line for line in found.plot(band=False).lines if line.get_marker() != "o")
    assert np.diff(curve.get_xdata()).max() < 2 * np.pi / 12.0 / 20


def test_every_trajectory_and_the_channels_that_vary_most_are_drawn():
    many = linode.fit([T, T], [Z, -Z])
    assert len(dots(many.plot(band=False))) == 6
    wide = linode.fit(T, Z @ np.diag([1.0, 2.0, 3.0]) @ np.random.default_rng(2).standard_normal((3, 40)), rank=3)
    ax = wide.plot()
    assert len(dots(ax)) == 6
    assert ax.get_legend().get_title().get_text() == "6 of 40 channels,\nthose that vary most"
    variances = sorted(np.var(line.get_ydata()) for line in dots(ax))
    all_variances = np.sort(np.var(np.stack([x.get_ydata() for x in dots(wide.plot(channels=range(40)))]), axis=1))
    assert np.allclose(variances, all_variances[-6:])


def test_of_many_trajectories_the_first_six_are_drawn_or_those_asked_for():
    many = linode.fit([T + k for k in range(8)], [(k + 1) * Z for k in range(8)])
    ax = many.plot(channels=[0], band=False)
    assert [line.get_xdata()[0] - T[0] for line in dots(ax)] == pytest.approx([0, 1, 2, 3, 4, 5])
    assert ax.get_legend().get_title().get_text() == "first 6 of 8\ntrajectories"
    (last,) = dots(many.plot(channels=[0], trajectories=[7], band=False))
    assert np.allclose(last.get_xydata(), np.c_[T + 7, 8 * Z[:, 0]])


def test_the_legend_says_what_is_drawn_and_nothing_else(result: linode.FitResult):
    one = linode.fit(T, Z[:, 0], rank=3)
    assert labels(one.plot(ahead=1.0)) == ["data", "fit", "forecast", "95 % band"]
    assert labels(one.plot(band=False)) == ["data", "fit"]
    assert labels(result.plot(channels=[0, 2])) == ["y1", "y3", "data", "fit", "95 % band"]
    assert result.plot(channels=[1]).get_ylabel() == "y2"
    assert labels(result.plot_eigenvalues(level=0.5)) == ["eigenvalue", "50 % region", "stable"]


@pytest.mark.parametrize("structure", [None, np.ones((3, 3))], ids=["rates", "states"])
def test_the_band_holds_as_many_new_observations_as_it_says_also_beyond_the_data(structure: np.ndarray | None):
    early, late, later = [], [], T[0] + np.linspace(0.0, 9.0, 91)
    truth = linode.LinearODE(XI, [1.0, 0.5, -1.0])(later - T[0])[:, 1]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = linode.fit(T, CLEAN + 0.05 * rng.standard_normal(CLEAN.shape), structure=structure)
        low, high = sides(found.plot(channels=[1], ahead=5.0), 0, later)
        new = truth + 0.05 * rng.standard_normal(91)
        inside = (low < new) & (new < high)
        early.append(inside[later <= T[-1]].mean())
        late.append(inside[later > T[-1]].mean())
    assert 0.93 < np.mean(early) < 0.97
    assert 0.90 < np.mean(late) < 0.985  # the errors of one forecast go together: fewer independent ones


def test_noise_of_each_channel_widens_its_band_and_that_of_each_value_none():
    sigma = np.array([0.05, 0.1, 0.4])
    found = linode.fit(T, Z, sigma=sigma)
    for j, s in enumerate(sigma):
        low, high = sides(found.plot(), j, T[1:-1])
        width = 2 * 1.959964 * np.hypot(found.predict_stderr(T[1:-1])[:, j], s)
        assert np.allclose(high - low, width, rtol=3e-3)  # the outline is interpolated
    for several, size in (
        (False, np.broadcast_to(sigma, Z.shape)),
        (False, np.full(80, 0.1)),
        (True, [np.broadcast_to(sigma, Z.shape), np.full((40, 3), 0.2)]),
    ):
        found = linode.fit([T, T[:40]], [Z, Z[:40]], sigma=size) if several else linode.fit(T, Z, sigma=size)
        ax = found.plot()
        assert labels(ax)[-1] == "95 % band of the fit"
        low, high = sides(ax, 0, T[20:60])
        error = found.predict_stderr(T[20:60])[:, 0]
        assert np.allclose(high - low, 2 * 1.959964 * error, rtol=0.02)


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
    complex_ones = result.eigenvalues.imag != 0
    assert len(ellipses(ax)) == complex_ones.sum() == 2
    for ellipse, x, covariance in zip(
        ellipses(ax), result.eigenvalues[complex_ones], result.eigenvalue_covariance[complex_ones]
    ):
        assert ellipse.center == (x.real, x.imag)
        sizes = 2 * np.sqrt(-2 * np.log(0.1) * np.linalg.eigvalsh(covariance))  # of chi^2 with 2 degrees of freedom
        assert np.allclose([ellipse.height, ellipse.width], sizes)
        edge = ellipse.get_patch_transform().transform(ellipse.get_path().vertices) - ellipse.center
        squared = np.einsum(
            "vi,ij,vj->v", edge, np.linalg.inv(covariance), edge
        )  # Mahalanobis: it is not turned wrongly
        assert np.allclose(squared[::3], -2 * np.log(0.1), rtol=1e-3)  # each third point is on the curve
    one, other = ellipses(ax)
    assert one.angle == pytest.approx(-other.angle % 180) or one.angle % 180 == pytest.approx(-other.angle % 180)


def test_real_eigenvalues_have_bars_of_the_normal_quantile(result: linode.FitResult):
    bars = result.plot_eigenvalues(level=0.6826895).collections
    real = result.eigenvalues.imag == 0
    assert len(bars) == real.sum() == 1
    ((left, right),) = bars[0].get_segments()
    x, error = result.eigenvalues[real][0].real, result.eigenvalue_stderr[real][0].real
    assert np.allclose([left[0], right[0]], [x - error, x + error])


def test_the_imaginary_axis_is_in_the_picture_wherever_eigenvalues_are():
    t = np.linspace(0.0, 2.0, 60)
    noise = 0.01 * np.random.default_rng(0).standard_normal(60)
    ax = matplotlib_figure.Figure().subplots()
    for rate in (-1.0, 2.0):
        found = linode.fit(t, np.exp(rate * t) + noise)
        low, high = found.plot_eigenvalues().get_xlim()
        assert low < min(rate, 0.0) < max(rate, 0.0) < high
        found.plot_eigenvalues(ax)
    low, high = ax.get_xlim()
    assert low < -1.0 < 2.0 < high  # two fits in one picture
    (shade, _) = (x for x in ax.get_children() if type(x).__name__ == "Rectangle" and x is not ax.patch)
    assert shade.get_x() < low < shade.get_x() + shade.get_width() == 0.0


def test_without_errors_eigenvalues_are_drawn_without_regions():
    exact = linode.fit(T[:4], Z[:4])
    ax = exact.plot_eigenvalues()
    assert not ellipses(ax)
    assert not ax.collections
    assert labels(ax) == ["eigenvalue", "stable"]


def test_times_and_rates_that_differ_by_orders_of_magnitude_get_a_logarithmic_axis():
    t = np.geomspace(1e-4, 10.0, 60)
    z = np.exp(-np.outer(t, [0.3, 100.0]))
    noisy = z @ [[1.0, 0.5], [0.2, 1.0]] + 0.01 * np.random.default_rng(0).standard_normal((60, 2))
    stiff = linode.fit(t, noisy)
    assert stiff.plot().get_xscale() == "log"
    plane = stiff.plot_eigenvalues()
    assert plane.get_xscale() == "symlog"
    assert plane.get_xlim()[0] < -100.0 < 0.0 < plane.get_xlim()[1] < 0.1  # not the margin of a linear axis
    assert linode.fit(T, Z).plot().get_xscale() == linode.fit(T, Z).plot_eigenvalues().get_xscale() == "linear"
    repeated = linode.fit(np.r_[[T[0]] * 40, T], np.r_[[Z[0]] * 40, Z])
    assert repeated.plot(band=False).get_xscale() == "linear"
    ax = matplotlib_figure.Figure().subplots()
    assert stiff.plot(ax).get_xscale() == "linear"  # the scale of given axes is not ours


def test_what_cannot_be_drawn_is_said_by_name(result: linode.FitResult):
    for call, words in (
        (lambda: result.plot(channels=[3]), "channels must be of 0 to 2, got 3"),
        (lambda: result.plot(channels=[-1]), "channels must be of 0 to 2, got -1"),
        (lambda: result.plot(channels=[True]), "channels must be of 0 to 2, got True"),
        (lambda: result.plot(channels=1), "channels must be a list of numbers from 0 to 2, got 1"),
        (lambda: result.plot(channels=[]), "channels is empty"),
        (lambda: result.plot(trajectories=[1]), "trajectories must be of 0 to 0, got 1"),
        (lambda: result.plot(ahead=-1.0), "ahead must be a time of at least 0"),
        (lambda: result.plot(ahead=float("nan")), "ahead must be a time of at least 0"),
        (lambda: result.plot(ahead="1 day"), "ahead must be a time of at least 0"),
        (lambda: result.plot_eigenvalues(level=1), "level must be between 0 and 1, got 1"),
        (lambda: result.plot_eigenvalues(level=95), "level must be between 0 and 1, got 95"),
    ):
        with pytest.raises(linode.OptionError, match=words):
            call()
    for draw in (result.plot, result.plot_eigenvalues):
        with pytest.raises(linode.DtypeError, match=r"ax is a ndarray; it must be matplotlib axes"):
            draw(matplotlib_figure.Figure().subplots(2))


def test_tensors_are_drawn_as_arrays_are(result: linode.FitResult):
    tensors = linode.fit(torch.from_numpy(T), torch.from_numpy(Z), sigma=0.05)
    arrays = linode.fit(T, Z, sigma=0.05)
    for one, other in zip(tensors.plot(ahead=1.0).lines, arrays.plot(ahead=1.0).lines, strict=True):
        assert np.allclose(one.get_xydata(), other.get_xydata())
    assert len(ellipses(tensors.plot_eigenvalues())) == 2


def test_a_forecast_that_grows_out_of_range_is_drawn_as_far_as_it_goes(tmp_path: Path):
    exact = linode.fit(T[:4], Z[:4])
    exact.plot(ahead=1e4).figure.savefig(tmp_path / "fit.png")


def test_held_out_data_are_hollow_and_in_the_legend(result: linode.FitResult):
    later = T[-1] + np.array([1.0, 2.0])
    values = np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]])
    ax = result.plot(channels=[0, 2], ahead=2.0, held_out=[(later, values)])
    hollow = [line for line in dots(ax) if line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in hollow] == [np.c_[later, values[:, j]].tolist() for j in (0, 2)]
    assert labels(ax) == ["y1", "y3", "data", "held out", "fit", "forecast", "95 % band"]
    assert "held out" not in labels(result.plot())
    for wrong, words in (
        ([], "for each of 1 trajectories"),
        ([(later, values[:, :2])], r"values of shape \(2, 2\); they must be \(T,\) and \(T, p\) with p = 3"),
        ([(later[:1], values)], r"times of shape \(1,\)"),
    ):
        with pytest.raises(linode.ShapeError, match=words):
            result.plot(held_out=wrong)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.find_spec("linode.plotting")
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
