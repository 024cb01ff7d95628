"""Pictures of trajectories show every state at its times, and say what they leave out."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import torch

import linode

pytest.importorskip("matplotlib")

from matplotlib import figure, rcParams
from matplotlib.colors import to_hex

from linode.plotting import plot_comparison, plot_trajectories

T = np.linspace(0.0, 6.0, 60)
ODE = linode.LinearODE([[-0.2, 2.0], [-2.0, -0.3]], [1.0, 0.5])
Z = ODE(T)


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def title(ax) -> str:
    return ax.get_legend().get_title().get_text()


def drawn(ax) -> bytes:
    """The picture; warnings of drawing are errors."""
    file = io.BytesIO()
    ax.figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def marked(line) -> list[int]:
    return [] if line.get_marker() == "None" else list(line.get_markevery())


def test_each_state_is_a_line_through_its_samples():
    ax = figure.Figure().subplots()
    assert plot_trajectories(T, Z, ax) is ax
    assert len(ax.lines) == 2
    for j, line in enumerate(ax.lines):
        assert np.array_equal(line.get_xydata(), np.c_[T, Z[:, j]])
    assert words(ax) == ["z1", "z2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "state")


def test_solvers_and_solutions_plot_what_they_compute():
    for ax in (ODE.plot(T), ODE.solve(T).plot()):
        assert np.array_equal([line.get_ydata() for line in ax.lines], Z.T)
    switching = linode.PiecewiseLinearODE([(0.0, [[1.0]]), (1.0, [[-1.0]])], [1.0])
    assert np.array_equal(switching.plot([0.0, 1.0, 2.0]).lines[0].get_ydata(), switching([0.0, 1.0, 2.0])[:, 0])
    given = figure.Figure().subplots()
    assert ODE.plot(T, given, labels=["a", "b"]) is given
    assert words(given) == ["a", "b"]


def test_a_number_as_time_is_one_sample_of_each_state():
    ax = ODE.solve(2.0).plot()
    assert np.array_equal([line.get_xydata()[0] for line in ax.lines], [[2.0, x] for x in ODE(2.0)])
    assert all(marked(line) == [0] for line in ax.lines)  # a line of one point is invisible
    batch = linode.LinearODE(ODE.Xi.numpy(), np.ones((3, 2)))
    assert len(batch.solve(1.0).plot().lines) == 6


def test_times_in_any_order_are_joined_in_order_of_time():
    order = np.random.default_rng(0).permutation(60)
    for line, j in zip(plot_trajectories(T[order], Z[order]).lines, (0, 1)):
        assert np.array_equal(line.get_xydata(), np.c_[T, Z[:, j]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_with_gradients_are_drawn_as_arrays_are(dtype: torch.dtype):
    t = torch.tensor(T, dtype=dtype, requires_grad=True)
    z = torch.tensor(Z, dtype=dtype, requires_grad=True)
    for given in (z, list(z), [list(row) for row in z]):
        for line, j in zip(plot_trajectories(t, given).lines, (0, 1), strict=True):
            assert np.allclose(line.get_xydata(), np.c_[T, Z[:, j]], rtol=1e-6)
    needs_gradients = linode.LinearODE(ODE.Xi.clone().requires_grad_(), ODE.z0)
    assert np.allclose(needs_gradients.plot(T).lines[0].get_ydata(), Z[:, 0])


def test_a_batch_shares_the_style_of_each_state():
    z = np.stack([Z, 2 * Z, 3 * Z]).reshape(1, 3, 60, 2)
    ax = plot_trajectories(np.stack([T, T + 1, T + 2]), z)
    assert np.array_equal(
        [line.get_xydata() for line in ax.lines[::2]], [np.c_[T + k, z[0, k, :, 0]] for k in range(3)]
    )
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 2
    assert words(ax) == ["z1", "z2"]


def test_lists_hold_trajectories_of_their_own_lengths():
    ax = plot_trajectories([T[:20], T[5:]], [Z[:20], torch.from_numpy(Z[5:])])
    assert [len(line.get_xdata()) for line in ax.lines] == [20, 20, 55, 55]
    one_state = plot_trajectories([T[:20], T[5:]], [Z[:20, 0], Z[5:, 0]])
    assert words(one_state) == ["trajectory 0", "trajectory 1"]
    assert len({line.get_color() for line in one_state.lines}) == 2


def test_real_parts_are_solid_and_imaginary_ones_dashed():
    z = np.exp(np.outer(T, [1j, -0.1 + 2j]))
    lines = plot_trajectories(T, z).lines
    assert np.array_equal(
        [line.get_ydata() for line in lines], [z[:, 0].real, z[:, 0].imag, z[:, 1].real, z[:, 1].imag]
    )
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]
    assert lines[0].get_marker() == lines[1].get_marker() != lines[2].get_marker()
    assert all(0 < len(marked(line)) < 10 for line in lines)
    assert words(plot_trajectories(T, z)) == ["z1", "z2", "real part", "imaginary part"]
    assert words(plot_trajectories(T, z[:, 0])) == ["real part", "imaginary part"]


def test_twenty_states_have_twenty_styles_that_differ_in_grey_too():
    z = np.random.default_rng(0).standard_normal((30, 20)).cumsum(0)
    ax = plot_trajectories(np.arange(30.0), z)
    styles = {(to_hex(line.get_color()), str(line._unscaled_dash_pattern)) for line in ax.lines}
    assert len(styles) == len(words(ax)) == 20
    first = [str(line._unscaled_dash_pattern) for line in ax.lines[:4]]
    assert len(set(first)) == 4
    drawn(ax)


def test_of_more_states_those_that_vary_most_are_drawn_or_those_asked_for():
    z = np.sin(T)[:, None] * np.arange(30.0)
    z[3, 29] = np.inf  # is not variation
    ax = plot_trajectories(T, z)
    assert words(ax) == [f"z{j}" for j in range(11, 31)]
    assert title(ax).startswith("20 of 30 states,\nthose that vary most")
    (line,) = plot_trajectories(T, z, states=[4]).lines
    assert np.array_equal(line.get_ydata(), z[:, 4])
    many = np.broadcast_to(Z, (70, 60, 2))
    assert title(plot_trajectories(T, many)) == "first 50 of 70\ntrajectories"
    assert len(plot_trajectories(T, many, trajectories=[69]).lines) == 2


def test_what_is_not_finite_is_a_gap_that_the_legend_counts():
    z = Z.copy()
    z[10, 0], z[20, 0], z[30, 0] = np.nan, np.inf, 1e305
    z[::2, 1] = np.nan
    ax = plot_trajectories(T, z)
    assert np.flatnonzero(np.isnan(ax.lines[0].get_ydata())).tolist() == [10, 20, 30]
    assert title(ax) == "33 values not finite\nor beyond 1e300"
    assert marked(ax.lines[0]) == []
    assert marked(ax.lines[1]) == list(range(1, 60, 2))  # samples without neighbours are seen as dots
    drawn(ax)


def test_few_samples_are_marked_and_many_are_not():
    assert marked(plot_trajectories(T[:24], Z[:24]).lines[0]) == list(range(24))
    assert marked(plot_trajectories(T[:25], Z[:25]).lines[0]) == []


@pytest.mark.parametrize("t0", [[], [0.0]], ids=["positive", "from 0"])
def test_logarithmic_times_get_a_logarithmic_axis_of_their_own(t0: list[float]):
    t = np.r_[t0, np.geomspace(1e-6, 10.0, 200)]
    stiff = linode.LinearODE([[-1.0, 0.5], [0.2, -1000.0]], [1.0, 1.0])
    assert stiff.plot(t).get_xscale() == "log"
    ax = figure.Figure().subplots()
    assert stiff.plot(t, ax).get_xscale() == "linear"
    assert ODE.plot(T).get_xscale() == ODE.plot(-T).get_xscale() == "linear"


def test_growth_past_the_largest_float_is_drawn_as_far_as_it_goes():
    solution = linode.LinearODE([[500.0, 0.0], [0.0, -1.0]], [1.0, -1.0]).solve(T)
    ax = solution.plot()
    assert ax.get_yscale() == "symlog"
    assert title(ax) == f"{(np.abs(solution.z) >= 1e300).sum()} values not finite\nor beyond 1e300"
    drawn(ax)


@pytest.mark.parametrize("labels", [["_a", "$x$ for $y$"], [r"$\frac", "100 % _{^"]])
def test_names_are_shown_as_they_are(labels: list[str]):
    ax = plot_trajectories(T, Z, labels=labels, xlabel="$t$ ($", ylabel="_y_")
    assert words(ax) == labels
    texts = [*ax.get_legend().get_texts(), ax.xaxis.label, ax.yaxis.label]
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    drawn(ax)
    assert plot_trajectories(T, Z[:, 0], labels=["$p$"]).get_ylabel() == "$p$"


@pytest.mark.parametrize(
    ("t", "z"),
    [
        (T, np.full(60, np.nan)),
        (T, np.ones((60, 3))),
        ([], np.zeros((0, 2))),
        ([1.0], [[3.0, np.inf, np.nan]]),
        ([0.0, 1e-300, 1e300], [[1e-300, -1e300], [0.0, 1e307], [1.0, -np.inf]]),
        ([1.0, 1.0, 1.0], [[1.0], [2.0], [3.0]]),
        (np.arange(3), np.array([[1, 2], [3, 4], [5, 6]])),
    ],
    ids=["NaN", "constant", "no times", "one time", "huge ranges", "one time thrice", "integers"],
)
def test_odd_values_are_drawn_without_warnings(t, z):
    drawn(plot_trajectories(t, z))
    ax = figure.Figure(layout="constrained").subplots()
    drawn(plot_trajectories(t, z, ax))


def draws() -> list:
    """Every way to draw."""
    t = np.linspace(0.0, 5.0, 40)
    fit = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
    rows = [{"method": "a", "seconds": 1.0, "error": 2.0}]
    solver = partial(ODE.plot, T), partial(ODE.solve(T).plot), ODE.plot_phase, ODE.plot_eigenvalues
    return [*solver, fit.plot, fit.plot_eigenvalues, partial(plot_comparison, rows), partial(plot_trajectories, T, Z)]


def test_pictures_belong_to_the_current_figure_of_pyplot(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")
    before, seen = dict(rcParams), []
    for draw in draws():
        axes = draw()
        assert pyplot.gcf() is axes.figure  # a new one each time, as the one before is full
        assert pyplot.gca() is axes
        seen.append(axes.figure)
        pyplot.savefig(tmp_path / "shown.png")
        pixels = pyplot.imread(tmp_path / "shown.png")[..., :3]
        assert np.ptp(pixels) > 0.5  # no empty page
    assert len(pyplot.get_fignums()) == len({id(figure) for figure in seen}) == len(seen)
    assert {key: value for key, value in rcParams.items() if key != "backend"} == {
        key: value for key, value in before.items() if key != "backend"
    }


def test_empty_axes_of_pyplot_are_drawn_into():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    for draw in draws():
        pyplot.close("all")
        empty = pyplot.figure(figsize=(3.0, 2.0))
        assert draw().figure is empty
        pair, (left, right) = pyplot.subplots(1, 2)
        assert draw() is right  # the last one made is the current one
        pyplot.sca(left)
        assert draw() is left
        pyplot.subplot(projection="polar")
        assert draw().figure is not pair
        given = pyplot.figure().subplots()
        pyplot.figure()
        assert draw(ax=given) is given
        assert not pyplot.gcf().axes


def test_a_figure_gets_axes_and_pyplot_does_not_know_it():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")
    for draw in draws():
        sheet = figure.Figure()
        axes = draw(ax=sheet)
        assert axes in sheet.axes
        parts = figure.Figure(layout="constrained").subfigures(1, 2)
        assert draw(ax=parts[1]) in parts[1].axes
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_trajectories(T, Z[:5]), linode.ShapeError, r"z has shape \(5, 2\)"),
        (lambda: plot_trajectories(T, Z.T), linode.ShapeError, "z has shape"),
        (lambda: plot_trajectories(T, np.zeros((60, 0))), linode.ShapeError, "at least one"),
        (lambda: plot_trajectories(T, np.zeros((0, 60, 2))), linode.ShapeError, "no trajectory"),
        (lambda: plot_trajectories([T, T], [Z]), linode.ShapeError, "t holds 2 arrays and z 1"),
        (lambda: plot_trajectories([T, T], [Z, Z[:3]]), linode.ShapeError, r"z\[1\] has shape"),
        (lambda: plot_trajectories([T, T], [Z, Z[:, 0]]), linode.ShapeError, r"\[1, 2\] states"),
        (lambda: plot_trajectories([T, T], None), linode.DtypeError, "z is a NoneType"),
        (lambda: plot_trajectories(T, "abc"), linode.DtypeError, "z must hold"),
        (lambda: plot_trajectories(1j * T, Z), linode.DtypeError, "t must be real"),
        (lambda: plot_trajectories(np.where(T > 3, np.nan, T), Z), linode.NonFiniteError, r"t\[30\] is nan"),
        (lambda: plot_trajectories(T, Z, labels=["a"]), linode.OptionError, "labels has 1 texts, but there are 2"),
        (lambda: plot_trajectories(T, Z, labels=[1, 2]), linode.DtypeError, "labels must be a list of texts"),
        (lambda: plot_trajectories(T, Z, states=[2]), linode.OptionError, "states must be of 0 to 1, got 2"),
        (lambda: plot_trajectories(T, Z, states="01"), linode.OptionError, "states must be a list"),
        (lambda: plot_trajectories(T, Z, trajectories=[1]), linode.OptionError, "trajectories must be of 0 to 0"),
        (lambda: plot_trajectories(T, Z, xlabel=3), linode.DtypeError, "xlabel must be text"),
        (lambda: plot_trajectories(T, Z, "ax"), linode.DtypeError, "ax is a str"),
        (
            lambda: plot_trajectories(T, Z, figure.Figure().add_subplot(projection="polar")),
            linode.DtypeError,
            "ax is polar",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_by_name(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()
