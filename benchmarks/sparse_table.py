"""Results of the large sparse systems: for machines (JSON), in a Markdown table, and a few lines to be printed."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.sparse import ACCURATE, PEERS, SparseRow
from benchmarks.sparse_systems import System

INTRODUCTION = """# Large sparse systems

`python -m benchmarks --workload "sparse-*"`. Every contender runs in a process of its own. They take turns, one timed
call in a turn, in random order, and are stopped after the limit. linode plans anew in every call. Peers
are asked for a relative tolerance of 1e-8 (`expm_multiply` has none), and count with an error below 1e-5. Errors:
of z the largest |error of z(t_i)| / |z(t_i)| at some times, against closed forms, sine transforms and Poisson sums; of
dz0 relative; of dXi along Xi and along the identity. Products: of Xi with a vector + of Xi^H with a vector + solves.
Memory: what the first call holds at most beyond what was there before. A step is forward and the gradients with
respect to the entries of Xi and to z0. CPU: of the process, all threads; ratios are those of the medians.
"""
HEAD = (
    "contender",
    "median ms",
    "quartiles",
    "CPU ms",
    "ratio",
    "products",
    "MB",
    "error z",
    "error dz0",
    "error dXi",
    "how",
)
TARGETS = ("system", "what", "measured", "target", "met")
COUNTS = ("n_products", "n_transposed", "n_solves")


def section(
    system: System, n: int | None, rows: dict[str, list[SparseRow]], conditions: dict[str, Any], limit: float
) -> dict[str, Any]:
    """What is kept of one system: rows by mode, the best of the peers, the factor of a gradient."""
    forward, step = rows["forward"], rows["step"][0]
    found: dict[str, Any] = {
        "description": system.describe(n),
        "rate": system.rate_of(n),
        "conditions": conditions,
        "limit_s": limit,
        "modes": {mode: [entry(row, own[0]) for row in own] for mode, own in rows.items()},
        "targets": {"ratio": system.target, "factor": system.most_factor, "bytes": system.most_bytes},
    }
    own = forward[0].median if forward[0].samples else None
    if own is not None and any(row.contender in PEERS for row in forward):
        found["best"] = best_of(forward[1:], own, limit)
    if own is not None and step.samples:
        found["factor"] = step.median / own
    return found


def entry(row: SparseRow, own: SparseRow) -> dict[str, Any]:
    values: dict[str, Any] = {"contender": row.contender, "note": row.note, "errors": row.errors}
    if row.samples:
        values |= {
            "median_ms": 1e3 * row.median,
            "quartiles_ms": [1e3 * x for x in row.quartiles],
            "cpu_ms": 1e3 * median(row.cpu_samples),
            "n_samples": len(row.samples),
            "ratio": row.median / own.median if own.samples else None,
            "peak_bytes": row.peak_bytes,
            "process_bytes": row.process_bytes,
            "details": row.details,
        }
    return values


def best_of(rows: list[SparseRow], own: float, limit: float) -> dict[str, Any]:
    """The fastest peer that is accurate; where there is none, the ratio that all of them exceed."""
    peers = [row for row in rows if row.contender in PEERS and row.samples and row.errors["z"] <= ACCURATE]
    if not peers:
        return {"contender": None, "ratio": limit / own}
    best = min(peers, key=lambda row: row.median)
    return {"contender": best.contender, "ratio": best.median / own}


def told(found: dict[str, Any]) -> str:
    """One line a row, and the targets."""
    lines = []
    for mode, rows in found["modes"].items():
        lines.append(f"  {mode}")
        for row in rows:
            name, time, quartiles, cpu, ratio, products, megabytes, *errors, how = _cells(row)
            if row["note"]:
                lines.append(f"    {name:30s} {row['note']}")
                continue
            worst = f"errors {' '.join(x for x in errors if x)}"
            lines.append(
                f"    {name:30s} {time:>8s} ms ({quartiles}), CPU {cpu:>6s}  ratio {ratio:6s} products {products:12s} "
                f"{megabytes:>6s} MB  {worst}  {how}".rstrip()
            )
    return "\n".join([*lines, *(f"  {' '.join(line)}" for line in _targets("", found))])


def markdown(results: dict[str, Any]) -> str:
    systems = results["workloads"]
    lines = [line for name, found in systems.items() for line in _targets(name, found)]
    parts = [INTRODUCTION, "## Targets", _table(TARGETS, lines)]
    for name, found in systems.items():
        c = found["conditions"]
        parts += [
            f"## {name}: {found['description']}",
            f"{c['date']}, {c['device']}, {c['threads']} threads, torch {c['torch']}, scipy {c['scipy']}, "
            f"at most {c['rounds']} rounds, limit {found['limit_s']:g} s.",
        ]
        for mode, rows in found["modes"].items():
            parts += [f"### {mode}", _table(HEAD, [_cells(row) for row in rows])]
    return "\n\n".join(parts) + "\n"


def _targets(name: str, found: dict[str, Any]) -> list[list[str]]:
    lines, targets = [], found["targets"]
    if "best" in found and targets["ratio"] is not None:
        best, ratio = found["best"], found["best"]["ratio"]
        what = (
            f"time of {best['contender']} / linode"
            if best["contender"]
            else "limit / linode: no peer is accurate within it"
        )
        is_met = "yes" if ratio >= targets["ratio"] else "NO"
        lines.append([name, what, f"{ratio:.3g}", f">= {targets['ratio']:.3g}", is_met])
    if "factor" in found:
        is_met = "yes" if found["factor"] <= targets["factor"] else "NO"
        lines.append([name, "step / forward", f"{found['factor']:.3g}", f"<= {targets['factor']:g}", is_met])
    if targets["bytes"] is not None:
        for mode, rows in found["modes"].items():
            n_bytes = rows[0].get("process_bytes")
            if n_bytes is not None:
                is_met = "yes" if n_bytes <= targets["bytes"] else "NO"
                measured, most = f"{n_bytes / 1e9:.3g} GB", f"<= {targets['bytes'] / 1e9:g} GB"
                lines.append([name, f"memory of the process, {mode}", measured, most, is_met])
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    if row["note"] or "median_ms" not in row:
        return [row["contender"], row["note"], *[""] * (len(HEAD) - 2)]
    low, high = row["quartiles_ms"]
    errors, details = row["errors"], row["details"]
    own = [str(details[key]) for key in COUNTS if details.get(key)]
    return [
        row["contender"],
        f"{row['median_ms']:.4g}",
        f"{low:.4g} .. {high:.4g}",
        f"{row['cpu_ms']:.4g}",
        f"{row['ratio']:.3g}" if row["ratio"] else "",
        " + ".join(own),
        f"{row['peak_bytes'] / 1e6:.3g}" if row["peak_bytes"] is not None else "",
        *(f"{errors[key]:.1e}" if key in errors else "" for key in ("z", "dz0", "dXi")),
        str(details.get("method", "")),
    ]


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
