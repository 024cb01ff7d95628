"""mkdocs hook: tables and pictures of what was measured, made from benchmarks/results/*.json when the pages are built.

A line `<!-- measured: methods step -->` of a page becomes that table; `measured/*.png` are the pictures. No figure of
them is written by hand, so none is older than the results.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks/results"
MARKER = re.compile(r"^<!-- measured: (.+?) -->$", re.MULTILINE)
METHODS = ("eig", "chain", "schur", "taylor", "propagator")
PEERS = ("lean eig", "usual eig", "matrix_exp", "dopri5", "lsim", "torch loop")
SPARSE_PEERS = ("expm_multiply", "DOP853", "BDF", "LSODA", "dopri5")
INACCURATE = 1e-5  # relative error of z beyond which a peer is not counted
COLOURS = {  # Okabe & Ito (2008)
    "linode": "#000000",
    "linode eig": "#0072B2",
    "linode chain": "#56B4E9",
    "linode schur": "#CC79A7",
    "linode taylor": "#009E73",
    "linode propagator": "#E69F00",
    "lean eig": "#D55E00",
    "matrix_exp": "#999999",
    "dopri5": "#F0E442",
}


def results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def medians(workload: dict[str, Any], mode: str) -> dict[str, float]:
    """Milliseconds by contender, of those that ran."""
    rows = workload["modes"].get(mode, [])
    return {row["contender"]: row["median_ms"] for row in rows if "median_ms" in row}


def methods_table(mode: str) -> str:
    """A row for each problem: what `auto` takes, and each method by name; the fastest method is bold."""
    lines = ["| problem | auto | " + " | ".join(METHODS) + " |", "|---|" + "---:|" * (len(METHODS) + 1)]
    for workload in results("cpu")["workloads"].values():
        times = medians(workload, mode)
        own = {name: times[f"linode {name}"] for name in METHODS if f"linode {name}" in times}
        if not own:
            continue
        best = min(own, key=own.__getitem__)
        cells = [f"**{milliseconds(own[m])}**" if m == best else milliseconds(own.get(m)) for m in METHODS]
        lines.append(f"| {_named(workload)} | {milliseconds(times['linode'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def peers_table(mode: str) -> str:
    """A row for each problem: linode and the code that people write instead; the fastest is bold."""
    workloads = [x for x in results("cpu")["workloads"].values() if "linode" in medians(x, mode)]
    peers = [name for name in PEERS if any(name in medians(x, mode) for x in workloads)]
    lines = [f"| problem | linode | {' | '.join(peers)} |", "|---|" + "---:|" * (len(peers) + 1)]
    for workload in workloads:
        times = medians(workload, mode)
        best = min((name for name in times if name in ("linode", *peers)), key=times.__getitem__)
        cells = [
            f"**{milliseconds(times[x])}**" if x == best else milliseconds(times.get(x)) for x in ("linode", *peers)
        ]
        lines.append(f"| {_named(workload)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def job_table() -> str:
    """500 steps of Adam."""
    job = results("cpu")["job"]
    lines = ["| | seconds | error of the first gradient |", "|---|---:|---:|"]
    for row in job["rows"]:
        told = " (extrapolated)" if row["extrapolated"] else ""
        lines.append(f"| {row['contender']} | {row['seconds']:.3g}{told} | {row['first_gradient_error']:.0e} |")
    return "\n".join(lines)


def errors_table(mode: str) -> str:
    """Relative errors of the gradient of Xi against ball arithmetic: the largest over all problems in float64."""
    worst: dict[str, float] = {}
    for workload in results("cpu")["workloads"].values():
        if "float32" in workload["description"]:
            continue
        for row in workload["modes"].get(mode, []):
            error = row["errors"].get("dXi")
            if error is not None and "median_ms" in row:
                worst[row["contender"]] = max(worst.get(row["contender"], 0.0), error)
    rows = [f"| {name} | {worst[name]:.0e} |" for name in ("linode", *PEERS) if name in worst]
    return "\n".join(["| | largest relative error of dL/dXi |", "|---|---:|", *rows])


def fits_table() -> str:
    """A row for each problem: how many of the seeds come near the best that least squares can do, and the time."""
    names = ("linode", "PyDMD BOPDMD", "PyDMD VarProDMD", "pysindy")
    lines = [f"| problem | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for problem, rows in results("fit")["problems"].items():
        found = {row["contender"]: row for row in rows if "n_near" in row}
        cells = [
            f"{row['n_near']} of {row['n_seeds']}, {row['cpu_ms']:.3g} ms" if (row := found.get(name)) else ""
            for name in names
        ]
        lines.append(f"| {problem} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- large sparse systems --------------------------------------------------------------------------------------------


def sparse_rows(mode: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by description of the system and by contender."""
    systems = results("sparse")["workloads"].values()
    return {_described(x): {row["contender"]: row for row in x["modes"].get(mode, [])} for x in systems}


