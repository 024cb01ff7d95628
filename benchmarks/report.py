"""What was measured, for machines (JSON) and for readers (a Markdown table)."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import forced, job
from benchmarks.harness import Row, Settings
from benchmarks.workloads import LONG, LONG_TENTH, MOST_PER_POINT, Workload

ERRORS = ("z", "dXi", "dz0")
HOW = """All contenders run in one process. In every round each has one timed call, in an order drawn anew; whoever is
slow takes part in fewer rounds. "Beside a network": a small network's forward and backward run before every timed call.
Ratio: time of the row over that of linode; target: the least ratio hoped for. `limit` is no solver but the least that
any does: one product of (T, n) by (n, n) and one n x n exponential for forward, three of each for a step. `floor` is no
solver either but an autograd function that does nothing, with the same shapes in and out. A step is forward and the
gradients of Xi and z0, the solver built anew. Memory: the most that one call holds at once. Errors: relative, against
ball arithmetic at a few times, the largest over the seeds; those of the gradients are for a loss at these times."""


def conditions(settings: Settings) -> dict[str, Any]:
    is_cuda = torch.device(settings.device).type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(settings.device) if is_cuda else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "rounds": settings.n_rounds,
        "order_seed": settings.order_seed,
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())


def entry(workload: Workload, rows: list[Row], mode: str) -> list[dict[str, Any]]:
    """The rows of one table, each with its ratio to linode, the first."""
    entries = []
    for row in rows:
        values: dict[str, Any] = {"contender": row.contender, "note": row.note, "errors": row.errors}
        if row.samples:
            values |= {
                "median_ms": 1e3 * row.median,
                "quartiles_ms": [1e3 * x for x in row.quartiles],
                "n_samples": len(row.samples),
                "ratio": row.median / rows[0].median if rows[0].samples else None,
                "target": workload.target(row.contender, mode) if row is not rows[0] else None,
                "peak_bytes": row.peak_bytes,
                "peak_in_outputs": row.peak_bytes / workload.output_bytes if row.peak_bytes is not None else None,
            }
        entries.append(values)
    return entries


def load(path: Path) -> dict[str, Any]:
    """Results so far: a run of some workloads replaces these and keeps the others."""
    return json.loads(path.read_text()) if path.exists() else {"workloads": {}, "sweeps": {}}


def save(results: dict[str, Any], folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(markdown(results))


def told(results: dict[str, Any], name: str) -> str:
    """Times, ratios and errors of one workload just measured, to be printed."""
    if name == "job":
        return _table(JOB_HEAD, [_job_cells(row) for row in results["job"]["rows"]])
    if name in results["workloads"]:
        tables = results["workloads"][name]["modes"]
    else:
        tables = {
            f"{axis} = {point['size']}": point["rows"]
            for axis, sweep in results["sweeps"].items()
            for point in sweep["points"]
        }
    return "\n".join(f"  {mode}\n{_told(rows)}" for mode, rows in tables.items())


def _told(rows: list[dict[str, Any]]) -> str:
    """One line a row: name, milliseconds, quartiles, ratio, target, largest error."""
    lines = []
    for row in rows:
        name, *cells = _cells(row)
        if row["note"]:
            lines.append(f"    {name:18s} {row['note']}")
            continue
        median, quartiles, ratio, target = cells[:4]
        error = f"error {max(row['errors'].values()):.1e}" if row["errors"] else ""
        lines.append(f"    {name:18s} {median:>8s} ms ({quartiles})  ratio {ratio:6s} {target:8s} {error}".rstrip())
    return "\n".join(lines)


# ---- Markdown ----------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    parts = ["# Benchmarks", HOW, "## Targets", _table(TARGET_HEAD, _targets(results))]
    for name, section in results["workloads"].items():
        parts += [f"## {name}: {section['description']}", _conditions(section)]
        for mode, rows in section["modes"].items():
            parts += [f"### {mode}", _table(HEAD, [_cells(row) for row in rows])]
    if "job" in results:
        section = results["job"]
        parts += [f"## job: {section['description']}", _conditions(section)]
        parts.append(_table(JOB_HEAD, [_job_cells(row) for row in section["rows"]]))
    return "\n\n".join(parts) + "\n"


HEAD = ("contender", "median ms", "quartiles", "ratio", "target", "memory MB", *(f"error {key}" for key in ERRORS))
TARGET_HEAD = ("workload", "mode", "what", "measured", "target", "met")
JOB_HEAD = (
    "contender",
    "total s",
    "ratio",
    "ms a step",
    "steps run",
    "error of first gradient",
    f"loss after {job.N_COMPARED} steps",
    "last loss",
)


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _conditions(section: dict[str, Any]) -> str:
    c = section["conditions"]
    order = f"in random order, seed {c['order_seed']}" if "order_seed" in c else "each in the same order"
    return f"{c['date']}, {c['device']}, {c['threads']} threads, torch {c['torch']}, {c['rounds']} rounds {order}."


def _cells(row: dict[str, Any]) -> list[str]:
    if row["note"]:
        return [row["contender"], row["note"], *[""] * (len(HEAD) - 2)]
    low, high = row["quartiles_ms"]
    target, peak = row["target"], row["peak_bytes"]
    return [
        row["contender"],
        f"{row['median_ms']:.4g}",
        f"{low:.4g} .. {high:.4g}",
        f"{row['ratio']:.3g}" if row["ratio"] else "",
        f">= {target:.3g}" if target else "",
        f"{peak / 1e6:.3g}" if peak is not None else "",
        *(f"{row['errors'][key]:.1e}" if key in row["errors"] else "" for key in ERRORS),
    ]


def _job_cells(row: dict[str, Any]) -> list[str]:
    if row.get("note"):
        return [row["contender"], row["note"], *[""] * (len(JOB_HEAD) - 2)]
    return [
        row["contender"],
        f"{row['seconds']:.3g}" + (" (extrapolated)" if row["extrapolated"] else ""),
        f"{row['ratio']:.3g}" if row["ratio"] else "",
        f"{row['ms_per_step']:.3g}",
        str(row["n_steps_run"]),
        f"{row['first_gradient_error']:.1e}",
        f"{row[f'loss_after_{job.N_COMPARED}']:.6e}",
        f"{row['last_loss']:.6e}",
    ]


def _targets(results: dict[str, Any]) -> list[list[str]]:
    """Every ratio that has a target, then the memory and the time per point of the long workload."""
    lines = []
    workloads = results["workloads"]
    for name, section in workloads.items():
        for mode, rows in section["modes"].items():
            for row in rows:
                if row.get("target") and row.get("ratio"):
                    ratio, target = row["ratio"], row["target"]
                    what = f"time of {row['contender']} / linode"
                    lines.append([name, mode, what, f"{ratio:.3g}", f">= {target:.3g}", _met(ratio >= target)])
    for mode, rows in workloads.get(LONG.name, {"modes": {}})["modes"].items():
        memory = rows[0].get("peak_in_outputs")
        if memory is not None:
            met = _met(memory <= LONG.most_memory)
            lines.append([LONG.name, mode, "memory / output", f"{memory:.3g}", f"<= {LONG.most_memory:g}", met])
        if mode in workloads.get(LONG_TENTH, {"modes": {}})["modes"]:
            short = workloads[LONG_TENTH]["modes"][mode][0]
            ratio = rows[0]["median_ms"] / short["median_ms"] / 100
            what = "time per point at T = 1e6 / at 1e4"
            lines.append([LONG.name, mode, what, f"{ratio:.3g}", f"<= {MOST_PER_POINT}", _met(ratio <= MOST_PER_POINT)])
    return lines + _irregular(results)


def _irregular(results: dict[str, Any]) -> list[list[str]]:
    """Irregular samples against uniform ones."""
    lines = []
    for name in forced.WORKLOADS:
        for mode, rows in results["workloads"].get(name, {"modes": {}})["modes"].items():
            ratio = next(row["ratio"] for row in rows if row["contender"] == forced.IRREGULAR)
            met = _met(ratio <= forced.MOST_IRREGULAR)
            lines.append([name, mode, "irregular / uniform", f"{ratio:.3g}", f"<= {forced.MOST_IRREGULAR:g}", met])
    return lines


def _met(is_met: bool) -> str:
    return "yes" if is_met else "NO"
