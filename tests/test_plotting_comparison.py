"""Comparisons: each measurement at its place, each method in its style; eigenvalues of any system in the plane."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch

import linode

pytest.importorskip("matplotlib")

from matplotlib import figure
from matplotlib.colors import to_hex

from linode.plotting import plot_comparison, plot_eigenvalues

ROWS = [
    {"method": "_a$b$", "seconds": 1e-3, "error": 1e-15},
    {"method": "dopri5", "seconds": 2.0, "error": 3e-8},
    {"method": "exact", "seconds": 0.5, "error": 0.0},
    {"method": "failed", "seconds": None, "error": float("nan")},
]
SWEEP = [
    {"method": name, "n": n, "seconds": factor * n**2, "low": factor * n, "high": factor * n**3}
    for n in (64, 2, 8)
    for name, factor in (("linode", 1e-6), ("eig", 4e-6), ("limit", 1e-7))
]


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def title(ax) -> str:
    return ax.get_legend().get_title().get_text()


def draw(ax) -> None:
    ax.figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_each_method_is_a_point_at_its_time_and_error():
    ax = figure.Figure().subplots()
    assert plot_comparison(iter(ROWS), ax) is ax
    assert np.array_equal([line.get_xydata()[0] for line in ax.lines[:2]], [[1e-3, 1e-15], [2.0, 3e-8]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "error")
    assert words(ax) == ["_a$b$", "dopri5", "exact"]
    assert not any(text.get_parse_math() for text in ax.get_legend().get_texts())
    draw(ax)


def test_zero_stands_below_all_others_with_an_arrow_and_what_has_no_value_is_named():
    ax = plot_comparison(ROWS)
    (place,) = ax.lines[2].get_xydata()
    assert place[0] == 0.5
    assert 0.0 < place[1] < 1e-15
    (arrow,) = ax.texts
    assert arrow.xy == tuple(place)
    assert ax.get_ylim()[0] < place[1]
    assert title(ax) == "no value: failed\narrow: the value is 0"
    assert plot_comparison(ROWS[:2]).get_legend().get_title().get_text() == ""


def test_measurements_of_one_method_are_joined_in_order_of_size_with_bands():
    ax = plot_comparison(SWEEP, x="n", y="seconds", band=("low", "high"), reference="limit")
    for line, band, factor in zip(ax.lines, ax.collections, (1e-6, 4e-6, 1e-7), strict=True):
        assert np.allclose(line.get_xydata(), [[n, factor * n**2] for n in (2, 8, 64)])
        edge = band.get_paths()[0].vertices
        for n in (2, 8, 64):
            assert np.allclose(
                [edge[edge[:, 0] == n, 1].min(), edge[edge[:, 0] == n, 1].max()], [factor * n, factor * n**3]
            )
    assert [line.get_linestyle() for line in ax.lines] == ["-", "-", "--"]
    assert ax.lines[2].get_marker() == "None"
    assert [x.get_text() for x in ax.get_xticklabels()] == ["2", "8", "64"]
    assert ax.get_xlabel() == "number of states n"
    draw(ax)


def test_styles_differ_and_stay_with_the_order_of_names():
    rows = [{"method": f"m{i}", "seconds": 1.0 + i, "error": 1.0} for i in range(7)]
    lines = plot_comparison(rows).lines
    assert len({to_hex(line.get_color()) for line in lines}) == len({line.get_marker() for line in lines}) == 7
    some = plot_comparison(rows[3:], names=["m0", "m6", "m3", "m5"])
    assert words(some) == ["m6", "m3", "m5"]
    assert [line.get_color() for line in some.lines] == [lines[i].get_color() for i in (1, 2, 3)]
    assert np.array_equal(some.lines[0].get_xdata(), [7.0])


@pytest.mark.parametrize(
    "values",
    [
        [(1.0, 1.0)],
        [(1.0, 0.0), (1.0, 0.0)],
        [(1.0, 1e-3), (1.1, 1.1e-3), (1.2, 1.2e-3)],
        [(float("nan"), 1.0), (1.0, float("inf"))],
        [(1e-200, 1e200), (1e200, 1e-200)],
        [(np.float32(1), torch.tensor(2.0)), (3, np.array(1))],
    ],
    ids=["one", "zeros", "narrow", "none", "huge", "kinds"],
)
def test_odd_values_are_drawn_without_warnings(values):
    rows = [{"method": f"m{i}", "seconds": x, "error": y} for i, (x, y) in enumerate(values)]
    draw(plot_comparison(rows))


def test_ticks_of_a_narrow_range_are_apart():
    ax = plot_comparison([{"method": i, "seconds": 1 + i / 10, "error": 1e-3 * (1 + i / 9)} for i in range(3)])
    draw(ax)
    for axis, dimension in ((ax.xaxis, 0), (ax.yaxis, 1)):
        boxes = [x.get_window_extent() for x in axis.get_ticklabels(which="both") if x.get_text() and x.get_visible()]
        spans = sorted((box.min[dimension], box.max[dimension]) for box in boxes)
        low, high = axis.axes.bbox.min[dimension], axis.axes.bbox.max[dimension]
        spans = [span for span in spans if low <= sum(span) / 2 <= high]
        assert len(spans) >= 2
        assert all(one[1] < other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_comparison([]), linode.OptionError, "rows is empty"),
        (lambda: plot_comparison(3), linode.DtypeError, "rows must be a list of mappings"),
        (lambda: plot_comparison({"a": 1}), linode.DtypeError, "rows must be a list of mappings"),
        (lambda: plot_comparison([3]), linode.DtypeError, r"rows\[0\] must be a mapping"),
        (lambda: plot_comparison(ROWS, x="n"), linode.OptionError, r"rows\[0\] has no 'n', only 'method', 'seconds'"),
        (lambda: plot_comparison([{**ROWS[0], "error": -1}]), linode.OptionError, r"rows\[0\]\['error'\] is -1"),
        (
            lambda: plot_comparison([{**ROWS[0], "error": "1"}]),
            linode.DtypeError,
            r"rows\[0\]\['error'\] must be a num",
        ),
        (lambda: plot_comparison([{**ROWS[0], "error": [1, 2]}]), linode.DtypeError, "must be a number"),
        (lambda: plot_comparison([{**ROWS[0], "error": True}]), linode.DtypeError, "must be a number"),
        (lambda: plot_comparison(ROWS, band="low"), linode.OptionError, "band must be None or two keys"),
        (lambda: plot_comparison(ROWS, names=[1]), linode.DtypeError, "names must be texts"),
        (lambda: plot_comparison(ROWS, x=1), linode.DtypeError, "x must be text"),
        (lambda: plot_comparison(ROWS, 1), linode.DtypeError, "ax is a int"),
        (lambda: plot_eigenvalues(None), linode.DtypeError, "system is a NoneType"),
        (lambda: plot_eigenvalues("Xi"), linode.DtypeError, "system is a str"),
        (lambda: plot_eigenvalues(np.ones((2, 3))), linode.ShapeError, r"Xi has shape \(2, 3\)"),
        (lambda: plot_eigenvalues([[np.nan]]), linode.NonFiniteError, "Xi"),
        (lambda: plot_eigenvalues(np.ones((0, 2, 2))), linode.ShapeError, "holds no system"),
        (lambda: plot_eigenvalues([[1.0]], level=2), linode.OptionError, "level must be between 0 and 1"),
    ],
)
def test_what_cannot_be_drawn_is_said_by_name(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()


XI = np.array([[-0.2, 2.0, 0.0], [-2.0, -0.2, 0.5], [0.3, 0.0, -0.7]])


@pytest.mark.parametrize(
    "system",
    [XI, XI.tolist(), torch.tensor(XI, requires_grad=True), linode.LinearODE(XI, np.ones(3))],
    ids=["array", "list", "tensor", "solver"],
)
def test_eigenvalues_of_any_system_stand_in_the_plane(system):
    ax = figure.Figure().subplots()
    assert plot_eigenvalues(system, ax) is ax
    found = np.sort_complex(ax.lines[0].get_xdata() + 1j * ax.lines[0].get_ydata())
    assert np.allclose(found, np.sort_complex(np.linalg.eigvals(XI)))
    assert words(ax) == ["eigenvalue", "stable"]
    assert not [patch for patch in ax.patches if type(patch).__name__ == "Ellipse"]
    assert not ax.collections


def test_several_systems_have_a_style_each_and_many_share_one():
    Xi = np.random.default_rng(0).standard_normal((8, 4, 4))
    ax = linode.LinearODE(Xi[:3], np.ones(4)).plot_eigenvalues()
    assert words(ax) == ["system 0", "system 1", "system 2", "stable"]
    assert len({line.get_marker() for line in ax.lines[:3]}) == 3
    for line, matrix in zip(ax.lines, Xi[:3]):
        found = np.sort_complex(line.get_xdata() + 1j * line.get_ydata())
        assert np.allclose(found, np.sort_complex(np.linalg.eigvals(matrix)))
    many = plot_eigenvalues(Xi)
    assert title(many) == "8 systems"
    assert len({line.get_color() for line in many.lines[:8]}) == 1


def test_eigenvalues_that_hide_each_other_are_counted():
    jordan = np.diag(np.ones(3), 1) - np.eye(4)
    assert [text.get_text() for text in plot_eigenvalues(jordan).texts] == ["4x"]
    assert [text.get_text() for text in plot_eigenvalues(np.zeros((3, 3))).texts] == ["3x"]
    assert not plot_eigenvalues(XI).texts


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1.0, 1e300])
def test_systems_of_any_scale_are_drawn_without_warnings(scale: float):
    for Xi in (
        np.array([[scale, 0.0], [0.0, -1.0]]),
        np.array([[0.0, scale], [-scale, 0.0]]),
        np.array([[1j * scale]]),
    ):
        draw(plot_eigenvalues(Xi))
        draw(plot_eigenvalues(Xi, figure.Figure().subplots()))


def test_real_eigenvalues_do_not_shrink_the_height_to_rounding():
    low, high = plot_eigenvalues([[-2.0]], figure.Figure().subplots()).get_ylim()
    assert low < -0.5 < 0.5 < high


def test_rates_of_a_stiff_system_get_a_logarithmic_axis_of_their_own():
    Xi = np.diag([-1.0, -1e3, -1e6])
    assert plot_eigenvalues(Xi).get_xscale() == "symlog"
    assert plot_eigenvalues(Xi, figure.Figure().subplots()).get_xscale() == "linear"