def sparse_peers_table() -> str:
    """A row for each system: linode and its peers, the fastest of those that are accurate is bold."""
    lines = [f"| system | linode | {' | '.join(SPARSE_PEERS)} |", "|---|" + "---:|" * (len(SPARSE_PEERS) + 1)]
    for label, rows in sparse_rows("forward").items():
        if len(rows) < 2:
            continue
        cells = {name: _sparse_cell(rows.get(name)) for name in ("linode", *SPARSE_PEERS)}
        counted = [name for name in cells if "median_ms" in rows.get(name, {}) and _is_accurate(rows[name])]
        best = min(counted, key=lambda name: rows[name]["median_ms"], default=None)
        shown = [f"**{cell}**" if name == best else cell for name, cell in cells.items()]
        lines.append(f"| {_in_table(label)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def sparse_methods_table() -> str:
    """A row for each system: what `auto` takes, and the two methods by name with what they count."""
    lines = [
        "| system | auto takes | faber (ms) | products | rational (ms) | solves |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for label, rows in sparse_rows("forward").items():
        faber, rational = (rows.get(f"linode {name}", {}) for name in ("faber", "rational"))
        own = rows["linode"].get("details", {})
        times = {
            name: row["median_ms"] for name, row in (("faber", faber), ("rational", rational)) if "median_ms" in row
        }
        best = min(times, key=times.__getitem__, default="")
        cells = [
            f"**{milliseconds(times[x])}**" if x == best else milliseconds(times.get(x)) for x in ("faber", "rational")
        ]
        counts = [row.get("details", {}).get(key, "-") for row, key in ((faber, "n_products"), (rational, "n_solves"))]
        lines.append(
            f"| {_in_table(label)} | `{own.get('method', '-')}` | {cells[0]} | {counts[0]} | {cells[1]} | {counts[1]} |"
        )
    return "\n".join(lines)


def sparse_operators_table() -> str:
    """A row for each system that is given as an operator too: products by what is known of its eigenvalues."""
    names = {"nothing known": "linode operator, nothing known", "`dissipative=True`": "linode operator, dissipative"}
    names |= {"`bounds=`": "linode operator, bounds", "entries (sparse)": "linode"}
    lines = [f"| system | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for label, rows in sparse_rows("forward").items():
        if "linode operator, bounds" in rows:
            counts = [rows.get(name, {}).get("details", {}).get("n_products", "-") for name in names.values()]
            lines.append(f"| {_in_table(label)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def sparse_gradients_table() -> str:
    """A row for each system: the factor of a gradient, errors, memory."""
    lines = [
        "| system | forward (ms) | with gradients (ms) | factor | error of z | of dL/dz0 | of dL/dXi | memory (MB) |",
        "|---|" + "---:|" * 7,
    ]
    forward = sparse_rows("forward")
    for label, rows in sparse_rows("step").items():
        row, alone = rows["linode"], forward[label]["linode"]
        if "median_ms" in row and "median_ms" in alone:
            errors = [f"{row['errors'][key]:.0e}" for key in ("z", "dz0", "dXi")]
            peak = row["peak_bytes"]
            cells = [milliseconds(alone["median_ms"]), milliseconds(row["median_ms"])]
            cells += [
                f"{row['median_ms'] / alone['median_ms']:.1f}",
                *errors,
                "-" if peak is None else f"{peak / 1e6:.0f}",
            ]
            lines.append(f"| {_in_table(label)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _described(workload: dict[str, Any]) -> str:
    """Without the number of entries."""
    kind, n, _, *rest = workload["description"].rsplit(", ", 4)
    return ", ".join([kind, n, *rest])


def _in_table(label: str) -> str:
    return label.replace("|", "&#124;")


def _sparse_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if "median_ms" not in row:
        found = re.search(r"after ([\d.]+) s", row["note"])
        return f"> {milliseconds(1e3 * float(found[1]))}" if found else "-"
    return milliseconds(row["median_ms"]) + ("" if _is_accurate(row) else f" ({row['errors']['z']:.0e})")


def _is_accurate(row: dict[str, Any]) -> bool:
    return row["errors"]["z"] <= INACCURATE


def conditions(name: str) -> str:
    """Where and when: one sentence for each set of conditions."""
    found = results(name)
    parts = (
        [found]
        if "conditions" in found
        else [
            *found["workloads"].values(),
            *found.get("sweeps", {}).values(),
            *([found["job"]] if "job" in found else []),
        ]
    )
    seen = {
        f"{x['date']}, {x['device']}, {x['threads']} threads, torch {x['torch']}"
        for x in (p["conditions"] for p in parts)
    }
    return "Measured on " + "; ".join(sorted(seen)) + "."


TABLES = {
    "methods forward": lambda: methods_table("forward"),
    "methods step": lambda: methods_table("step"),
    "peers forward": lambda: peers_table("forward"),
    "peers step": lambda: peers_table("step"),
    "errors": lambda: errors_table("step"),
    "job": job_table,
    "fits": fits_table,
    "sparse peers": sparse_peers_table,
    "sparse methods": sparse_methods_table,
    "sparse operators": sparse_operators_table,
    "sparse gradients": sparse_gradients_table,
    "conditions": lambda: conditions("cpu"),
    "conditions of sparse": lambda: conditions("sparse"),
    "conditions of fits": lambda: conditions("fit"),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    return MARKER.sub(lambda found: TABLES[found[1]](), markdown)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for name, figure in (("map", draw_map()), ("sweeps", draw_sweeps()), ("sparse", draw_sparse())):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        files.append(File.generated(config, f"measured/{name}.png", content=buffer.getvalue()))
    return files


def draw_map() -> Figure:
    """Times of a training step relative to the fastest, problem by problem."""
    workloads = [
        x for x in results("cpu")["workloads"].values() if any(f"linode {m}" in medians(x, "step") for m in METHODS)
    ]
    figure = Figure(figsize=(8, 0.5 * len(workloads) + 1.6), layout="constrained")
    axes = figure.subplots()
    for y, workload in enumerate(reversed(workloads)):
        times = medians(workload, "step")
        shown = {name: times[name] for name in COLOURS if name in times}
        fastest = min(shown.values())
        axes.axhline(y, color="0.9", lw=0.8, zorder=0)
        for name, time in shown.items():
            own = name.startswith("linode ")
            marker = {"linode": "|"}.get(name, "o" if own else "X")
            size = 16 if name == "linode" else 7
            axes.plot(
                time / fastest, y, marker, color=COLOURS[name], ms=size, mew=2 if name == "linode" else 0.6, mec="k"
            )
    axes.set(xscale="log", xlabel="time of a training step / the fastest of these")
    axes.set_yticks(range(len(workloads)), [x["description"].replace(", float64", "") for x in reversed(workloads)])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [
        Line2D([], [], ls="", marker="|" if name == "linode" else "o" if name.startswith("linode ") else "X",
               color=colour, mec="k", mew=2 if name == "linode" else 0.6, ms=12 if name == "linode" else 7,
               label="linode auto" if name == "linode" else name)
        for name, colour in COLOURS.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    return figure


def draw_sweeps() -> Figure:
    """Time of a training step against n, T and the number of systems."""
    sweeps = results("cpu")["sweeps"]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, sweep in zip(figure.subplots(1, len(sweeps)), sweeps.values(), strict=True):
        for name in ("linode", "lean eig", "matrix_exp", "dopri5"):
            points = [(p["size"], row["median_ms"]) for p in sweep["points"] for row in p["rows"]
                      if row["contender"] == name and "median_ms" in row]  # fmt: skip
            axes.plot(
                *zip(*points, strict=True),
                "-o",
                ms=4,
                color=COLOURS[name] if name != "dopri5" else "#CC79A7",
                label=name,
            )
        axes.set(xscale="log", yscale="log", xlabel=sweep["label"])
        axes.grid(color="0.9", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("training step (ms)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def draw_sparse() -> Figure:
    """Times of large sparse systems relative to linode's, system by system; arrows: stopped at the limit."""
    systems = {label: rows for label, rows in sparse_rows("forward").items() if len(rows) > 1}
    colours = dict(zip(SPARSE_PEERS, ("#D55E00", "#0072B2", "#CC79A7", "#009E73", "#F0E442"), strict=True))
    figure = Figure(figsize=(8, 0.36 * len(systems) + 1.4), layout="constrained")
    axes = figure.subplots()
    for y, rows in enumerate(reversed(systems.values())):
        axes.axhline(y, color="0.9", lw=0.8, zorder=0)
        own = rows["linode"].get("median_ms")
        for name, row in rows.items():
            if own is None or name not in colours:
                continue
            found = re.search(r"after ([\d.]+) s", row["note"])
            if "median_ms" in row:
                face = colours[name] if _is_accurate(row) else "none"
                axes.plot(row["median_ms"] / own, y, "o", mfc=face, mec="k" if face != "none" else colours[name], ms=7)
            elif found:
                axes.plot(1e3 * float(found[1]) / own, y, ">", color=colours[name], mec="k", ms=7)
    axes.axvline(1.0, color="k", lw=2)
    axes.set(xscale="log", xlabel="time / that of linode")
    axes.set_yticks(range(len(systems)), list(reversed(systems)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=8)
    handles = [Line2D([], [], ls="", marker="o", color=x, mec="k", ms=7, label=name) for name, x in colours.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    return figure


def milliseconds(time: float | None) -> str:
    """Three digits; "-" where it was refused or not run."""
    return "-" if time is None else f"{float(f'{time:.3g}'):,g}"


def _named(workload: dict[str, Any]) -> str:
    return workload["description"].replace(", float64", "").replace("1000000", "1,000,000").replace("10000 ", "10,000 ")
