"""Pictures of fits. Needs matplotlib: pip install 'linode-torch[plot]'.

Each function draws into the `ax` that it is given, or into a new figure, and returns it; `ax.figure.savefig(path)`.
Colours are those of Okabe & Ito (2008), which people with colour-blindness tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from .errors import DtypeError, OptionError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse, Patch, Rectangle
except ImportError as error:
    raise ImportError("linode.plotting needs matplotlib: pip install 'linode-torch[plot]'") from error

Array = NDArray[Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MOST = len(COLOURS)  # channels, or trajectories, that one picture shows unasked
N_TIMES, MOST_TIMES, PER_PERIOD = 600, 3000, 24  # of a curve
Z = 1.959964  # standard deviations on each side that hold 95 %
WIDE = 300.0  # ratio of gaps between times, or of decay rates, from which on their axis is logarithmic
MANY = 300  # dots of a channel, from which on they are smaller
INK, STABLE = "0.35", "0.94"


class Fitted(Protocol):
    """What of a `FitResult` is drawn."""

    sigma: Any
    eigenvalues: Any
    eigenvalue_covariance: Any
    observations: list[tuple[Array, Array]]

    def predict(self, t: Any, z0: Any = None, u: Any = None) -> Any: ...
    def predict_stderr(self, t: Any, k: int = 0) -> Any: ...


def plot_fit(
    result: Fitted,
    ax: Axes | None = None,
    *,
    channels: Sequence[int] | None = None,
    trajectories: Sequence[int] | None = None,
    ahead: float = 0.0,
    band: bool = True,
) -> Axes:
    """Data as dots, the fitted curves, and 95 % bands for new observations.

    A band holds 95 % at each time by itself: noise, and what the data leave open of Xi and of initial states. Where
    sigma is one of each value, the noise of new ones is unknown, and bands are those of the curves. There is no band
    where errors are infinite. All this takes the model to be right and the noise to be independent: where residuals
    hang together in time, bands are too narrow, those of forecasts by far.

    Args:
        result: of `linode.fit`.
        ax: matplotlib axes; None: those of a new figure.
        channels: which ones; None: all, or the six that vary most.
        trajectories: which ones; None: all, or the first six.
        ahead: how far beyond the last sample of each trajectory, units of time; there the curve is dashed.
        band: whether to draw bands, which take some tenths of a second for each trajectory.

    Raises:
        OptionError: channels or trajectories are out of range, ahead is negative.
        DtypeError: ax is not matplotlib axes.

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> result = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
        >>> ax = result.plot(ahead=1.0)
        >>> ax.get_xlabel()
        'time'
    """
    if not (_is_number(ahead) and 0 <= ahead < np.inf):
        raise OptionError(f"ahead must be a time of at least 0, got {ahead!r}")
    observations = result.observations
    K, p = len(observations), observations[0][1].shape[1]
    variance = np.nanvar(np.concatenate([y for _, y in observations]), axis=0)
    shown = _chosen("channels", channels, p, np.argsort(-variance, kind="stable"))
    drawn = _chosen("trajectories", trajectories, K, np.arange(K))
    axes = _make_axes(ax, height=3.8 if len(shown) * len(drawn) <= MOST // 2 else 4.8)
    fastest = float(np.abs(_array(result.eigenvalues).imag).max(initial=0.0))
    # of those that are not drawn the curve is asked for at one time: predict answers for all
    times = [_dense(t, ahead, fastest) if k in drawn else t[:1] for k, (t, _) in enumerate(observations)]
    with np.errstate(over="ignore", invalid="ignore"):  # a forecast may grow out of range; then the curve ends
        curves = result.predict(times if K > 1 else times[0])
    curves = curves if isinstance(curves, list) else [curves]
    noise = _noise(result.sigma, p)
    several, any_band = len(shown) > 1, False
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
            if ahead:
                axes.plot(dense[later], curve[later, j], "--", color=colour, lw=1.3)
            if width is not None and np.isfinite(width[:, j]).all():
                any_band = True
                low, high = curve[:, j] - width[:, j], curve[:, j] + width[:, j]
                axes.fill_between(dense, low, high, color=colour, alpha=0.18, lw=0)
    if ax is None and all(_is_logarithmic(observations[k][0]) for k in drawn):
        axes.set_xscale("log")
    axes.margins(x=0.01)
    axes.set(xlabel="time", ylabel="observations" if several or p == 1 else f"channel {shown[0]}")
    ink = INK if several else COLOURS[0]
    handles: list[Any] = [
        Line2D([], [], color=COLOURS[i % MOST], lw=3, label=f"channel {j}") for i, j in enumerate(shown)
    ]
    handles = handles if several else []
    handles.append(Line2D([], [], ls="", marker="o", ms=3, mew=0, color=INK, label="data"))
    handles.append(Line2D([], [], color=ink, lw=1.3, label="fit"))
    if ahead:
        handles.append(Line2D([], [], color=ink, lw=1.3, ls="--", label="forecast"))
    if any_band:
        name = "95 % band" if noise is not None else "95 % band of the fit"
        handles.append(Patch(color=ink, alpha=0.18, lw=0, label=name))
    notes = []
    if channels is None and len(shown) < p:
        notes.append(f"{len(shown)} of {p} channels,\nthose that vary most")
    if trajectories is None and len(drawn) < K:
        notes.append(f"first {len(drawn)} of {K}\ntrajectories")
    _add_legend(axes, handles, is_own=ax is None, title="\n".join(notes))
    return axes


def plot_eigenvalues(result: Fitted, ax: Axes | None = None, *, level: float = 0.95) -> Axes:
    """Eigenvalues in the complex plane with the ellipses that hold the true ones with probability `level`.

    Those of real eigenvalues are bars; there are none where the covariance is infinite. The half-plane in which modes
    decay is shaded.

    Args:
        result: of `linode.fit`.
        ax: matplotlib axes; None: those of a new figure, where decay rates that differ by orders of magnitude get a
            logarithmic axis.
        level: of each eigenvalue by itself, between 0 and 1.

    Raises:
        OptionError: level is not between 0 and 1.
        DtypeError: ax is not matplotlib axes.

    Source: Johnson & Wichern (2007), Applied Multivariate Statistical Analysis, result 4.7 (ellipses by chi^2).

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> result = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
        >>> result.plot_eigenvalues().get_xlabel()
        'Re λ, growth rate (1/time)'
    """
    if not (_is_number(level) and 0 < level < 1):
        raise OptionError(f"level must be between 0 and 1, got {level!r}")
    lam, spread = _array(result.eigenvalues), _array(result.eigenvalue_covariance)
    axes, colour = _make_axes(ax), COLOURS[0]
    known = np.isfinite(spread).all((1, 2))
    plane, line = (np.sqrt(chdtri(dof, 1 - level)) for dof in (2, 1))
    for x, covariance in zip(lam[known], spread[known]):
        if x.imag == 0:
            width = line * np.sqrt(max(covariance[0, 0], 0.0))
            axes.errorbar(x.real, 0.0, xerr=width, color=colour, capsize=3, lw=1.2)
            continue
        sizes, directions = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
        minor, major = 2 * plane * np.sqrt(np.maximum(sizes, 0.0))
        axes.add_patch(Ellipse((x.real, x.imag), major, minor, angle=angle, fc=(colour, 0.2), ec=colour, lw=1.0))
    axes.plot(lam.real, lam.imag, "o", color=colour, ms=4, mew=0, zorder=3)
    for draw in (axes.axhline, axes.axvline):
        draw(0.0, color="0.5", lw=0.8, zorder=0.5)
    axes.autoscale_view()
    far = 1e3 * np.ptp(axes.get_xlim())
    # an artist, not a patch: it leaves the limits alone
    axes.add_artist(Rectangle((-far, 0.0), far, 1.0, transform=axes.get_xaxis_transform(), fc=STABLE, lw=0, zorder=0))
    if ax is None:
        _scale_plane(axes, lam, spread)
    axes.set(xlabel="Re λ, growth rate (1/time)", ylabel="Im λ, angular frequency (1/time)")
    handles: list[Any] = [Line2D([], [], ls="", marker="o", ms=4, mew=0, color=colour, label="eigenvalue")]
    if known.any():
        handles.append(Patch(fc=(colour, 0.2), ec=colour, lw=1.0, label=f"{100 * level:g} % region"))
    handles.append(Patch(color=STABLE, lw=0, label="stable"))
    _add_legend(axes, handles, is_own=ax is None)
    return axes


def _scale_plane(axes: Axes, lam: Array, spread: Array) -> None:
    if not lam.imag.any():
        axes.set(ylim=(-1.0, 1.0), yticks=[0.0])
    with np.errstate(invalid="ignore"):
        clear = np.abs(lam.real[np.abs(lam.real) > 2 * np.sqrt(spread[:, 0, 0])])
    if len(clear) and clear.max() > WIDE * clear.min():
        axes.set_xscale("symlog", linthresh=10.0 ** np.floor(np.log10(clear.min())))
        axes.autoscale_view()


def _make_axes(ax: Any, height: float = 3.8) -> Axes:
    if ax is None:
        axes = Figure(figsize=(7.0, height), layout="constrained").subplots()
        axes.spines[["top", "right"]].set_visible(False)
        return axes
    if not isinstance(ax, Axes):
        raise DtypeError(f"ax is a {type(ax).__name__}; it must be matplotlib axes, such as those of fig.subplots()")
    return ax


def _add_legend(axes: Axes, handles: list[Any], *, is_own: bool, title: str = "") -> None:
    """Beside the axes in a figure of their own, where it hides nothing and a title finds its place."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if is_own else {"loc": "best"}
    legend = axes.legend(
        handles=handles, title=title or None, frameon=False, fontsize="small", title_fontsize="small", **place
    )
    legend.set(alignment="left")


