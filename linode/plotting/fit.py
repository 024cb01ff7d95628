"""Data, fitted curves and their 95 % bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..errors import OptionError, ShapeError
from .theme import COLOURS, INK, add_labels, add_legend, check_text, make_axes, make_names
from .values import Array, as_array, as_times, chosen, is_logarithmic, is_number

MOST = 6  # channels, or trajectories, drawn by default
N_TIMES, MOST_TIMES, PER_PERIOD = 600, 3000, 24  # points of a curve: at least, at most, per period of the fastest mode
Z = 1.959964  # standard deviations on each side that hold 95 %
MANY = 300  # samples of a channel above which its dots are smaller


class Fitted(Protocol):
    """The attributes of a `FitResult` that are drawn."""

    sigma: Any
    eigenvalues: Any

    @property
    def observations(self) -> list[tuple[Array, Array]]: ...

    def predict(self, t: Any, z0: Any = None, u: Any = None) -> Any: ...
    def predict_stderr(self, t: Any, k: int = 0) -> Any: ...


def plot_fit(
    result: Fitted,
    ax: Axes | FigureBase | None = None,
    *,
    channels: Sequence[int | str] | None = None,
    trajectories: Sequence[int] | None = None,
    ahead: float = 0.0,
    band: bool = True,
    held_out: Sequence[tuple[Any, Any]] | None = None,
    labels: Sequence[str] | None = None,
    xlabel: str = "time",
    ylabel: str | None = None,
) -> Axes:
    """Data as dots, the fitted curves, and 95 % bands for new observations.

    A band holds 95 % of new observations at each single time: it includes noise, and errors of Xi and initial states.
    If sigma was given for each value, the noise of new values is unknown, and bands are those of the curves. There is
    no band where errors are infinite. Bands assume that the model is right and the noise independent: where residuals
    are correlated in time, they are too narrow, for forecasts by far.

    Args:
        result: of `linode.fit`.
        ax: matplotlib axes, or a figure, which gets new axes; None: pyplot's current axes if they are empty, else a new
            figure of pyplot's.
        channels: which ones, from 0 on or by name; None: all, or the six that vary most.
        trajectories: which ones; None: all, or the first six.
        ahead: time after the last sample of each trajectory until which the curve goes on, dashed.
        band: whether to draw bands, which takes some tenths of a second for each trajectory.
        held_out: data that were not fitted, drawn as hollow dots: for each trajectory times (T,) and values (T, p).
        labels: names of all channels; None: y1, y2, ...; `FitResult.plot` passes those of the data.
        xlabel, ylabel: of the axes, with units.

    Raises:
        OptionError: channels or trajectories are out of range, ahead is negative, labels are too few or too many.
        DtypeError: ax is not matplotlib axes, labels are no texts.
        ShapeError: held_out has not a pair of (T,) and (T, p) for each trajectory.

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> result = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
        >>> ax = result.plot(ahead=1.0, xlabel="time (h)")
        >>> ax.get_xlabel()
        'time (h)'
    """
    if not (is_number(ahead) and 0 <= ahead < np.inf):
        raise OptionError(f"ahead must be a time of at least 0, got {ahead!r}")
    check_text(xlabel=xlabel, ylabel=ylabel)
    observations = result.observations
    K, p = len(observations), observations[0][1].shape[1]
    variance = np.nanvar(np.concatenate([y for _, y in observations]), axis=0)
    later_data = [] if held_out is None else _held_out(held_out, K, p)
    names = make_names("labels", labels, p, "channel")
    shown = chosen("channels", channels, p, np.argsort(-variance, kind="stable"), MOST, names)
    drawn = chosen("trajectories", trajectories, K, np.arange(K), MOST)
    axes, is_own = make_axes(ax, height=3.8 if len(shown) * len(drawn) <= MOST // 2 else 4.8)
    fastest = float(np.abs(as_array(result.eigenvalues, "eigenvalues").imag).max(initial=0.0))
    # predict needs times for all trajectories; one time for those that are not drawn
    times = [_dense(t, ahead, fastest) if k in drawn else t[:1] for k, (t, _) in enumerate(observations)]
    with np.errstate(over="ignore", invalid="ignore"):  # a forecast may overflow; then the curve ends
        curves = result.predict(times if K > 1 else times[0])
    curves = curves if isinstance(curves, list) else [curves]
    noise = _noise(result.sigma, p)
    several, any_band = len(shown) > 1, False
    band = band and getattr(result, "stderr", ()) is not None  # else a fit without standard errors
    for k in drawn:
        (t, y), dense, curve = observations[k], times[k], _columns(curves[k])
        seen, later = dense <= t[-1], dense >= t[-1]
        width = (
            Z * np.hypot(_columns(result.predict_stderr(dense, k)), 0.0 if noise is None else noise) if band else None
        )
        for i, j in enumerate(shown):
            colour = COLOURS[i % MOST]
            ink = colour if several else INK
            axes.plot(t, y[:, j], "o", color=ink, alpha=0.5, ms=3 if len(t) < MANY else 2, mew=0, zorder=1.9)
            axes.plot(dense[seen], curve[seen, j], color=colour, lw=1.3)
            if later_data:
                times_of, values = later_data[k]
                hollow: dict[str, Any] = {"mfc": "none", "mec": ink, "mew": 0.6, "ms": 3.5 if len(t) < MANY else 2}
                axes.plot(times_of, values[:, j], "o", alpha=0.7, zorder=1.9, **hollow)
            if ahead:
                axes.plot(dense[later], curve[later, j], "--", color=colour, lw=1.3)
            if width is not None and np.isfinite(width[:, j]).all():
                any_band = True
                low, high = curve[:, j] - width[:, j], curve[:, j] + width[:, j]
                axes.fill_between(dense, low, high, color=colour, alpha=0.18, lw=0)
    if is_own and all(is_logarithmic(observations[k][0]) for k in drawn):
        axes.set_xscale("log")
    axes.margins(x=0.01)
    alone = "observations" if several or (p == 1 and labels is None) else names[shown[0]]
    add_labels(axes, xlabel, alone if ylabel is None else ylabel)
    ink = INK if several else COLOURS[0]
    handles: list[Any] = [Line2D([], [], color=COLOURS[i % MOST], lw=3, label=names[j]) for i, j in enumerate(shown)]
    handles = handles if several else []
    handles.append(Line2D([], [], ls="", marker="o", ms=3, mew=0, color=INK, label="data"))
    if later_data:
        handles.append(Line2D([], [], ls="", marker="o", ms=3.5, mew=0.8, mfc="none", mec=INK, label="held out"))
    handles.append(Line2D([], [], color=ink, lw=1.3, label="fit"))
    if ahead:
        handles.append(Line2D([], [], color=ink, lw=1.3, ls="--", label="forecast"))
    if any_band:
        words = "95 % band" if noise is not None else "95 % band of the fit"
        handles.append(Patch(color=ink, alpha=0.18, lw=0, label=words))
    notes = []
    if channels is None and len(shown) < p:
        notes.append(f"{len(shown)} of {p} channels,\nthose that vary most")
    if trajectories is None and len(drawn) < K:
        notes.append(f"first {len(drawn)} of {K}\ntrajectories")
    add_legend(axes, handles, is_own=is_own, title="\n".join(notes))
    return axes


def _held_out(held_out: Any, K: int, p: int) -> list[tuple[Array, Array]]:
    """Times (T,) and values (T, p) of each trajectory, checked."""
    pairs = list(held_out)
    if len(pairs) != K or any(len(pair) != 2 for pair in pairs):
        raise ShapeError(f"held_out must hold a pair of times and values for each of {K} trajectories")
    found = []
    for k, (t, y) in enumerate(pairs):
        times, values = as_times(t, f"held_out[{k}]"), _columns(y)
        if times.ndim != 1 or values.shape != (len(times), p):
            raise ShapeError(
                f"held_out[{k}] has times of shape {times.shape} and values of shape {values.shape}; "
                f"they must be (T,) and (T, p) with p = {p}"
            )
        found.append((times, values))
    return found


def _columns(y: Any) -> Array:
    y = as_array(y, "y")
    return y[:, None] if y.ndim == 1 else y


def _noise(sigma: Any, p: int) -> Array | None:
    """Standard deviation of new observations, (p,); None where sigma was given for each value."""
    if isinstance(sigma, (list, tuple)) and any(np.ndim(x) for x in sigma):
        return None
    size = as_array(sigma, "sigma")
    return np.broadcast_to(size, (p,)) if size.shape in ((), (1,), (p,)) else None


def _dense(t: Array, ahead: float, fastest: float) -> Array:
    """Times at which a curve is drawn: uniform in time, uniform in the number of the sample, and the samples.

    The second kind is for samples whose gaps differ by orders of magnitude. fastest: largest angular frequency.
    """
    periods = fastest * (t[-1] + ahead - t[0]) / (2 * np.pi)
    even = np.linspace(t[0], t[-1] + ahead, int(np.clip(PER_PERIOD * periods, N_TIMES, MOST_TIMES)))
    between = np.interp(np.linspace(0.0, len(t) - 1.0, N_TIMES), np.arange(len(t)), t)
    return np.unique(np.concatenate([even, between, t[:: max(1, len(t) // N_TIMES)], t[-1:]]))
