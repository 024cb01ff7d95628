"""Colours, line styles, markers, axes, legends and text of all plots.

Colours are those of Okabe & Ito (2008), which people with colour-blindness can distinguish, without their yellow, which
is hard to see on white. A style is a colour with a dash pattern or a marker, so that a plot can be read in grey too.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.text import Text

from ..display import numbered
from ..errors import DtypeError, OptionError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))  # 7 colours, 4 dashes: 28 pairs
MARKERS = ("o", "s", "^", "D", "v", "X", "<", "P", ">")
INK, STABLE = "0.35", "0.94"
LARGEST = 1e300  # larger values overflow in matplotlib's arithmetic
MOST_ROWS, MOST_INSIDE = 20, 8  # rows of a legend beside the axes, and of one over the data, in one column


def make_axes(ax: Any, height: float = 3.8, width: float = 7.0) -> tuple[Axes, bool]:
    """The axes to draw into, and whether they were made here, so that their scales and their layout are too.

    `ax` are axes, or a figure, which gets new ones. For None they are pyplot's current axes if nothing is drawn in
    these, else those of a new figure of pyplot's.
    """
    if ax is None:
        pyplot = importlib.import_module("matplotlib.pyplot")
        figure = pyplot.gcf() if pyplot.get_fignums() else None
        if figure is not None and figure.axes and not figure.gca().has_data() and figure.gca().name == "rectilinear":
            return figure.gca(), False
        ax = pyplot.figure(figsize=(width, height)) if figure is None or figure.axes else figure
    if isinstance(ax, FigureBase):
        if isinstance(ax, Figure) and ax.get_layout_engine() is None:
            ax.set_layout_engine("constrained")  # which makes room for a legend beside the axes
        axes = ax.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        return axes, True
    if not isinstance(ax, Axes):
        raise DtypeError(f"ax is a {type(ax).__name__}; it must be matplotlib axes, such as those of fig.subplots()")
    if ax.name != "rectilinear":
        raise DtypeError(f"ax is {ax.name}; it must be axes with an x and a y, such as those of fig.subplots()")
    return ax, False


def add_legend(axes: Axes, handles: list[Any], *, is_own: bool, title: str = "", points: Any = None) -> None:
    """Add a legend: beside the axes of an own figure, or over the data where it hides least.

    A long legend is beside given axes too if the figure has a layout that makes room. Over the data matplotlib chooses
    the place, or, where `points` (N, 2) are given, the legend hides the fewest of these.
    """
    names = [str(handle.get_label()) for handle in handles]
    place: dict[str, Any] = {"loc": "best" if points is None else _emptiest_place(axes, points, names)}
    has_room = is_own or (len(handles) > MOST_INSIDE and axes.figure.get_layout_engine() is not None)
    if has_room:
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    legend = axes.legend(
        handles,
        ["x"] * len(handles),  # matplotlib would omit names that start with _
        title=title or None,
        frameon=not has_room,
        framealpha=0.8,
        edgecolor="none",
        fontsize="small",
        title_fontsize="small",
        handlelength=2.4,
        ncols=1 + (len(handles) - 1) // (MOST_ROWS if has_room else MOST_INSIDE),
        **place,
    )
    legend.set(alignment="left")
    for text, name in zip(legend.get_texts(), names):
        write(text, name)
    write(legend.get_title(), title)


def _emptiest_place(axes: Axes, points: Any, names: list[str]) -> str:
    """The place where a legend of about the size of these names hides the fewest points; corners first."""
    x, y = (axes.transData + axes.transAxes.inverted()).transform(points).T
    # sizes in points: a row of small text is 12.5 high, a letter 4.5 wide
    width, height = np.multiply(axes.bbox.size, 72.0 / axes.figure.get_dpi())
    wide, high = (40.0 + 4.5 * max(map(len, names), default=0)) / width, (8.0 + 12.5 * len(names)) / height
    left = {"right": 1 - wide, "left": 0.0, "center": (1 - wide) / 2}
    low = {"upper": 1 - high, "lower": 0.0, "center": (1 - high) / 2}
    places = [(v, h) for h in left for v in low]
    places.sort(key=lambda place: place.count("center"))

    def n_hidden(place: tuple[str, str]) -> int:
        x0, y0 = left[place[1]], low[place[0]]
        return int(((x >= x0) & (x <= x0 + wide) & (y >= y0) & (y <= y0 + high)).sum())

    best = min(places, key=n_hidden)
    return "center" if best == ("center", "center") else " ".join(best)


def add_labels(axes: Axes, x: str, y: str) -> None:
    write(axes.xaxis.label, x)
    write(axes.yaxis.label, y)


def write(text: Text, words: str) -> None:
    """Set the text as it is, without mathtext between dollar signs or TeX."""
    text.set_text(words)
    text.set_parse_math(False)
    text.set_usetex(False)


def check_text(**named: Any) -> None:
    for name, value in named.items():
        if value is not None and not isinstance(value, str):
            raise DtypeError(f"{name} must be text, got {type(value).__name__}")


def make_names(name: str, labels: Any, count: int, what: str) -> list[str]:
    """The labels, checked to be one for each; None: z1, z2, ... of states, y1, y2, ... of channels."""
    if labels is None:
        return numbered({"state": "z", "channel": "y"}[what], count)
    if isinstance(labels, str):
        labels = [labels]
    if not isinstance(labels, (Sequence, np.ndarray)) or not all(isinstance(x, str) for x in labels):
        raise DtypeError(f"{name} must be a list of texts, one for each {what}, got {labels!r}")
    if len(labels) != count:
        raise OptionError(f"{name} has {len(labels)} texts, but there are {count}: one for each {what} is needed")
    return [str(x) for x in labels]