def _array(x: Any) -> Array:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def _columns(y: Any) -> Array:
    y = _array(y)
    return y[:, None] if y.ndim == 1 else y


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def _noise(sigma: Any, p: int) -> Array | None:
    """Standard deviation of new observations, (p,); None where it is that of each value."""
    if isinstance(sigma, (list, tuple)) and any(np.ndim(x) for x in sigma):
        return None
    size = _array(sigma)
    return np.broadcast_to(size, (p,)) if size.shape in ((), (1,), (p,)) else None


def _dense(t: Array, ahead: float, fastest: float) -> Array:
    """Times to draw a curve at: evenly in time, evenly between samples, and the samples.

    Samples may lie apart by orders of magnitude. fastest: angular frequency.
    """
    periods = fastest * (t[-1] + ahead - t[0]) / (2 * np.pi)
    even = np.linspace(t[0], t[-1] + ahead, int(np.clip(PER_PERIOD * periods, N_TIMES, MOST_TIMES)))
    between = np.interp(np.linspace(0.0, len(t) - 1.0, N_TIMES), np.arange(len(t)), t)
    return np.unique(np.concatenate([even, between, t[:: max(1, len(t) // N_TIMES)], t[-1:]]))


def _is_logarithmic(t: Array) -> bool:
    """Whether samples are dense at first and sparse later, by orders of magnitude."""
    gaps = np.diff(np.unique(t))
    quarter = 1 + len(gaps) // 4
    return bool(t[0] > 0 and len(gaps) and np.median(gaps[-quarter:]) > WIDE * np.median(gaps[:quarter]))


def _chosen(name: str, asked: Any, count: int, order: Array) -> list[int]:
    """Those asked for, or the first of the order, ascending."""
    if asked is None:
        return sorted(order[:MOST].tolist())
    if not isinstance(asked, Iterable):
        raise OptionError(f"{name} must be a list of numbers from 0 to {count - 1}, got {asked!r}")
    numbers = list(asked)
    for j in numbers:
        if isinstance(j, (bool, np.bool_)) or not (isinstance(j, (int, np.integer)) and 0 <= j < count):
            raise OptionError(f"{name} must be of 0 to {count - 1}, got {j!r}")
    if not numbers:
        raise OptionError(f"{name} is empty")
    return [int(j) for j in numbers]
