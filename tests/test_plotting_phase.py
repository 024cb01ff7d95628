"""Phase portraits: the field points along Xi z + b, trajectories are those of the solver, rest is where it is."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import linode

pytest.importorskip("matplotlib")

from matplotlib import figure

from linode.plotting import plot_phase

SYSTEMS = {
    "saddle": [[1.0, 0.5], [0.5, -2.0]],
    "centre": [[0.0, 1.0], [-4.0, 0.0]],
    "spiral": [[-0.2, 2.0], [-2.0, -0.2]],
    "unstable spiral": [[0.2, 2.0], [-2.0, 0.2]],
    "node": [[-1.0, 0.3], [0.2, -3.0]],
    "defective": [[-1.0, 1.0], [0.0, -1.0]],
    "star": [[-1.0, 0.0], [0.0, -1.0]],
    "nilpotent": [[0.0, 1.0], [0.0, 0.0]],
    "singular": [[-1.0, 0.5], [2.0, -1.0]],
    "stiff": [[-1000.0, 1.0], [1.0, -1.0]],
    "zero": [[0.0, 0.0], [0.0, 0.0]],
}
every_system = pytest.mark.parametrize("Xi", SYSTEMS.values(), ids=SYSTEMS)


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def title(ax) -> str:
    return ax.get_legend().get_title().get_text()


def curves(ax) -> list[np.ndarray]:
    """Trajectories: what is neither a straight line nor a point."""
    return [line.get_xydata() for line in ax.lines if type(line).__name__ == "Line2D" and line.get_marker() == "None"]


def points(ax, marker: str) -> list[np.ndarray]:
    return [line.get_xydata()[0] for line in ax.lines if line.get_marker() == marker]


def straight_lines(ax) -> list:
    return [line for line in ax.lines if type(line).__name__ == "AxLine"]


def arrows(ax) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tail and head of each arrow of the field."""
    return [tuple(map(np.asarray, patch._posA_posB)) for patch in ax.patches if hasattr(patch, "_posA_posB")]


def steps(ax) -> tuple[np.ndarray, np.ndarray]:
    """Middles and steps (N, 2) along the stream lines; a segment for each, or polylines."""
    lines = [np.asarray(line) for line in ax.collections[0].get_segments()]
    return np.concatenate([(x[1:] + x[:-1]) / 2 for x in lines]), np.concatenate([np.diff(x, axis=0) for x in lines])


