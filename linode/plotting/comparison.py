"""Methods side by side: error against time, or time against size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from ..errors import DtypeError, OptionError
from .theme import COLOURS, DASHES, LARGEST, MARKERS, add_labels, add_legend, check_text, make_axes
from .values import Array, is_number

WORDS = {"seconds": "time (s)", "n": "number of states n", "T": "number of times T", "method": "method"}
REFERENCE = "0.45"  # grey
EPS = float(np.finfo(float).eps)
MOST_TICKS = 8  # sizes up to which each has a tick of its own


def plot_comparison(
    rows: Iterable[Mapping[str, Any]],
    ax: Axes | FigureBase | None = None,
    *,
    x: str = "seconds",
    y: str = "error",
    by: str = "method",
    band: tuple[str, str] | None = None,
    names: Sequence[str] | None = None,
    reference: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> Axes:
    """Points of each method by time and error on logarithmic axes; those of one method are joined, in order of x.

    Also time against n or T: x="n", y="seconds". Rows without a finite value are left out, and the legend says so. A
    value of 0, such as the error of an exact result, is drawn half a decade below the smallest of the others, with an
    arrow, as a logarithmic axis has no 0.

    Args:
        rows: for each measurement a mapping such as {"method": "eig", "seconds": 1e-3, "error": 2e-15}.
        ax: matplotlib axes, or a figure, which gets new axes; None: pyplot's current axes if they are empty, else a new
            figure of pyplot's. Axes become logarithmic.
        x, y: keys of the values drawn, numbers of at least 0; None or NaN where there is none.
        by: key of the name of a row.
        band: keys of the lower and the upper edge of y, such as quartiles; None: no bands.
        names: names to draw, in the order of styles, so that several plots agree; None: all, in the order of rows.
        reference: name whose rows are a limit, drawn as a grey dashed line.
        xlabel, ylabel: of the axes, with units; None: of the keys.

    Raises:
        OptionError: there are no rows, a row lacks a key, a value is negative.
        DtypeError: rows, a value or ax are of a type that cannot be used.

    Example:
        >>> from linode.plotting import plot_comparison
        >>> rows = [
        ...     {"method": "linode", "seconds": 1.3e-3, "error": 1e-15},
        ...     {"method": "dopri5", "seconds": 2.1, "error": 3e-8},
        ... ]
        >>> ax = plot_comparison(rows)
        >>> ax.get_xlabel(), ax.get_xscale()
        ('time (s)', 'log')
    """
    check_text(x=x, y=y, by=by, reference=reference, xlabel=xlabel, ylabel=ylabel)
    edges = () if band is None else band
    if not isinstance(edges, (tuple, list)) or len(edges) not in (0, 2):
        raise OptionError(f"band must be None or two keys, got {band!r}")
    table = _table(rows, by, (x, y, *edges))
    order = list(table) if names is None else list(names)
    unknown = [name for name in order if not isinstance(name, str)]
    if unknown:
        raise DtypeError(f"names must be texts, got {unknown[0]!r}")
    points = {name: np.array(table.get(name, []), float).reshape(-1, 2 + len(edges)) for name in order}
    usable = {name: _usable(values) for name, values in points.items()}
    axes, is_own = make_axes(ax, height=4.2)
    joins = any(len(values) > 1 for values in usable.values())
    floors = [_floor([values[:, i] for values in usable.values()]) for i in (0, 1)]
    handles, missing, has_zeros = [], [], False
    for i, name in enumerate(order):
        values = usable[name]
        if not len(values):
            missing += [name] if name in table else []
            continue
        style = _style(i, name == reference, joins)
        is_zero = values[:, :2] == 0
        places = np.where(is_zero, floors, values[:, :2])
        axes.plot(*places.T, zorder=2.5, **style)
        for axis, direction in ((0, (-14, 0)), (1, (0, -14))):
            for place in places[is_zero[:, axis]]:
                has_zeros = True
                arrow = {"arrowstyle": "->", "color": style["color"], "shrinkA": 0, "shrinkB": 3}
                axes.annotate(
                    "", place + 0.0, direction, textcoords="offset points", arrowprops={**arrow, "arrowstyle": "<-"}
                )
        if edges:
            low, high = np.maximum(values[:, 2:].T, floors[1])
            axes.fill_between(places[:, 0], low, high, color=style["color"], alpha=0.15, lw=0)
        handles.append(Line2D([], [], label=name, **style))
    axes.set(xscale="log", yscale="log")
    drawn = np.concatenate([np.zeros((0, 2)), *(line.get_xydata() for line in axes.lines)])  # of earlier calls too
    _make_ticks(axes.xaxis, axes.get_xlim(), drawn[:, 0])
    _make_ticks(axes.yaxis, axes.get_ylim(), drawn[:, 1])
    axes.grid(which="major", color="0.88", lw=0.6)
    axes.set_axisbelow(True)
    add_labels(axes, *(WORDS.get(key, key) if given is None else given for key, given in ((x, xlabel), (y, ylabel))))
    notes = [f"no value: {', '.join(missing)}"] if missing else []
    notes += ["arrow: the value is 0"] if has_zeros else []
    if handles or notes:
        add_legend(axes, handles, is_own=is_own, title="\n".join(notes))
    return axes


def _table(rows: Any, by: str, keys: tuple[str, ...]) -> dict[str, list[list[float]]]:
    """Values of each name, in the order in which names first occur."""
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DtypeError(f"rows must be a list of mappings, one for each measurement, got {type(rows).__name__}")
    table: dict[str, list[list[float]]] = {}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DtypeError(f"rows[{i}] must be a mapping with {by!r} and {', '.join(map(repr, keys))}, got {row!r}")
        for key in (by, *keys):
            if key not in row:
                raise OptionError(f"rows[{i}] has no {key!r}, only {', '.join(map(repr, row)) or 'nothing'}")
        table.setdefault(str(row[by]), []).append([_value(row[key], f"rows[{i}][{key!r}]") for key in keys])
    if not table:
        raise OptionError("rows is empty")
    return table


def _value(x: Any, name: str) -> float:
    if x is None:
        return float("nan")
    if not is_number(x):
        try:
            x = x.item()  # a tensor or an array of one number
        except (AttributeError, ValueError, RuntimeError):
            raise DtypeError(f"{name} must be a number, got {x!r}") from None
    if not is_number(x):
        raise DtypeError(f"{name} must be a number, got {x!r}")
    if x < 0:
        raise OptionError(f"{name} is {x!r}; on a logarithmic axis it must be at least 0")
    return float(x)


def _usable(values: Any) -> Any:
    """Rows with finite values, in order of x."""
    values = values[(values < LARGEST).all(1)]
    return values[np.argsort(values[:, 0], kind="stable")]


def _floor(columns: list[Any]) -> float:
    """The place where 0 is drawn: half a decade below the smallest positive value."""
    values = np.concatenate(columns)
    positive = values[values > 0]
    return float(positive.min() / np.sqrt(10.0)) if len(positive) else EPS


def _make_ticks(axis: Axis, limits: tuple[float, float], places: Array) -> None:
    """Ticks at sizes such as n; at round numbers within a decade; else at powers of ten."""
    sizes = np.unique(places)
    if 1 < len(sizes) <= MOST_TICKS and _are_sizes(sizes):
        axis.set_ticks(sizes.tolist(), [f"{x:.0f}" for x in sizes])
        axis.set_minor_locator(NullLocator())
    elif limits[1] < 10 * limits[0]:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())


def _are_sizes(x: Array) -> bool:
    """Whether x are whole numbers, far enough apart to write each, and not all powers of ten."""
    if x[0] < 1 or x[-1] >= 1e5 or (x != np.round(x)).any() or (x[1:] < 1.4 * x[:-1]).any():
        return False
    return bool((np.log10(x) != np.round(np.log10(x))).any())


def _style(i: int, is_reference: bool, joins: bool) -> dict[str, Any]:
    if is_reference:
        return {"color": REFERENCE, "ls": DASHES[1], "lw": 1.2}
    line = {"ls": "-" if joins else "", "ms": 5.5, "mew": 0, "lw": 1.4}
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], **line}
