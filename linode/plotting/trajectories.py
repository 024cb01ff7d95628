"""States over time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D

from ..errors import DtypeError, ShapeError
from .theme import COLOURS, DASHES, INK, LARGEST, MARKERS, add_labels, add_legend, check_text, make_axes, make_names
from .values import Array, as_array, as_times, chosen, is_logarithmic

MOST_STATES, MOST_TRAJECTORIES = 20, 50  # drawn by default
MOST_DOTS = 24  # samples up to which each has a dot
HUGE = 1e100  # a linear axis of larger values shows nothing but the last instant
N_MARKERS = 6  # on a curve of complex states


def plot_trajectories(
    t: Any,
    z: Any,
    ax: Axes | FigureBase | None = None,
    *,
    labels: Sequence[str] | None = None,
    states: Sequence[int | str] | None = None,
    trajectories: Sequence[int] | None = None,
    xlabel: str = "time",
    ylabel: str | None = None,
) -> Axes:
    """States over time, one colour and dash pattern for each; samples in order of time, joined by straight lines.

    Trajectories of a batch share the style of their state; where only one state is shown, up to seven of them have
    their own styles. Real parts of complex states are solid and imaginary ones dashed, and markers distinguish states.
    Up to 24 samples, and those without neighbours, have dots. NaN, infinity and values beyond 1e300 are gaps, which the
    legend counts.

    Args:
        t: times, (T,) or (*batch, T), in any order; a number; or a list of (T_k,).
        z: states, (*batch, T, n), as from `LinearODE`; (T,) is a single state; (*batch, n) where t is a number; a list
            of (T_k, n) or (T_k,) where t is a list. Tensors or arrays.
        ax: matplotlib axes, or a figure, which gets new axes; None: pyplot's current axes if they are empty, else a new
            figure of pyplot's. In new axes time is logarithmic if samples are spaced so, and so is z if it passes
            1e100.
        labels: names of all states; None: z1, z2, ...; `Solution.plot` passes those of the system.
        states: which ones, from 0 on or by name; None: all, or the 20 that vary most.
        trajectories: which ones of a batch; None: all, or the first 50.
        xlabel, ylabel: of the axes, with units. ylabel None: "state", or the label of a single one.

    Raises:
        ShapeError: t and z do not fit together. NonFiniteError: t is not finite.
        DtypeError: an argument is of a type that cannot be used.
        OptionError: states or trajectories are out of range, labels are too few or too many.

    Example:
        >>> import numpy as np, linode
        >>> from linode.plotting import plot_trajectories
        >>> t = np.linspace(0.0, 10.0, 200)
        >>> z = linode.LinearODE([[0.0, 1.0], [-4.0, -0.5]], [1.0, 0.0])(t)
        >>> ax = plot_trajectories(t, z, labels=["position (m)", "velocity (m/s)"], xlabel="time (s)")
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['position (m)', 'velocity (m/s)']
    """
    check_text(xlabel=xlabel, ylabel=ylabel)
    pairs = paired(t, z)
    K, n = len(pairs), pairs[0][1].shape[1]
    names = make_names("labels", labels, n, "state")
    drawn = chosen("trajectories", trajectories, K, np.arange(K), MOST_TRAJECTORIES)
    shown = chosen("states", states, n, _by_variation([pairs[k][1] for k in drawn]), MOST_STATES, names)
    is_complex = any(np.iscomplexobj(pairs[k][1]) for k in drawn)
    by_trajectory = len(shown) == 1 and 1 < len(drawn) <= len(COLOURS)
    count = len(drawn) if by_trajectory else len(shown)
    axes, is_own = make_axes(ax, height=3.8 if count < 12 else 4.8)
    is_marked = (is_complex and count > 1) or max(len(pairs[k][0]) for k in drawn) <= MOST_DOTS
    n_gaps = 0
    for row, k in enumerate(drawn):
        times, values = pairs[k]
        order = np.argsort(times, kind="stable")
        for i, j in enumerate(shown):
            curve = values[order, j]
            is_seen = np.abs(curve) < LARGEST
            n_gaps += len(curve) - int(is_seen.sum())
            number, n_alike = (row, 1) if by_trajectory else (i, len(drawn))
            style = _style(number, is_complex, is_marked, n_alike)
            for part, dashes in _parts(curve, is_complex, style["ls"]):
                (line,) = axes.plot(times[order], np.where(is_seen, part, np.nan), **{**style, "ls": dashes})
                _mark(line, is_seen, row + i)
    if is_own:
        _scale(axes, [pairs[k] for k in drawn], shown)
    one = names[shown[0]] if len(shown) == 1 and (labels is not None or n > 1) else "state"
    add_labels(axes, xlabel, one if ylabel is None else ylabel)
    words = [f"trajectory {k}" for k in drawn] if by_trajectory else [names[j] for j in shown]
    handles = [Line2D([], [], label=name, **_style(i, is_complex, is_marked, 1)) for i, name in enumerate(words)]
    handles = handles if count > 1 else []
    if is_complex:
        ink = INK if count > 1 else COLOURS[0]
        both = _parts(np.zeros(0), is_complex, "-")
        names_of_parts = ("real part", "imaginary part")
        handles += [Line2D([], [], color=ink, lw=1.4, ls=ls, label=name) for (_, ls), name in zip(both, names_of_parts)]
    notes = []
    if states is None and len(shown) < n:
        notes.append(f"{len(shown)} of {n} states,\nthose that vary most")
    if trajectories is None and len(drawn) < K:
        notes.append(f"first {len(drawn)} of {K}\ntrajectories")
    if n_gaps:
        notes.append(f"{n_gaps} value{'s' * (n_gaps > 1)} not finite\nor beyond 1e300")
    if handles or notes:
        add_legend(axes, handles, is_own=is_own, title="\n".join(notes))
    return axes


def paired(t: Any, z: Any) -> list[tuple[Array, Array]]:
    """Times (T,) and states (T, n) of each trajectory."""
    if isinstance(t, (list, tuple)) and any(np.ndim(x) > 0 for x in t):
        if not hasattr(z, "__len__") or isinstance(z, str):
            raise DtypeError(f"z is a {type(z).__name__}; it must hold one array for each of {len(t)} trajectories")
        if len(z) != len(t):
            raise ShapeError(f"t holds {len(t)} arrays and z {len(z)}; they must hold one for each trajectory")
        pairs = [
            _one(as_times(x, f"t[{k}]"), as_array(y, f"z[{k}]"), f"t[{k}]", f"z[{k}]")
            for k, (x, y) in enumerate(zip(t, z))
        ]
    else:
        times, values = as_times(t, "t"), as_array(z, "z")
        if times.ndim == 0:
            times, values = times[None], values[..., None, :] if values.ndim else values[None]
        if values.ndim < 2:
            pairs = [_one(times, values, "t", "z")]
        else:
            T, n = values.shape[-2:]
            try:
                spread = np.broadcast_to(times, (*values.shape[:-2], T))
            except ValueError:
                raise ShapeError(
                    f"z has shape {values.shape} and t {times.shape}; z must be (*batch, T, n), t (T,) or (*batch, T)"
                ) from None
            if times.shape[-1] != T:
                raise ShapeError(f"z has shape {values.shape}, but there are {times.shape[-1]} times in t")
            K = prod(values.shape[:-2])
            pairs = list(zip(spread.reshape(K, T), values.reshape(K, T, n)))
    if not pairs:
        raise ShapeError("z holds no trajectory")
    counts = {values.shape[1] for _, values in pairs}
    if len(counts) > 1 or 0 in counts:
        raise ShapeError(f"z holds trajectories of {sorted(counts)} states; they must have the same, at least one")
    return pairs


def _one(t: Array, z: Array, t_name: str, z_name: str) -> tuple[Array, Array]:
    if t.ndim != 1 or z.ndim not in (1, 2) or len(z) != len(t):
        raise ShapeError(
            f"{z_name} has shape {z.shape} and {t_name} {t.shape}; {z_name} must be (T, n) or (T,) for {t_name} (T,)"
        )
    return t, z if z.ndim == 2 else z[:, None]


def _by_variation(curves: list[Array]) -> Array:
    """Numbers of the states by their range over all trajectories, the largest first."""
    z = np.concatenate(curves)
    z = np.where(np.abs(z) < LARGEST, z, np.nan)
    if not len(z):
        return np.arange(z.shape[1])
    parts = np.concatenate([z.real, z.imag], axis=0) if np.iscomplexobj(z) else z
    high, low = (f(np.where(np.isfinite(parts), parts, x), axis=0) for f, x in ((np.max, -np.inf), (np.min, np.inf)))
    return np.argsort(-np.maximum(high - low, -1.0), kind="stable")


def _style(i: int, is_complex: bool, is_marked: bool, n_alike: int) -> dict[str, Any]:
    """The style of a curve, which n_alike curves share; complex states use dashes for their imaginary parts."""
    style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "lw": 1.4}
    style["ls"] = "-" if is_complex else DASHES[i % len(DASHES)]
    if n_alike > 1:
        style |= {"lw": 1.0, "alpha": max(0.25, 1.0 - 0.1 * n_alike)}
    return style | ({"marker": MARKERS[i % len(MARKERS)], "ms": 4.0} if is_marked else {})


def _parts(curve: Array, is_complex: bool, dashes: Any) -> list[tuple[Array, Any]]:
    return [(curve.real, "-"), (curve.imag, DASHES[1])] if is_complex else [(curve, dashes)]


def _mark(line: Line2D, is_seen: Array, number: int) -> None:
    """Mark all of few samples, those without neighbours, and some of many where markers distinguish curves."""
    T = len(is_seen)
    joined = np.zeros(T, bool)
    both = is_seen[1:] & is_seen[:-1]
    joined[1:] |= both
    joined[:-1] |= both
    where = np.flatnonzero(is_seen if T <= MOST_DOTS else is_seen & ~joined)
    if line.get_marker() == "None":
        line.set(marker=".", markersize=5.0)
    elif T > MOST_DOTS:
        step = T // N_MARKERS
        where = np.union1d(where, np.arange(number % N_MARKERS * step // N_MARKERS, T, step))
    line.set_markevery(where.tolist())


def _scale(axes: Axes, pairs: list[tuple[Array, Array]], shown: list[int]) -> None:
    axes.margins(x=0.01)
    times = [np.unique(t[t > 0]) for t, _ in pairs]
    if all((t >= 0).all() for t, _ in pairs) and all(len(t) and is_logarithmic(t) for t in times):
        axes.set_xscale("log")
        axes.autoscale_view()
    z = np.concatenate([np.abs(z[:, shown]).ravel() for _, z in pairs])
    z = z[(z < LARGEST) & (z > 0)]
    if len(z) and z.max() > HUGE:
        axes.margins(y=0.01)  # a wider margin overflows
        least = max(1e-3, float(np.quantile(z, 0.01)))
        axes.set_yscale("symlog", linthresh=least, linscale=0.05 * np.log10(z.max() / least))
