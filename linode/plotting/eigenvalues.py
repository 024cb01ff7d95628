"""Eigenvalues in the complex plane, for fits with confidence regions."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch, Rectangle
from scipy.special import chdtri

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError
from .theme import COLOURS, MARKERS, STABLE, add_labels, add_legend, make_axes
from .values import WIDE, Array, as_array, check_finite, is_number

CLOSE = 0.008  # distance, of the width or height of the axes, below which markers cover each other; by hand


def plot_eigenvalues(system: Any, ax: Axes | FigureBase | None = None, *, level: float = 0.95) -> Axes:
    """Eigenvalues in the complex plane; for a fit with the ellipses that hold the true ones with probability `level`.

    The region of a real eigenvalue is a bar; there is none where the covariance is infinite. The half-plane in which
    modes decay is shaded. Up to seven systems of a batch, or pieces between switches, have a colour and a marker each.
    Numbers such as 2x count eigenvalues whose markers cover each other.

    Args:
        system: of `linode.fit`; or a solver such as `LinearODE`; or Xi, (*batch, n, n), 1/time.
        ax: matplotlib axes, or a figure, which gets new axes; None: pyplot's current axes if they are empty, else a new
            figure of pyplot's. New axes are logarithmic where decay rates differ by orders of magnitude.
        level: probability for each single eigenvalue, between 0 and 1.

    Raises:
        OptionError: level is not between 0 and 1.
        ShapeError, NonFiniteError: Xi cannot be used. DtypeError: the type of system, or of ax, cannot be used.

    Source: Johnson & Wichern (2007), Applied Multivariate Statistical Analysis, result 4.7 (ellipses by chi^2).

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> result = linode.fit(t, np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(40))
        >>> result.plot_eigenvalues().get_xlabel()
        'Re λ, growth rate (1/time)'
        >>> ax = linode.plotting.plot_eigenvalues([[0.0, 1.0], [-4.0, -0.5]])
        >>> [float(x) for x in ax.lines[0].get_xdata()]
        [-0.25, -0.25]
    """
    if not (is_number(level) and 0 < level < 1):
        raise OptionError(f"level must be between 0 and 1, got {level!r}")
    systems, spread = _spectra(system)
    axes, is_own = make_axes(ax)
    several = 1 < len(systems) <= len(COLOURS)
    known = np.isfinite(spread).all((1, 2))
    for x, covariance in zip(systems[0][known], spread[known]):
        _draw_region(axes, x, covariance, level, COLOURS[0])
    alpha = 1.0 if several or len(systems) == 1 else 0.5
    styles = [(COLOURS[i], MARKERS[i]) if several else (COLOURS[0], "o") for i in range(len(systems))]
    for lam, (colour, marker) in zip(systems, styles):
        axes.plot(lam.real, lam.imag, marker, color=colour, ms=4.5, mew=0, zorder=3, alpha=alpha)
    for draw in (axes.axhline, axes.axvline):
        draw(0.0, color="0.5", lw=0.8, zorder=0.5)
    lam = np.concatenate(systems)
    if not lam.imag.any():
        half = np.abs(lam).max() / 2
        axes.update_datalim([(0.0, -half), (0.0, half)])  # else the height of the axes would be rounding
    axes.autoscale_view()
    far = 1e3 * np.ptp(axes.get_xlim())
    # an artist, not a patch, as a patch would change the limits
    axes.add_artist(Rectangle((-far, 0.0), far, 1.0, transform=axes.get_xaxis_transform(), fc=STABLE, lw=0, zorder=0))
    if is_own:
        unclear = np.zeros(len(lam), bool)
        unclear[: len(spread)] = known & (np.abs(systems[0].real) <= 2 * np.sqrt(np.abs(spread[:, 0, 0])))
        _scale_plane(axes, lam, unclear)
    if len(systems) == 1:
        _count_hidden(axes, lam)
    add_labels(axes, "Re λ, growth rate (1/time)", "Im λ, frequency (rad/time)")
    handles: list[Any] = [
        Line2D(
            [], [], ls="", marker=marker, ms=4.5, mew=0, color=colour, label=f"system {i}" if several else "eigenvalue"
        )
        for i, (colour, marker) in enumerate(styles[: len(styles) if several else 1])
    ]
    if known.any():
        handles.append(Patch(fc=(COLOURS[0], 0.2), ec=COLOURS[0], lw=1.0, label=f"{100 * level:g} % region"))
    handles.append(Patch(color=STABLE, lw=0, label="stable"))
    title = "" if several or len(systems) == 1 else f"{len(systems)} systems"
    add_legend(axes, handles, is_own=is_own, title=title, points=np.c_[lam.real, lam.imag])
    return axes


def _spectra(system: Any) -> tuple[list[Array], Array]:
    """Eigenvalues (n,) of each system, and their covariances (n, 2, 2) in the first; infinite if it is no fit."""
    if hasattr(system, "eigenvalue_covariance"):
        lam, spread = as_array(system.eigenvalues, "eigenvalues").astype(complex), system.eigenvalue_covariance
        unknown = np.full((len(lam), 2, 2), np.inf)  # a fit without standard errors
        return [lam], unknown if spread is None else as_array(spread, "covariance")
    if isinstance(system, (str, bytes)) or system is None:
        raise DtypeError(f"system is a {type(system).__name__}; it must be a fit, a solver, or Xi (*batch, n, n)")
    Xi = as_array(getattr(system, "Xi", system), "Xi")
    if Xi.ndim < 2 or Xi.shape[-1] != Xi.shape[-2]:
        raise ShapeError(f"Xi has shape {Xi.shape}; Xi must be (*batch, n, n)")
    if not Xi.size:
        raise ShapeError(f"Xi has shape {Xi.shape}; it holds no system")
    check_finite(Xi, "Xi")
    n = Xi.shape[-1]
    lam = np.linalg.eigvals(Xi.reshape(-1, n, n)).astype(complex)
    if not np.isfinite(lam).all():
        raise NonFiniteError("Xi has eigenvalues past the largest float")
    return list(lam), np.full((n, 2, 2), np.inf)


def _draw_region(axes: Axes, x: complex, covariance: Array, level: float, colour: str) -> None:
    plane, line = (np.sqrt(chdtri(dof, 1 - level)) for dof in (2, 1))
    if x.imag == 0:
        width = line * np.sqrt(max(covariance[0, 0], 0.0))
        axes.errorbar(x.real, 0.0, xerr=width, color=colour, capsize=3, lw=1.2)
        return
    sizes, directions = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    minor, major = 2 * plane * np.sqrt(np.maximum(sizes, 0.0))
    axes.add_patch(Ellipse((x.real, x.imag), major, minor, angle=angle, fc=(colour, 0.2), ec=colour, lw=1.0))


def _scale_plane(axes: Axes, lam: Array, unclear: Array) -> None:
    """Scale the axes; unclear: which real parts may have either sign within their errors."""
    if not lam.imag.any():
        axes.set(ylim=(-1.0, 1.0), yticks=[0.0])
    clear = np.abs(lam.real[(lam.real != 0) & ~unclear])
    if len(clear) and clear.max() > WIDE * clear.min():
        least = max(clear.min(), clear.max() * 1e-30)  # 30 decades; more overflow in matplotlib
        axes.set_xscale("symlog", linthresh=10.0 ** np.floor(np.log10(least)))
        axes.autoscale_view()


def _count_hidden(axes: Axes, lam: Array) -> None:
    """Write the number of eigenvalues beside markers that cover each other."""
    places = axes.transLimits.transform(axes.transScale.transform(np.c_[lam.real, lam.imag]))
    left = list(range(len(lam)))
    while left:
        near = [i for i in left if np.abs(places[i] - places[left[0]]).max() < CLOSE]
        left = [i for i in left if i not in near]
        if len(near) > 1:
            at = (lam[near[0]].real, lam[near[0]].imag)
            axes.annotate(f"{len(near)}x", at, (4, 4), textcoords="offset points", fontsize="small", color=COLOURS[0])
