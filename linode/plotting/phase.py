"""The phase portrait of two states: vector field, trajectories and equilibria."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D

from ..errors import DtypeError, ShapeError
from .theme import COLOURS, DASHES, LARGEST, MARKERS, add_labels, add_legend, make_axes, make_names
from .values import Array, as_array, as_times, check_finite

FIELD = "0.72"  # grey
MOST_TRAJECTORIES = 50  # that are drawn
GRID = 40  # points of the field along each axis
FIELD_LIMIT = 1e100  # no field beyond: squares of larger states overflow in matplotlib's arrows
SAME = 1e-7  # angle below which two eigenvectors are one, as for defective Xi: the root of the unit roundoff
ZERO = 1e-12  # eigenvalue / largest entry of Xi below which it is zero: some 5,000 eps
N_TIMES, MOST_TIMES, PER_TURN = 600, 6000, 60  # points of a curve: at least, at most, per turn
# A trajectory ends after 8 turns, or when the slowest mode has decayed by e^-6 (grown by e^1.6), whichever comes first.
TURNS, DECAYS, GROWTHS = 8, 6.0, 1.6
MARGIN = 0.12  # of the window around trajectories, as part of its size
FAR = 5.0  # distance of an equilibrium, in sizes of the trajectories, up to which the window includes it


class Driven(Protocol):
    """The attributes of a `LinearODE` that are drawn: tensors Xi and z0, and its forcing with b and inputs."""

    Xi: Any
    z0: Any
    forcing: Any

    def __call__(self, t: Any) -> Any: ...


def plot_phase(
    ode: Driven,
    ax: Axes | FigureBase | None = None,
    *,
    t: Any = None,
    z0: Any = None,
    labels: Sequence[str] | None = None,
) -> Axes:
    """Phase portrait of two real states: field, trajectories, equilibrium, and eigenvectors where they are real.

    Stream lines follow Xi z + b; an input u, whose field changes in time, acts on the trajectories only. Each of these
    starts at a dot. The equilibrium is a filled square if no mode grows, else a hollow one; a singular Xi may have a
    line of them. Trajectories on eigenvectors are straight.

    Args:
        ode: with n = 2 and one Xi and b; z0 may be a batch.
        ax: matplotlib axes, or a figure, which gets new axes; None: pyplot's current axes if they are empty, else a new
            figure of pyplot's. Limits that have been set are kept.
        t: times of the trajectories, (T,), in any order; None: from 0 until modes have decayed, grown or turned.
        z0: initial states, (2,) or (*batch, 2), in place of those of ode.
        labels: names of the two states, with units; None: z1 and z2, or those of the system by `LinearODE.plot_phase`.

    Raises:
        ShapeError: ode does not have two states, or has several Xi. DtypeError: it is complex, or no `LinearODE`.
        OptionError: labels are not two. Others as `LinearODE`, for z0 and t.

    Example:
        >>> import linode
        >>> ode = linode.LinearODE([[0.0, 1.0], [-4.0, -0.5]], [1.0, 0.0], b=[0.0, 2.0])
        >>> ax = ode.plot_phase(labels=["position (m)", "velocity (m/s)"])
        >>> ax.get_ylabel()
        'velocity (m/s)'
    """
    Xi, b, starts = _system(ode, z0)
    names = make_names("labels", labels, 2, "state")
    axes, is_own = make_axes(ax, height=4.2)
    times = np.sort(as_times(t, "t").ravel()) if t is not None else _times(Xi)
    if not len(times):
        raise ShapeError("t holds no time; None chooses times")
    z = as_array(_restarted(ode, starts)(ode.Xi.detach().double().new_tensor(times)), "z").reshape(-1, len(times), 2)
    z = np.where((np.abs(z) < LARGEST).all(-1, keepdims=True), z, np.nan)
    rest, kernel = _equilibria(Xi, b)
    x_limits, y_limits = _window(axes, z, starts.reshape(-1, 2), rest, is_own=is_own)
    _draw_field(axes, Xi, b, x_limits, y_limits)
    handles = _draw_lines(axes, Xi, rest, kernel)
    for curve, start in zip(z[:MOST_TRAJECTORIES], starts.reshape(-1, 2)):
        axes.plot(*curve.T, color=COLOURS[0], lw=1.8, zorder=3)
        axes.plot(*start, "o", color=COLOURS[0], ms=5, mew=0, zorder=3.1)
    handles.append(Line2D([], [], color=COLOURS[0], lw=1.8, marker="o", ms=5, mew=0, markevery=[0], label="trajectory"))
    if rest is not None and len(kernel) == 0 and _is_within(rest, x_limits, y_limits):
        fill = COLOURS[6] if _grows(Xi) == 0 else "white"
        point: dict[str, Any] = {"ls": "", "marker": MARKERS[1], "ms": 6.0, "mfc": fill, "mec": COLOURS[6], "mew": 1.2}
        axes.plot(*rest, zorder=3.2, **point)
        handles.append(Line2D([], [], label="equilibrium", **point))
    axes.set(xlim=x_limits, ylim=y_limits)
    add_labels(axes, *names)
    notes = [f"first {MOST_TRAJECTORIES} of {len(z)}\ntrajectories"] if len(z) > MOST_TRAJECTORIES else []
    notes += ["every point is at rest"] if len(kernel) == 2 and not b.any() else []
    if ode.forcing.inputs:
        notes.append("arrows: where u = 0")
    seen = np.concatenate([z[:MOST_TRAJECTORIES].reshape(-1, 2), np.repeat(starts.reshape(-1, 2), N_TIMES, 0)])
    add_legend(axes, handles, is_own=is_own, title="\n".join(notes), points=seen)
    return axes


def _system(ode: Any, z0: Any) -> tuple[Array, Array, Array]:
    """Xi (2, 2), b (2,) and initial states (*batch, 2), checked."""
    if not hasattr(ode, "plot_phase"):
        raise DtypeError(f"ode is a {type(ode).__name__}; it must be a LinearODE")
    Xi, starts = as_array(ode.Xi, "Xi"), as_array(ode.z0 if z0 is None else z0, "z0")
    b = np.zeros(2) if ode.forcing.b is None else as_array(ode.forcing.b, "b")
    if Xi.shape[-1] != 2:
        raise ShapeError(f"ode has {Xi.shape[-1]} states; a phase portrait needs 2")
    if starts.ndim == 0 or starts.shape[-1] != 2:
        raise ShapeError(f"z0 has shape {starts.shape}; it must be (*batch, 2)")
    if starts.size == 0:
        raise ShapeError(f"z0 has shape {starts.shape}; z0 holds no start")
    for x, name, size in ((Xi, "Xi", 4), (b, "b", 2)):
        if x.size != size:
            raise ShapeError(
                f"{name} has shape {x.shape}; a phase portrait needs one {name}, such as LinearODE({name}[0], ...)"
            )
    for x, name in ((Xi, "Xi"), (b, "b"), (starts, "z0")):
        if np.iscomplexobj(x):
            raise DtypeError(f"{name} is complex; a phase portrait needs real states")
        check_finite(x, name)
    return Xi.reshape(2, 2), b.reshape(2), starts


def _restarted(ode: Driven, starts: Array) -> Driven:
    """The same system with initial states (*batch, 2)."""
    other = copy(ode)
    other.Xi = ode.Xi.detach()
    other.z0 = other.Xi.new_tensor(starts)
    return other


def _grows(Xi: Array) -> int:
    """How many eigenvalues have positive real parts, beyond rounding."""
    return int((np.linalg.eigvals(Xi).real > ZERO * np.abs(Xi).max()).sum())


def _times(Xi: Array) -> Array:
    """Times from 0 until the slowest mode has decayed, the fastest has grown, or after TURNS turns."""
    lam, size = np.linalg.eigvals(Xi), np.abs(Xi).max()
    if size == 0:
        return np.linspace(0.0, 1.0, N_TIMES)
    growth, rates = lam.real.max(), np.abs(lam.real[np.abs(lam.real) > ZERO * size])
    turn = np.abs(lam.imag).max()
    if growth > ZERO * size:
        end = GROWTHS / growth
    elif len(rates):
        end = DECAYS / rates.min()
    else:
        end = 3.0 / size if turn == 0 else 2 * np.pi / turn
    if turn > 0:
        end = min(end, TURNS * 2 * np.pi / turn)
    count = int(np.clip(PER_TURN * turn * end / (2 * np.pi), N_TIMES, MOST_TIMES))
    fast = np.geomspace(1e-3 / np.abs(lam).max(), end, N_TIMES) if lam.any() else end  # for fast modes of stiff systems
    return np.unique(np.r_[np.linspace(0.0, end, count), fast])


def _equilibria(Xi: Array, b: Array) -> tuple[Array | None, Array]:
    """A point where Xi z + b = 0, or None, and the null space (k, 2) of Xi, along which there are more."""
    _, sizes, Vh = np.linalg.svd(Xi)
    kernel = Vh[sizes <= ZERO * max(sizes[0], np.finfo(float).tiny)]
    point = np.linalg.lstsq(Xi, -b, rcond=ZERO)[0]
    is_rest = np.abs(Xi @ point + b).max() <= 1e-9 * np.abs(b).max() if len(kernel) else np.isfinite(point).all()
    return (point + 0.0 if is_rest else None), kernel


def _window(axes: Axes, z: Array, starts: Array, rest: Array | None, *, is_own: bool) -> list[tuple[float, float]]:
    """Limits that include trajectories and a near equilibrium; those that a user has set are kept."""
    points = np.concatenate([z.reshape(-1, 2), starts])
    points = points[np.isfinite(points).all(-1)]
    low, high = points.min(0), points.max(0)
    least = 1e-6 * float(np.abs(points).max())  # smaller movements are taken as one point
    if rest is not None:
        distance = float(np.abs(np.clip(rest, low, high) - rest).max())
        if distance <= FAR * (high - low).max() or (high - low).max() <= least:
            low, high = np.minimum(low, rest), np.maximum(high, rest)
            reach = np.maximum(rest - low, high - rest) / 2  # so that the equilibrium is inside the window
            low, high = np.minimum(low, rest - reach), np.maximum(high, rest + reach)
    sizes, middle = high - low, (low + high) / 2
    size = float(sizes.max()) if sizes.max() > least else float(np.abs(middle).max()) or 1.0
    half = (0.5 + MARGIN) * np.where(sizes < 0.1 * size, size, sizes)  # one scale if a state hardly moves
    limits = [(float(x - r), float(x + r)) for x, r in zip(middle, half)]
    free = axes.get_autoscalex_on(), axes.get_autoscaley_on()
    set_ones = axes.get_xlim(), axes.get_ylim()
    return [limits[i] if is_own or free[i] else set_ones[i] for i in (0, 1)]


def _is_within(point: Array, *limits: tuple[float, float]) -> bool:
    return all(min(pair) <= x <= max(pair) for x, pair in zip(point, limits))


def _draw_field(axes: Axes, Xi: Array, b: Array, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
    x, y = (np.linspace(min(limits), max(limits), GRID) for limits in (x_limits, y_limits))
    points = np.stack(np.meshgrid(x, y), -1)
    field = points @ Xi.T + b
    if field.any() and np.abs((*x_limits, *y_limits)).max() < FIELD_LIMIT:
        field = field / np.abs(field / [np.ptp(x), np.ptp(y)]).max()  # squares must neither overflow nor vanish
        axes.streamplot(
            x, y, field[..., 0], field[..., 1], color=FIELD, linewidth=0.7, arrowsize=0.8, density=1.1, zorder=1
        )


def _draw_lines(axes: Axes, Xi: Array, rest: Array | None, kernel: Array) -> list[Line2D]:
    """Draw eigenvectors through the equilibrium, and the line of equilibria; returns their legend handles."""
    handles: list[Line2D] = []
    if rest is None or not Xi.any():
        return handles
    if len(kernel):
        axes.axline(_pair(rest), _pair(rest + kernel[0]), color=COLOURS[6], lw=1.2, zorder=2)
        handles.append(Line2D([], [], color=COLOURS[6], lw=1.2, label="equilibria"))
    lam, V = np.linalg.eig(Xi)
    is_every_direction = np.abs(Xi - lam[0].real * np.eye(2)).max() <= ZERO * np.abs(Xi).max()
    if np.iscomplexobj(lam) or is_every_direction:
        return handles
    directions: list[Array] = list(kernel)
    for x, v in sorted(zip(lam, V.T), key=lambda pair: pair[0]):
        if all(abs(v[0] * w[1] - v[1] * w[0]) > SAME for w in directions):
            directions.append(v)
            i = len(handles) + 1
            style: dict[str, Any] = {"color": COLOURS[i], "lw": 1.4, "ls": DASHES[i]}
            axes.axline(_pair(rest), _pair(rest + v), zorder=2, **style)
            handles.append(Line2D([], [], label=f"eigenvector, λ = {x:.4g}", **style))
    return handles


def _pair(point: Array) -> tuple[float, float]:
    return float(point[0]), float(point[1])
