"""How does the time of a step grow with n, with T, and with the number of systems? One picture each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.contenders import LIMIT
from linode.plotting import plot_comparison

NAMES = ("linode", "lean eig", "usual eig", "matrix_exp", "dopri5", "dopri8", LIMIT)  # a style each, in every picture


def draw(sweeps: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    paths = []
    for axis, sweep in sweeps.items():
        rows = [
            {"method": row["contender"], "size": point["size"], "ms": row["median_ms"], "low": low, "high": high}
            for point in sweep["points"]
            for row in point["rows"]
            if not row["note"]
            for low, high in [row["quartiles_ms"]]
        ]
        figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=150)
        axes = plot_comparison(
            rows,
            figure.subplots(),
            x="size",
            y="ms",
            band=("low", "high"),
            names=NAMES,
            reference=LIMIT,
            xlabel=sweep["label"],
            ylabel="forward and backward, ms",
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.get_legend().set(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        paths.append(folder / f"{stem}-time-against-{axis}.png")
        figure.savefig(paths[-1])
    return paths
