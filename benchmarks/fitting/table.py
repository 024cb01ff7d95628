"""Results of the fits as Markdown."""

from __future__ import annotations

from typing import Any

HEADER = (
    "| problem | contender | near the best | failed | worst ratio | error / bound | 95 % covers | CPU (ms) | note |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)
INTRODUCTION = """# Fits of linear systems

`python -m benchmarks.fitting`. Near the best: seeds with an error of at most 1.05 times that of the minimum that least
squares reach from the truth; failed: seeds that raised, or took more than 20 s; worst ratio: to that error; error /
bound: median over seeds of the error over the root mean square that the Cramer-Rao bound allows; CPU: median over seeds
of the processor's time of all threads, for linode with standard errors; 95 % covers: the share of linode's intervals
that hold the truth, over 100 seeds. Errors are those of Xi, or where the states are
not seen those of the observations without noise.

"""


def written(results: dict[str, Any]) -> str:
    where = ", ".join(f"{key} {value}" for key, value in results["conditions"].items())
    lines = [INTRODUCTION, f"Measured on: {where}.\n\n", HEADER]
    for name, rows in results["problems"].items():
        for i, row in enumerate(rows):
            lines.append(f"| {name if i == 0 else ''} | {row['contender']} | {' | '.join(cells(row))} |\n")
    lines.append("\n| series | options | forecast error / standard deviation | hoped for | status | CPU (s) |\n")
    lines.append("|---|---|---|---|---|---|\n")
    for row in results["series"]:
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        reached = "" if row["error"] <= row["target"] else " (missed)"
        lines.append(
            f"| {row['series']} | {options} | {row['error']:.3f} | {row['target']}{reached} | {row['status']} "
            f"| {row['cpu_s']:.2f} |\n"
        )
    return "".join(lines)


def cells(row: dict[str, Any]) -> list[str]:
    if "n_seeds" not in row:
        return ["", "", "", "", "", "", row["note"]]
    note = f"{row['notes'][0]}{' ...' if len(row['notes']) > 1 else ''}" if row["notes"] else ""
    return [
        f"{row['n_near']} of {row['n_seeds']}",
        str(row["n_failed"]),
        number(row["worst_ratio"]),
        number(row["error_over_bound"]),
        f"{100 * row['coverage']:.1f} %" if "coverage" in row else "",
        number(row["cpu_ms"]),
        note.replace("|", "/").replace("\n", " "),
    ]


def number(x: float | None) -> str:
    if x is None:
        return ""
    return f"{x:.3g}" if x < 1e6 else f"{x:.0e}"