def cosines(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    return (v * w).sum(1) / np.linalg.norm(v, axis=1) / np.linalg.norm(w, axis=1)


def draw(ax) -> None:
    ax.figure.savefig(io.BytesIO(), format="png", dpi=50)


@pytest.mark.parametrize("b", [None, [1.0, -2.0]], ids=["free", "forced"])
@pytest.mark.parametrize("name", ["saddle", "centre", "spiral", "unstable spiral", "node", "defective", "star"])
def test_arrows_and_stream_lines_point_along_the_field(name: str, b: list[float] | None):
    Xi = np.array(SYSTEMS[name])
    ax = linode.LinearODE(Xi, [1.0, 0.5], b=b).plot_phase()
    size = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
    shift = np.zeros(2) if b is None else np.array(b)
    tails, heads = map(np.stack, zip(*arrows(ax)))
    assert len(tails) > 20
    found = cosines((heads - tails) / size, ((tails + heads) / 2 @ Xi.T + shift) / size)
    assert found.min() > 0.0  # close to the equilibrium the field turns within the length of an arrow
    assert np.median(found) > 0.999
    middles, along = steps(ax)
    is_step = np.linalg.norm(along / size, axis=1) > 1e-6
    found = cosines(along[is_step] / size, (middles[is_step] @ Xi.T + shift) / size)
    assert np.quantile(np.abs(found), 0.05) > 0.98  # lines turn within a step


@every_system
def test_the_trajectory_is_that_of_the_solver_and_starts_at_a_dot(Xi: list[list[float]]):
    ode, t = linode.LinearODE(Xi, [1.0, 0.5], b=[0.3, 0.0]), np.linspace(0.0, 2.0, 50)
    ax = plot_phase(ode, t=t[::-1])
    (curve,) = curves(ax)
    assert np.array_equal(curve, ode(t))
    assert np.array_equal(points(ax, "o"), [[1.0, 0.5]])
    draw(ax)


@every_system
def test_without_times_the_trajectory_is_followed_until_little_is_left_to_see(Xi: list[list[float]]):
    (curve,) = curves(linode.LinearODE(Xi, [1.0, 0.5]).plot_phase())
    scale = np.ptp(curve, axis=0).max()
    real = np.linalg.eigvals(Xi).real
    assert np.abs(curve).max() < 10.0
    if (real < 0).all() and np.abs(np.linalg.eigvals(Xi).imag).max() == 0:
        assert np.linalg.norm(curve[-1]) < 0.03
    if np.any(Xi):
        size = np.where(np.ptp(curve, axis=0) > 0, np.ptp(curve, axis=0), scale)
        assert np.linalg.norm(np.diff(curve, axis=0) / size, axis=1).max() < 0.15  # smooth to the eye


def test_other_starts_may_be_a_batch():
    ode, t = linode.LinearODE(torch.tensor(SYSTEMS["spiral"], requires_grad=True), torch.ones(2)), np.linspace(0, 3, 40)
    starts = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(np.float32)
    ax = ode.plot_phase(z0=starts, t=t)
    for curve, start in zip(curves(ax), starts.reshape(-1, 2), strict=True):
        expected = linode.LinearODE(np.array(SYSTEMS["spiral"], np.float32), start)(t)
        assert np.allclose(curve, expected, atol=1e-5)
    assert len(points(ax, "o")) == 6
    assert torch.equal(ode.z0, torch.ones(2))
    assert title(ode.plot_phase(z0=np.ones((60, 2)), t=t)) == "first 50 of 60\ntrajectories"


@pytest.mark.parametrize("name", ["saddle", "centre", "spiral", "unstable spiral", "node", "star"])
def test_the_equilibrium_is_where_the_field_is_zero_and_full_where_nothing_grows(name: str):
    Xi, b = np.array(SYSTEMS[name]), np.array([1.0, -2.0])
    ax = linode.LinearODE(Xi, [1.0, 0.5], b=b).plot_phase()
    (rest,) = points(ax, "s")
    assert np.abs(Xi @ rest + b).max() < 1e-12
    assert ax.get_xlim()[0] < rest[0] < ax.get_xlim()[1]
    assert ax.get_ylim()[0] < rest[1] < ax.get_ylim()[1]
    marker = next(line for line in ax.lines if line.get_marker() == "s")
    assert (marker.get_markerfacecolor() == "white") == (np.linalg.eigvals(Xi).real.max() > 0)


def test_eigenvectors_are_drawn_where_they_are_real_through_the_equilibrium():
    for name, count in {
        "saddle": 2,
        "node": 2,
        "stiff": 2,
        "defective": 1,
        "centre": 0,
        "spiral": 0,
        "star": 0,
    }.items():
        Xi, b = np.array(SYSTEMS[name]), np.array([0.5, 0.2])
        ax = linode.LinearODE(Xi, [1.0, 0.5], b=b).plot_phase()
        lines = straight_lines(ax)
        assert len(lines) == count, name
        found = []
        for line in lines:
            one, other = np.array(line.get_xy1()), np.array(line.get_xy2())
            assert np.allclose(Xi @ one + b, 0.0, atol=1e-12)
            v = other - one
            found.append(v @ Xi @ v / (v @ v))
            assert np.allclose(Xi @ v, found[-1] * v, atol=1e-6 * np.abs(Xi).max())
        assert [x for x in words(ax) if "eigenvector" in x] == [f"eigenvector, λ = {x:.4g}" for x in found]


def test_a_singular_system_has_a_line_of_equilibria_or_none():
    Xi = np.array(SYSTEMS["singular"])
    ax = linode.LinearODE(Xi, [1.0, 0.5], b=[1.0, -2.0]).plot_phase()
    line = next(x for x in straight_lines(ax) if x.get_color() == "#000000")
    for point in (line.get_xy1(), line.get_xy2()):
        assert np.abs(Xi @ point + [1.0, -2.0]).max() < 1e-12
    assert words(ax)[0] == "equilibria"
    drifting = linode.LinearODE(Xi, [1.0, 0.5], b=[1.0, 1.0]).plot_phase()
    assert words(drifting) == ["trajectory"]
    assert not straight_lines(drifting)
    still = linode.LinearODE(SYSTEMS["zero"], [1.0, 0.5]).plot_phase()
    assert title(still) == "every point is at rest"
    assert not arrows(still)
    assert words(linode.LinearODE(SYSTEMS["zero"], [1.0, 0.5], b=[1.0, 1.0]).plot_phase()) == ["trajectory"]


def test_an_input_acts_on_the_trajectory_and_the_field_is_that_without():
    u = linode.ZeroOrderHold([0.0, 1.0], [[3.0, 0.0], [0.0, 3.0]])
    ode, t = linode.LinearODE(SYSTEMS["spiral"], [1.0, 0.5], u=u), np.linspace(0.0, 4.0, 50)
    ax = ode.plot_phase(t=t)
    assert np.array_equal(curves(ax)[0], ode(t))
    assert title(ax) == "arrows: where u = 0"


def test_limits_that_are_set_are_kept_and_others_hold_the_trajectory():
    ax = figure.Figure().subplots()
    ax.set(xlim=(-7.0, 7.0))
    ode = linode.LinearODE(SYSTEMS["spiral"], [1.0, 0.5])
    assert ode.plot_phase(ax) is ax
    assert ax.get_xlim() == (-7.0, 7.0)
    (curve,) = curves(ax)
    assert ax.get_ylim()[0] < curve[:, 1].min() < curve[:, 1].max() < ax.get_ylim()[1] < 2.0


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e9, 1e200])
def test_states_and_rates_of_any_scale_are_drawn(scale: float):
    Xi = np.array(SYSTEMS["node"])
    for ode in (linode.LinearODE(Xi, [scale, scale]), linode.LinearODE(np.clip(scale, 1e-100, 1e100) * Xi, [1.0, 1.0])):
        (curve,) = curves(ode.plot_phase())
        assert np.abs(curve[-1]).max() < 0.03 * np.abs(curve[0]).max()
        draw(ode.plot_phase())


