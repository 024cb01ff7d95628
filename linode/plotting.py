"""Pictures of fits. Needs matplotlib: pip install 'linode-torch[plot]'.

Each function draws into the `ax` that it is given, or a new figure, and returns the `ax`; `ax.figure.savefig(path)`.
Colours are those of Okabe & Ito (2008), which people with colour-blindness tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from .errors import OptionError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse
except ImportError as error:
    raise ImportError("linode.plotting needs matplotlib: pip install 'linode-torch[plot]'") from error

Array = NDArray[Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
N_TIMES = 600  # of a curve
Z = 1.959964  # of a 95 % band
MOST_CHANNELS = len(COLOURS)
WIDE = 300.0  # ratio of late gaps to early ones from which on the axis of time is logarithmic


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
    ahead: float = 0.0,
    band: bool = True,
) -> Axes:
    """Data as dots, the fitted curves, and 95 % bands for observations without those data.

    Args:
        result: of `linode.fit`.
        channels: which ones; None: all, or the six that vary most.
        ahead: how far beyond the last sample, units of time; there the curve is dashed.
        band: whether to draw bands, which take some tenths of a second.

    Raises:
        OptionError: channels are out of range, ahead is negative.

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> result = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
        >>> ax = result.plot(ahead=1.0)
        >>> ax.get_xlabel()
        'time'
    """
    if not (np.isfinite(ahead) and ahead >= 0):
        raise OptionError(f"ahead must be a time of at least 0, got {ahead!r}")
    observations = result.observations
    p = observations[0][1].shape[1]
    shown = _shown(observations, channels)
    axes = _new_axes() if ax is None else ax
    times = [_dense(t, ahead) for t, _ in observations]
    curves = [
        _columns(y) for y in _lists(result.predict(times if len(times) > 1 else times[0], None, None), len(times))
    ]
    sigma = np.broadcast_to(_array(result.sigma) if np.ndim(result.sigma) <= 1 else np.nan, (p,))
    for k, ((t, y), dense, curve) in enumerate(zip(observations, times, curves)):
        width = Z * np.hypot(_columns(result.predict_stderr(dense, k)), sigma) if band else None
        seen = dense <= t[-1]
        for i, j in enumerate(shown):
            colour = COLOURS[i % len(COLOURS)]
            name = (f"channel {j}" if p > 1 else "data") if k == 0 else None
            axes.plot(t, y[:, j], ".", color=colour, ms=4, alpha=0.55, mew=0, label=name)
            axes.plot(dense[seen], curve[seen, j], color=colour, lw=1.5, label="fit" if p == 1 and k == 0 else None)
            if ahead:
                label = "forecast" if i == 0 and k == 0 else None
                later = dense >= t[-1]
                axes.plot(dense[later], curve[later, j], "--", color=colour, lw=1.5, label=label)
            if width is not None and np.isfinite(width[:, j]).all():
                low, high = curve[:, j] - width[:, j], curve[:, j] + width[:, j]
                label = "95 % of observations" if i == 0 and k == 0 else None
                axes.fill_between(dense, low, high, color=colour, alpha=0.15, lw=0, label=label)
    if ax is None and all(_is_logarithmic(t) for t, _ in observations):
        axes.set_xscale("log")
    axes.set(xlabel="time", ylabel="observations" if len(shown) > 1 or p == 1 else f"channel {shown[0]}")
    if len(shown) < p and channels is None:
        axes.set_title(f"the {len(shown)} of {p} channels that vary most", fontsize="medium")
    axes.legend(frameon=False, fontsize="small", ncols=2 if len(shown) > 3 else 1)
    axes.margins(x=0.01)
    return axes


def plot_eigenvalues(result: Fitted, ax: Axes | None = None, *, level: float = 0.95) -> Axes:
    """Eigenvalues in the complex plane with the ellipses that hold the true ones with probability `level`.

    Those of real eigenvalues are bars. The half-plane in which modes grow is shaded.

    Raises:
        OptionError: level is not between 0 and 1.

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> result = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
        >>> result.plot_eigenvalues().get_xlabel()
        'Re λ: growth (1/time)'
    """
    if not 0 < level < 1:
        raise OptionError(f"level must be between 0 and 1, got {level!r}")
    lam, spread = _array(result.eigenvalues), _array(result.eigenvalue_covariance)
    axes = _new_axes() if ax is None else ax
    plane, line = (np.sqrt(chdtri(dof, 1 - level)) for dof in (2, 1))
    for x, covariance in zip(lam, spread):
        if not np.isfinite(covariance).all():
            continue
        if x.imag == 0:
            width = line * np.sqrt(max(covariance[0, 0], 0.0))
            axes.errorbar(x.real, 0.0, xerr=width, color=COLOURS[0], capsize=3, lw=1.2)
            continue
        sizes, directions = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
        minor, major = 2 * plane * np.sqrt(np.maximum(sizes, 0.0))
        axes.add_patch(Ellipse((x.real, x.imag), major, minor, angle=angle, fc=COLOURS[0], ec=COLOURS[0], alpha=0.25))
    axes.plot(lam.real, lam.imag, "o", color=COLOURS[0], ms=4, label=f"eigenvalues, {level:.0%} regions")
    axes.autoscale_view()
    low, high = axes.get_xlim()
    reach = max(high, 0.05 * (high - low), 0.0)
    axes.set_xlim(low, reach)
    axes.axvspan(0.0, reach, color="0.5", alpha=0.12, lw=0, label="growth")
    for draw in (axes.axhline, axes.axvline):
        draw(0.0, color="0.6", lw=0.8, zorder=0)
    axes.set(xlabel="Re λ: growth (1/time)", ylabel="Im λ: angular frequency (1/time)")
    axes.legend(frameon=False, fontsize="small")
    return axes


def _new_axes() -> Axes:
    return Figure(figsize=(7.0, 4.2), layout="constrained").subplots()


def _array(x: Any) -> Array:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def _columns(y: Any) -> Array:
    y = _array(y)
    return y[:, None] if y.ndim == 1 else y


def _lists(y: Any, count: int) -> list[Any]:
    return list(y) if isinstance(y, list) else [y] * count


def _dense(t: Array, ahead: float) -> Array:
    """Times to draw a curve at: dense ones and those of the samples, which may lie apart by orders of magnitude."""
    return np.unique(
        np.concatenate([np.linspace(t[0], t[-1] + ahead, N_TIMES), t[:: max(1, len(t) // N_TIMES)], t[-1:]])
    )


def _is_logarithmic(t: Array) -> bool:
    """Whether samples are dense at first and sparse later, by orders of magnitude."""
    gaps = np.diff(t)
    return bool(t[0] > 0 and np.median(gaps[-len(gaps) // 4 :]) > WIDE * np.median(gaps[: 1 + len(gaps) // 4]))


def _shown(observations: list[tuple[Array, Array]], channels: Sequence[int] | None) -> list[int]:
    p = observations[0][1].shape[1]
    if channels is not None:
        for j in channels:
            if not (isinstance(j, (int, np.integer)) and 0 <= j < p):
                raise OptionError(f"channels must be of 0 to {p - 1}, got {j!r}")
        if not len(channels):
            raise OptionError("channels is empty")
        return [int(j) for j in channels]
    variance = np.nanvar(np.concatenate([y for _, y in observations]), axis=0)
    return sorted(np.argsort(-variance, kind="stable")[:MOST_CHANNELS].tolist())
