"""How does the time of a step grow with n, with T, and with the number of systems? One picture each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.contenders import LIMIT

matplotlib.use("Agg")

STYLES = {  # colour and marker stay with a contender in every picture
    "linode": ("#c1121f", "o"),
    "lean eig": ("#1d6fa3", "s"),
    "usual eig": ("#6cb4d9", "D"),
    "matrix_exp": ("#588157", "^"),
    "dopri5": ("#8d5fa8", "v"),
    "dopri8": ("#c9a4d6", "P"),
    LIMIT: ("#777777", ""),
}


def draw(sweeps: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    paths = []
    for axis, sweep in sweeps.items():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=150)
        axes = figure.subplots()
        for name, (colour, marker) in STYLES.items():
            points = [(point["size"], row) for point in sweep["points"] for row in point["rows"]]
            points = [(size, row) for size, row in points if row["contender"] == name and not row["note"]]
            if not points:
                continue
            sizes, rows = zip(*points)
            low, high = zip(*(row["quartiles_ms"] for row in rows))
            style = "--" if name == LIMIT else "-"
            width, order = (2.2, 3) if name == "linode" else (1.4, 2)
            times = [row["median_ms"] for row in rows]
            axes.plot(sizes, times, style, color=colour, marker=marker, ms=4.5, lw=width, zorder=order, label=name)
            axes.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(xscale="log", yscale="log", xlabel=sweep["label"], ylabel="forward and backward, ms")
        every_size = [point["size"] for point in sweep["points"]]
        if axis != "T":  # powers of ten are best left as such
            axes.set_xticks(every_size, [str(size) for size in every_size], minor=False)
            axes.minorticks_off()
        axes.grid(which="major", color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False)
        paths.append(folder / f"{stem}-time-against-{axis}.png")
        figure.savefig(paths[-1])
    return paths