def test_growth_past_the_largest_float_is_left_out():
    ax = linode.LinearODE([[500.0, 0.0], [0.0, -1.0]], [1.0, 1.0]).plot_phase(t=np.linspace(0.0, 10.0, 100))
    assert np.isnan(curves(ax)[0]).any()
    draw(ax)


def test_labels_name_the_axes_as_they_are():
    ax = linode.LinearODE(SYSTEMS["node"], [1.0, 1.0]).plot_phase(labels=["$x$_1 (m)", "_v (m/s)"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x$_1 (m)", "_v (m/s)")
    draw(ax)


two = linode.LinearODE(np.eye(2), np.ones(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linode.LinearODE(np.eye(3), np.ones(3)).plot_phase(), linode.ShapeError, "3 states; .* needs 2"),
        (lambda: linode.LinearODE([[1.0]], [1.0]).plot_phase(), linode.ShapeError, "1 states; .* needs 2"),
        (lambda: linode.LinearODE(np.ones((3, 2, 2)), np.ones(2)).plot_phase(), linode.ShapeError, "needs one Xi"),
        (lambda: linode.LinearODE(np.eye(2), np.ones(2), b=np.ones((3, 2))).plot_phase(), linode.ShapeError, "one b"),
        (lambda: linode.LinearODE(1j * np.eye(2), np.ones(2)).plot_phase(), linode.DtypeError, "Xi is complex"),
        (lambda: linode.LinearODE(np.eye(2), [1j, 1]).plot_phase(), linode.DtypeError, "z0 is complex"),
        (lambda: plot_phase(np.eye(2)), linode.DtypeError, "ode is a ndarray; it must be a LinearODE"),
        (lambda: two.plot_phase(z0=[1.0]), linode.ShapeError, r"z0 has shape \(1,\)"),
        (lambda: two.plot_phase(z0=[1.0, np.inf]), linode.NonFiniteError, "z0"),
        (lambda: two.plot_phase(z0=np.zeros((0, 2))), linode.ShapeError, "z0 holds no start"),
        (lambda: two.plot_phase(t=[0.0, np.nan]), linode.NonFiniteError, r"t\[1\] is nan"),
        (lambda: two.plot_phase(t=[]), linode.ShapeError, "t holds no time"),
        (lambda: two.plot_phase(labels=["x"]), linode.OptionError, "labels has 1 texts, but there are 2"),
        (lambda: two.plot_phase(3), linode.DtypeError, "ax is a int"),
    ],
)
def test_what_cannot_be_drawn_is_said_by_name(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()
